//! `/v1/organizations/{org}/invitations`: who is invited to an organization.
//!
//! Guarantees: another organization's invitation is unknown, not forbidden; a change answers with the
//! invitation as it is then, before the provider has heard of it.

use axum::{
    Extension, Json,
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    AppState, Problem,
    access::OfOrganization,
    extract::{Path, Query},
    mutation::Mutation,
};
use crate::{
    members::{self, Invitation, Promise},
    page::{Asked, Page},
};

/// How far an invitation is.
#[derive(Debug, Clone, Copy, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// Asked for here, not sent yet.
    Requested,
    /// Sent.
    Pending,
    /// Accepted.
    Accepted,
    /// Taken back.
    Revoked,
    /// Too late.
    Expired,
    /// Not sent; the failure says why.
    Failed,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Failed => "failed",
        }
    }
}

/// Which invitations.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// Only those that are so.
    #[param(inline)]
    state: Option<Stage>,
    /// Where the page begins: `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows of the page, 1 to 200; 50 where it is not said.
    limit: Option<u32>,
}

/// Somebody to be invited.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewInvitation {
    /// Where the invitation goes.
    #[schema(
        max_length = 320,
        pattern = r#"^\s*[^\s<>()\[\],;:"\\@\u0000-\u001f\u007f-\u009f\u202a-\u2069]+@[^\s<>()\[\],;:"\\@\u0000-\u001f\u007f-\u009f\u202a-\u2069]+\s*$"#
    )]
    email: String,
    /// Slug of the promised role, without a provider's prefix.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$"
    )]
    role: Option<String>,
    /// The application's customer that the person is for.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$"
    )]
    customer_id: Option<String>,
}

/// The invitations to an organization, the latest first.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/invitations",
    operation_id = "list_invitations",
    tag = "invitations",
    params(("org" = String, Path, description = "The provider's organization id"), Listing),
    responses(
        (status = 200, description = "A page of invitations", body = Page<Invitation>),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Extension(of): Extension<OfOrganization>,
    Query(listing): Query<Listing>,
) -> Result<Json<Page<Invitation>>, Problem> {
    let asked = Asked::read(listing.cursor, listing.limit)?;
    let (before, limit) = (asked.after("invitations")?, asked.fetch_limit());
    let of = of.organization();
    let only = listing.state.map(Stage::name);
    let list = async |connection: &mut _| {
        members::list_invitations_page(connection, of, only, before, limit).await
    };
    let found = state.db.run(list).await?;
    Ok(Json(asked.page(
        "invitations",
        found,
        |invitation: &Invitation| invitation.number,
    )))
}

/// Invites somebody through the provider.
#[utoipa::path(
    post,
    path = "/v1/organizations/{org}/invitations",
    operation_id = "invite",
    tag = "invitations",
    params(
        ("org" = String, Path, description = "The provider's organization id"),
        ("idempotency-key" = Option<String>, Header, description = "The same key and request are done once"),
    ),
    request_body = NewInvitation,
    responses(
        (status = 201, description = "The invitation, requested; a job sends it", body = Invitation, headers(("location" = String, description = "Where it is"))),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn invite(
    State(state): State<AppState>,
    Extension(of): Extension<OfOrganization>,
    uri: Uri,
    mutation: Mutation<NewInvitation>,
) -> Result<Response, Problem> {
    let (of, desk, new) = (of.organization(), &state.desk, &mutation.body);
    let promise = Promise {
        email: &new.email,
        role: new.role.as_deref(),
        customer_id: new.customer_id.as_deref(),
    };
    mutation
        .create(&state, &uri, async |tx| {
            let id = desk.invite(tx, of, promise, &mutation.actor).await?;
            Ok(members::find_invitation(tx, of, id).await?)
        })
        .await
}

/// One invitation.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/invitations/{id}",
    operation_id = "find_invitation",
    tag = "invitations",
    params(
        ("org" = String, Path, description = "The provider's organization id"),
        ("id" = Uuid, Path, description = "Our id of the invitation"),
    ),
    responses(
        (status = 200, description = "The invitation", body = Invitation),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn find(
    State(state): State<AppState>,
    Extension(of): Extension<OfOrganization>,
    Path((_org, id)): Path<(String, Uuid)>,
) -> Result<Json<Invitation>, Problem> {
    let of = of.organization();
    let find = async |connection: &mut _| members::find_invitation(connection, of, id).await;
    Ok(Json(state.db.transaction(find).await?))
}

/// Takes an invitation back that is requested or pending.
#[utoipa::path(
    delete,
    path = "/v1/organizations/{org}/invitations/{id}",
    operation_id = "revoke_invitation",
    tag = "invitations",
    params(
        ("org" = String, Path, description = "The provider's organization id"),
        ("id" = Uuid, Path, description = "Our id of the invitation"),
        ("idempotency-key" = Option<String>, Header, description = "The same key and request are done once"),
    ),
    responses(
        (status = 200, description = "The invitation, revoked; who accepts before the provider has heard of it is in", body = Invitation),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn revoke(
    State(state): State<AppState>,
    Extension(of): Extension<OfOrganization>,
    Path((_org, id)): Path<(String, Uuid)>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let (of, desk) = (of.organization(), &state.desk);
    mutation
        .run(&state, StatusCode::OK, async |tx| {
            desk.revoke(tx, of, id, &mutation.actor).await?;
            Ok(members::find_invitation(tx, of, id).await?)
        })
        .await
}

/// Has the provider send an invitation again that is pending or has expired.
#[utoipa::path(
    post,
    path = "/v1/organizations/{org}/invitations/{id}/resend",
    operation_id = "resend_invitation",
    tag = "invitations",
    params(
        ("org" = String, Path, description = "The provider's organization id"),
        ("id" = Uuid, Path, description = "Our id of the invitation"),
        ("idempotency-key" = Option<String>, Header, description = "The same key and request are done once"),
    ),
    responses(
        (status = 200, description = "The invitation; a job has it sent", body = Invitation),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn resend(
    State(state): State<AppState>,
    Extension(of): Extension<OfOrganization>,
    Path((_org, id)): Path<(String, Uuid)>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let (of, desk) = (of.organization(), &state.desk);
    mutation
        .run(&state, StatusCode::OK, async |tx| {
            desk.resend(tx, of, id, &mutation.actor).await?;
            Ok(members::find_invitation(tx, of, id).await?)
        })
        .await
}
