//! `/v1/tenants/{id}/labels`: what operators tell a tenant apart by.

use std::{borrow::Cow, collections::BTreeMap};

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{SchemaType, Type},
    },
};
use uuid::Uuid;

use super::{
    AppState, Problem,
    extract::Path,
    mutation::Mutation,
    operator::{Changing, find_tenant},
};
use crate::{
    actions::{self, Relabel},
    tenants::{self, Labels, Tenant},
};

/// All the labels of a tenant.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct All(Labels);

/// Labels by key; null takes one away, what is not named stays.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Changes(BTreeMap<String, Option<String>>);

impl PartialSchema for All {
    fn schema() -> RefOr<Schema> {
        let labels = tenants::labels_schema(
            "Labels by key, such as `{\"tier\": \"free\"}`: a key is 1 to 63 of `a-z 0-9 _ . -`, a value at most 255 characters.",
        );
        labels.into()
    }
}

impl ToSchema for All {
    fn name() -> Cow<'static, str> {
        "Labels".into()
    }
}

impl PartialSchema for Changes {
    fn schema() -> RefOr<Schema> {
        let value = SchemaType::from_iter([Type::String, Type::Null]);
        let text = "Labels by key; null takes one away, what is not named stays.";
        tenants::labels_schema_of(value, text).into()
    }
}

impl ToSchema for Changes {
    fn name() -> Cow<'static, str> {
        "LabelChanges".into()
    }
}

async fn label(
    state: &AppState,
    id: Uuid,
    mutation: &Mutation<impl Sized>,
    relabel: Relabel,
) -> Result<Response, Problem> {
    let act = async |tx: &mut PgConnection| -> Result<Tenant, Problem> {
        let tenant = find_tenant(tx, id).await?;
        Ok(actions::label_tenant(tx, &tenant, &relabel, &mutation.actor).await?)
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
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
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
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
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
