//! What an answer means: status, headers and bytes → JSON, or an [`Error`]. Pure: the provider's own clock is the only one.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{StatusCode, header::HeaderMap};
use serde_json::Value;

use super::error::{Error, Refusal};

/// Longest wait that is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(10);

/// How much of a provider's message is kept, in characters.
const MAX_MESSAGE: usize = 200;

/// How much of an id or code is kept, in characters.
const MAX_WORD: usize = 80;

/// An answer as it arrived.
pub(super) struct Arrived<'a> {
    /// The status.
    pub(super) status: StatusCode,
    /// The headers.
    pub(super) headers: &'a HeaderMap,
    /// The body, as far as it came.
    pub(super) body: &'a [u8],
}

/// What was asked, and what must not be told.
pub(super) struct Question<'a> {
    /// What was attempted, on which id.
    pub(super) doing: &'a str,
    /// The API key, to be taken out of whatever the provider writes.
    pub(super) key: &'a str,
    /// Whether success may have nothing to say.
    pub(super) may_be_empty: bool,
    /// How long to wait after 429 when the provider does not say.
    pub(super) default_wait: Duration,
}

/// An answer that was understood.
#[derive(Debug)]
pub(super) struct Answer {
    /// The JSON.
    pub(super) body: Value,
    /// When the provider answered, by its own clock, to the second.
    pub(super) date: Option<DateTime<Utc>>,
}

/// Says what an answer means.
pub(super) fn judge(question: &Question<'_>, arrived: &Arrived<'_>) -> Result<Answer, Error> {
    let doing = question.doing.to_owned();
    let status = arrived.status.as_u16();
    let parsed = match arrived.body {
        [] if question.may_be_empty => Ok(Value::Null),
        body => serde_json::from_slice::<Value>(body),
    };
    let said = parsed.as_ref().unwrap_or(&Value::Null);
    let request = request(question, arrived.headers, said);
    match status {
        200..=299 => match parsed {
            Ok(body) => Ok(Answer {
                body,
                date: http_date(arrived.headers, "date"),
            }),
            Err(error) => Err(Error::Unreadable {
                doing,
                problem: format!("{status} with a body that is not JSON: {error}"),
                request,
            }),
        },
        300..=399 => Err(Error::Unreadable {
            doing,
            problem: format!("{status}, and redirects are not followed"),
            request,
        }),
        429 => Err(Error::RateLimited {
            doing,
            retry_after: retry_after(arrived.headers).unwrap_or(question.default_wait),
        }),
        // whoever takes it for "there is no such organization" must have it from the provider
        404 if !is_from_provider(said) => Err(Error::Unreadable {
            doing,
            problem: "404 without the provider's error in it, so perhaps not from its API"
                .to_owned(),
            request,
        }),
        400..=407 | 409..=499 => Err(refused(question, status, said, request)),
        _ => Err(Error::Unavailable {
            doing,
            problem: format!("status {status}"),
            request,
            source: None,
        }),
    }
}

/// Refused for what was asked, or for who asked.
///
/// Clerk answers 403 also when an organization is full or may not invite, so the code decides where it is known.
fn refused(question: &Question<'_>, status: u16, said: &Value, request: String) -> Error {
    let complaint = Complaint::read(said);
    let reason = Refusal::of(status, complaint.code, complaint.field);
    let doing = question.doing.to_owned();
    let message = one_line(&complaint.message, question.key, MAX_MESSAGE);
    match (status, reason) {
        (401, _) | (403, None) => Error::Unauthorized {
            doing,
            status,
            message,
            request,
        },
        _ => Error::Refused {
            doing,
            status,
            code: one_line(complaint.code, question.key, MAX_WORD),
            message,
            reason,
            request,
        },
    }
}

/// Whether an error is written as the providers write theirs, and not by a router that has no such path.
fn is_from_provider(said: &Value) -> bool {
    let message = said["message"].as_str();
    message.is_some_and(|text| !text.starts_with("Cannot "))
        || said["errors"][0]["code"].is_string()
}

/// What a provider says is wrong.
struct Complaint<'a> {
    code: &'a str,
    field: Option<&'a str>,
    message: String,
}

impl<'a> Complaint<'a> {
    /// `WorkOS`: `{message, code, errors: [{code, field}]}`. Clerk: `{errors: [{message, long_message, code, meta}]}`.
    fn read(said: &'a Value) -> Self {
        let first = &said["errors"][0];
        let text = |value: &'a Value| value.as_str().filter(|text| !text.is_empty());
        let field = text(&first["field"]).or_else(|| text(&first["meta"]["param_name"]));
        let code = text(&said["code"]).or_else(|| text(&first["code"]));
        let message = text(&said["message"])
            .or_else(|| text(&first["long_message"]))
            .or_else(|| text(&first["message"]))
            .unwrap_or("no message");
        let message = match (field, text(&first["code"])) {
            (Some(field), Some(code)) => format!("{message} ({field}: {code})"),
            _ => message.to_owned(),
        };
        Self {
            code: code.unwrap_or("none"),
            field,
            message,
        }
    }
}

/// The provider's id of the request, in brackets.
fn request(question: &Question<'_>, headers: &HeaderMap, said: &Value) -> String {
    let id = headers
        .get("x-request-id")
        .and_then(|value| value.to_str().ok())
        .or_else(|| said["clerk_trace_id"].as_str());
    match id.map(|id| one_line(id, question.key, MAX_WORD)) {
        Some(id) if !id.is_empty() => format!(" (request {id})"),
        _ => String::new(),
    }
}

/// `Retry-After` in seconds or as a date, which is taken against the answer's own `Date`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (http_date(headers, "retry-after")? - http_date(headers, "date")?)
            .to_std()
            .unwrap_or_default(),
    };
    Some(wait.clamp(Duration::from_secs(1), MAX_RETRY_AFTER))
}

/// A date as RFC 9110 §5.6.7 prefers it; the two obsolete forms count as none.
fn http_date(headers: &HeaderMap, name: &str) -> Option<DateTime<Utc>> {
    let text = headers.get(name)?.to_str().ok()?;
    DateTime::parse_from_rfc2822(text)
        .ok()
        .map(|date| date.to_utc())
}

/// Somebody else's text, fit for a log line: one line, cut, without the key and without e-mail addresses.
pub(super) fn one_line(text: &str, key: &str, max_chars: usize) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let text = if key.is_empty() {
        text
    } else {
        text.replace(key, "[API key]")
    };
    let words = text.split_whitespace().map(|word| {
        if word.contains('@') {
            "[e-mail address]"
        } else {
            word
        }
    });
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
