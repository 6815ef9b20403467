//! `GET /v1/audit`: who changed what.

use axum::{Json, extract::State};
use serde::Deserialize;

use super::{AppState, Problem, extract::Query, operator::Reading};
use crate::{
    audit::{self, Entry, Filter},
    page::{Asked, Page},
};

/// Which entries to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Only what happened to this organization.
    org_id: Option<String>,
    /// Only what this event, key, user or operator did.
    actor: Option<String>,
    /// Only this action, such as `membership.changed`.
    action: Option<String>,
    /// Only what was done to this kind of thing, such as `tenant`.
    target_kind: Option<String>,
    /// Only what was done to this one.
    target: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows of a page: 1 to 200, 50 if not given.
    limit: Option<u32>,
}

/// Who changed what, the newest first.
#[utoipa::path(
    get,
    path = "/v1/audit",
    operation_id = "list_audit",
    tag = "audit",
    params(Which),
    responses((status = 200, description = "A page of the audit log", body = Page<Entry>), Reading),
    security(("key" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Query(which): Query<Which>,
) -> Result<Json<Page<Entry>>, Problem> {
    let asked = Asked::read(which.cursor, which.limit)?;
    let filter = Filter {
        org_id: which.org_id,
        actor: which.actor,
        action: which.action,
        target_kind: which.target_kind,
        target: which.target,
    };
    let list = async |connection: &mut _| audit::list_page(connection, &filter, &asked).await;
    Ok(Json(state.db.run(list).await?))
}
