//! What requests carry, read strictly: whatever cannot be read is a problem with its reason.

use axum::extract::FromRequestParts;

use super::Problem;

/// The query, read into `T`.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub(super) struct Query<T>(pub(super) T);

/// The path's parameters, read into `T`.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub(super) struct Path<T>(pub(super) T);
