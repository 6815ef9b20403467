//! `/v1/tenants/{id}/labels`: what operators tell a tenant apart by.

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Deserialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    AppState, Problem,
    extract::Path,
    mutation::Mutation,
    operator::{Changing, find_tenant},
};
use crate::{
    jobs::{self, Relabel},
    tenants::{Labels, Tenant},
};

/// Labels by key, such as `{"tier": "free"}`: a key is 1 to 63 of `a-z 0-9 _ . -`, a value at most 255 characters.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(as = Labels)]
pub(super) struct All(Labels);

/// Labels by key; null takes one away, what is not named stays.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(as = LabelChanges)]
pub(super) struct Changes(BTreeMap<String, Option<String>>);

async fn label(
    state: &AppState,
    id: Uuid,
    mutation: &Mutation<impl Sized>,
    relabel: Relabel,
) -> Result<Response, Problem> {
    let act = async |tx: &mut PgConnection| -> Result<Tenant, Problem> {
        let tenant = find_tenant(tx, id).await?;
        Ok(jobs::label_tenant(tx, &tenant, &relabel, &mutation.actor).await?)
    };
    mutation.run(state, StatusCode::OK, act).await
}

/// Give a tenant these labels and no others.
#[utoipa::path(
    put,
    path = "/v1/tenants/{id}/labels",
    operation_id = "replace_labels",
    tag = "tenants",
    params(
        ("id" = Uuid, Path, description = "Id of the tenant"),
        ("idempotency-key" = Option<String>, Header, description = "The same key is answered alike and does nothing again")
    ),
    request_body = All,
    responses((status = 200, description = "The tenant after it", body = Tenant), Changing),
    security(("key" = []))
)]
pub(super) async fn replace(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    mutation: Mutation<All>,
) -> Result<Response, Problem> {
    let relabel = Relabel::Replace(mutation.body.0.clone());
    label(&state, id, &mutation, relabel).await
}

/// Give a tenant labels, and take labels away.
#[utoipa::path(
    patch,
    path = "/v1/tenants/{id}/labels",
    operation_id = "merge_labels",
    tag = "tenants",
    params(
        ("id" = Uuid, Path, description = "Id of the tenant"),
        ("idempotency-key" = Option<String>, Header, description = "The same key is answered alike and does nothing again")
    ),
    request_body = Changes,
    responses((status = 200, description = "The tenant after it", body = Tenant), Changing),
    security(("key" = []))
)]
pub(super) async fn merge(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    mutation: Mutation<Changes>,
) -> Result<Response, Problem> {
    let relabel = Relabel::Merge(mutation.body.0.clone());
    label(&state, id, &mutation, relabel).await
}
