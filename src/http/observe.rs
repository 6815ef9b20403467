//! What every request leaves behind: an id, a count, a log line; and what every answer carries.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::Response,
};
use uuid::Uuid;

use super::{AppState, Problem, security_headers};
use crate::telemetry;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Id of a request, for logs of its handler.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestId(pub(super) Uuid);

pub(super) async fn observe(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = Uuid::now_v7();
    request.extensions_mut().insert(RequestId(id));
    let method = known_method(request.method());
    // the route's pattern, never the path: a path can hold anything
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("other", MatchedPath::as_str)
        .to_owned();
    let is_api = security_headers::is_api(request.uri().path());
    let mut response = telemetry::in_request(id, next.run(request)).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let mut headers = std::mem::take(response.headers_mut());
        // of the body that did not know the id
        headers.remove(header::CONTENT_LENGTH);
        response = problem.render(id);
        headers.extend(std::mem::take(response.headers_mut()));
        *response.headers_mut() = headers;
    }
    let (status, took) = (response.status().as_u16(), started.elapsed());
    state.metrics.request(method, &route, status, took);
    if status >= 500 {
        tracing::warn!(request.id = %id, http.method = method, http.route = route, http.status = status, duration_ms = took.as_millis(), "request failed");
    } else {
        tracing::debug!(request.id = %id, http.method = method, http.route = route, http.status = status, duration_ms = took.as_millis(), "request");
    }
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    security_headers::add(response.headers_mut());
    if is_api {
        security_headers::add_no_store(response.headers_mut());
    }
    response
}

/// A label that no client can invent: a method can be any token.
fn known_method(method: &Method) -> &'static str {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    let names = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let at = known.iter().position(|known| known == method);
    at.map_or("other", |at| names[at])
}
