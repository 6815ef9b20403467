//! What requests carry, read strictly: whatever cannot be read is a problem with its reason.
//!
//! Guarantees: a body is bounded in size, in time and in depth.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, StatusCode, header},
};
use serde::de::DeserializeOwned;

use super::{Problem, problem::misfit};

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How deep arrays and objects of a body may be nested.
const MAX_DEPTH: usize = 64;

/// The query, read into `T`.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub(super) struct Query<T>(pub(super) T);

/// The path's parameters, read into `T`.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub(super) struct Path<T>(pub(super) T);

/// The whole body, as large as the router's limit lets it be.
pub(super) async fn read_body(request: Request) -> Result<Bytes, Problem> {
    read_body_within(BODY_TIMEOUT, request).await
}

async fn read_body_within(limit: Duration, request: Request) -> Result<Bytes, Problem> {
    let rejected = match tokio::time::timeout(limit, Bytes::from_request(request, &())).await {
        Ok(Ok(bytes)) => return Ok(bytes),
        Ok(Err(rejection)) => rejection.status(),
        Err(_) => StatusCode::REQUEST_TIMEOUT,
    };
    if rejected == StatusCode::PAYLOAD_TOO_LARGE {
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "the body is larger than this route takes",
            "send less",
        ));
    }
    Err(Problem::new(
        StatusCode::BAD_REQUEST,
        "body_incomplete",
        "the body did not arrive whole, or not in time",
        "send it again",
    ))
}

/// Whether the body is declared as JSON, whatever parameters stand behind that.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    let media_type = content_type.and_then(|value| value.to_str().ok()?.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"))
}

pub(super) fn not_json() -> Problem {
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "media_type_unsupported",
        "the body is not declared as JSON",
        "send Content-Type: application/json",
    )
}

/// Reads JSON that is not nested too deeply.
pub(super) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Problem> {
    if depth(json) > MAX_DEPTH {
        return Err(Problem::invalid(format!(
            "the body is nested more than {MAX_DEPTH} deep"
        )));
    }
    serde_json::from_slice(json).map_err(|error| {
        let what = if error.is_data() {
            format!("the body {}", misfit(&error.to_string()))
        } else {
            let (line, column) = (error.line(), error.column());
            format!("the body is not JSON, at line {line}, column {column}")
        };
        Problem::invalid(what)
    })
}

/// How deep brackets are nested, those in texts apart.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_text, mut is_escaped) = (false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::DefaultBodyLimit};
    use futures_util::{StreamExt, stream};
    use serde_json::Value;

    use super::*;

    #[test]
    fn json_is_as_deep_as_its_brackets_and_no_deeper_than_64() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse::<Value>(nested(64).as_bytes()).is_ok());
        assert!(parse::<Value>(nested(65).as_bytes()).is_err());
        assert!(parse::<Value>(nested(200_000).as_bytes()).is_err());
        let flat = format!("[{}1]", "[1],".repeat(100));
        assert!(parse::<Value>(flat.as_bytes()).is_ok());
        let texts = format!(r#"["\"{}","\\","{}"]"#, "[".repeat(99), "{".repeat(99));
        assert!(parse::<Value>(texts.as_bytes()).is_ok());
    }

    #[test]
    fn json_may_say_its_charset() {
        let declared = |content_type: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
            is_json(&headers)
        };
        assert!(declared("application/json; charset=utf-8") && declared("Application/JSON"));
        assert!(!declared("text/plain") && !declared("application/jsonp"));
    }

    #[tokio::test]
    async fn a_body_that_does_not_end_is_not_waited_for() {
        let beginning = stream::iter([Ok::<_, std::io::Error>("{")]);
        let body = Body::from_stream(beginning.chain(stream::pending()));
        let read = read_body_within(Duration::from_millis(20), Request::new(body)).await;
        let problem = serde_json::to_value(read.unwrap_err()).unwrap();
        assert_eq!(
            (&problem["status"], &problem["code"]),
            (&400.into(), &"body_incomplete".into())
        );
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_is_refused() {
        let mut request = Request::new(Body::from(vec![b' '; 101]));
        DefaultBodyLimit::max(100).apply(&mut request);
        let problem = serde_json::to_value(read_body(request).await.unwrap_err()).unwrap();
        assert_eq!(
            (&problem["status"], &problem["code"]),
            (&413.into(), &"body_too_large".into())
        );
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_incomplete() {
        let broken = std::io::Error::other("broken off");
        let body = Body::from_stream(stream::iter([Ok("{"), Err(broken)]));
        let problem = serde_json::to_value(read_body(Request::new(body)).await.unwrap_err());
        assert_eq!(problem.unwrap()["code"], "body_incomplete");
    }
}
