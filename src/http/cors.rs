//! Which pages in a browser may call the API: those of the configured origins, and without cookies.
//!
//! Guarantees: without such an origin no answer carries a CORS header, but for those about registrations. These any
//! page may ask for and read: a preflight does not say with which form key the request will come, and the
//! request itself is held against the origins of its key (`registrants`). Nothing that a browser adds by itself lets anybody in.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::{limits, mutation, observe};

/// How long a browser may remember what it was allowed.
const MAX_AGE: Duration = Duration::from_mins(10);

/// Whether a route is one that sign-up forms call, from wherever they stand.
pub(super) fn is_for_forms(path: &str) -> bool {
    path == "/v1/registrations" || path.starts_with("/v1/registrations/")
}

/// The layer for what sign-up forms call.
pub(super) fn for_forms() -> CorsLayer {
    let takes = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        HeaderName::from_static(mutation::IDEMPOTENCY_KEY),
        HeaderName::from_static("prefer"),
        HeaderName::from_static("last-event-id"),
    ];
    let shows = [
        observe::REQUEST_ID,
        limits::RATE_LIMIT,
        limits::RATE_LIMIT_POLICY,
        header::RETRY_AFTER,
        header::LOCATION,
        HeaderName::from_static("preference-applied"),
        HeaderName::from_static(mutation::REPLAYED),
    ];
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_headers(takes)
        .expose_headers(shows)
        .max_age(MAX_AGE)
}

/// The layer for the rest of the API; `None` where no origin is configured.
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
