//! Which pages in a browser may call the API: those of the configured origins, and without cookies.
//!
//! Guarantees: without such an origin no answer carries a CORS header.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::{limits, mutation, observe};

/// How long a browser may remember what it was allowed.
const MAX_AGE: Duration = Duration::from_mins(10);

/// The layer for the API; `None` where no origin is configured.
pub(super) fn layer(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<_> = origins
        .iter()
        .filter_map(|origin| HeaderValue::from_str(origin).ok())
        .collect();
    if origins.is_empty() {
        return None;
    }
    let methods = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    let takes = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        HeaderName::from_static(mutation::IDEMPOTENCY_KEY),
    ];
    let shows = [
        observe::REQUEST_ID,
        limits::RATE_LIMIT,
        limits::RATE_LIMIT_POLICY,
        header::RETRY_AFTER,
        header::LOCATION,
    ];
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods(methods)
        .allow_headers(takes)
        .expose_headers(shows)
        .max_age(MAX_AGE);
    Some(layer)
}
