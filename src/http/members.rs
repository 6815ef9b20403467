//! `/v1/organizations/{org}/members`: who belongs to an organization, and what its administrators may do about it.
//!
//! Guarantees: only members of the organization in the path are seen or changed; a change answers with
//! the member as it is then; reads of all members leave the pool to deliveries.

use std::time::Duration;

use axum::{Extension, Json, extract::State, http::StatusCode, response::Response};
use serde::Deserialize;
use tokio::sync::SemaphorePermit;

use super::{
    AppState, Problem,
    access::OfOrganization,
    extract::{Path, Query},
    mutation::Mutation,
};
use crate::{
    members::{self, Count, Member, MemberFilter, Status},
    page::{Asked, Page},
};

/// How many reads of all members of an organization run at once in a process: deliveries need the pool too.
pub(super) const READS: usize = 2;

/// How long such a read may wait for its turn, and then run.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// The turn of a read of all members.
async fn turn(state: &AppState) -> Result<SemaphorePermit<'_>, Problem> {
    match tokio::time::timeout(READ_LIMIT, state.member_reads.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(Problem::unavailable()),
    }
}

/// Which members.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// Only of this status.
    #[param(inline)]
    status: Option<Status>,
    /// Only of this role, a slug.
    role: Option<String>,
    /// Only with this in their name, e-mail address or user id, in whatever case.
    q: Option<String>,
    /// Where the page begins: `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows of the page, 1 to 200; 50 where it is not said.
    limit: Option<u32>,
}

/// Another role.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RoleChange {
    /// Slug of the role, without a provider's prefix.
    #[schema(min_length = 1, max_length = 255)]
    role: String,
}

/// The members of an organization, by name.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/members",
    operation_id = "list_members",
    tag = "members",
    params(("org" = String, Path, description = "The provider's organization id"), Listing),
    responses(
        (status = 200, description = "A page of members", body = Page<Member>),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Extension(of): Extension<OfOrganization>,
    Query(listing): Query<Listing>,
) -> Result<Json<Page<Member>>, Problem> {
    let asked = Asked::read(listing.cursor, listing.limit)?;
    let (after, limit) = (asked.after("members")?, asked.fetch_limit());
    let filter = MemberFilter {
        status: listing.status,
        role: listing.role,
        search: listing.q,
    };
    let of = of.organization();
    let list =
        async |connection: &mut _| members::list_page(connection, of, &filter, after, limit).await;
    let _turn = turn(&state).await?;
    let found = state.db.within(READ_LIMIT).run(list).await?;
    let key = |member: &Member| (member.sort_name.clone(), member.user_id.clone());
    Ok(Json(asked.page("members", found, key)))
}

/// How many members there are, by status and role.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/members/counts",
    operation_id = "count_members",
    tag = "members",
    params(("org" = String, Path, description = "The provider's organization id")),
    responses(
        (status = 200, description = "Counts; who is invited and no member yet counts as invited", body = [Count]),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn counts(
    State(state): State<AppState>,
    Extension(of): Extension<OfOrganization>,
) -> Result<Json<Vec<Count>>, Problem> {
    let of = of.organization();
    let count = async |connection: &mut _| members::count(connection, of).await;
    let _turn = turn(&state).await?;
    Ok(Json(state.db.within(READ_LIMIT).run(count).await?))
}

/// One member.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/members/{user}",
    operation_id = "find_member",
    tag = "members",
    params(
        ("org" = String, Path, description = "The provider's organization id"),
        ("user" = String, Path, description = "The provider's user id"),
    ),
    responses(
        (status = 200, description = "The member", body = Member),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn find(
    State(state): State<AppState>,
    Extension(of): Extension<OfOrganization>,
    Path((_org, user)): Path<(String, String)>,
) -> Result<Json<Member>, Problem> {
    let of = of.organization();
    let find = async |connection: &mut _| members::find(connection, of, &user).await;
    Ok(Json(state.db.transaction(find).await?))
}

/// Gives a member another role.
#[utoipa::path(
    patch,
    path = "/v1/organizations/{org}/members/{user}",
    operation_id = "set_role",
    tag = "members",
    params(
        ("org" = String, Path, description = "The provider's organization id"),
        ("user" = String, Path, description = "The provider's user id"),
        ("idempotency-key" = Option<String>, Header, description = "The same key and request are done once"),
    ),
    request_body = RoleChange,
    responses(
        (status = 200, description = "The member in the new role; the provider is being told", body = Member),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn set_role(
    State(state): State<AppState>,
    Extension(of): Extension<OfOrganization>,
    Path((_org, user)): Path<(String, String)>,
    mutation: Mutation<RoleChange>,
) -> Result<Response, Problem> {
    let (of, desk, role) = (of.organization(), &state.desk, mutation.body.role.as_str());
    mutation
        .run(&state, StatusCode::OK, async |tx| {
            desk.set_role(tx, of, (&user, role), &mutation.actor)
                .await?;
            Ok(members::find(tx, of, &user).await?)
        })
        .await
}

/// Removes a member softly; ends the member's staff assignments.
#[utoipa::path(
    delete,
    path = "/v1/organizations/{org}/members/{user}",
    operation_id = "remove_member",
    tag = "members",
    params(
        ("org" = String, Path, description = "The provider's organization id"),
        ("user" = String, Path, description = "The provider's user id"),
        ("idempotency-key" = Option<String>, Header, description = "The same key and request are done once"),
    ),
    responses(
        (status = 200, description = "The member, removed; the provider is being told", body = Member),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn remove(
    State(state): State<AppState>,
    Extension(of): Extension<OfOrganization>,
    Path((_org, user)): Path<(String, String)>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let (of, desk) = (of.organization(), &state.desk);
    mutation
        .run(&state, StatusCode::OK, async |tx| {
            desk.remove(tx, of, &user, &mutation.actor).await?;
            Ok(members::find(tx, of, &user).await?)
        })
        .await
}

/// Takes a removal back; staff assignments do not come back.
#[utoipa::path(
    post,
    path = "/v1/organizations/{org}/members/{user}/restore",
    operation_id = "restore_member",
    tag = "members",
    params(
        ("org" = String, Path, description = "The provider's organization id"),
        ("user" = String, Path, description = "The provider's user id"),
        ("idempotency-key" = Option<String>, Header, description = "The same key and request are done once"),
    ),
    responses(
        (status = 200, description = "The member; where the provider has to begin the membership anew, still removed until it answers", body = Member),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn restore(
    State(state): State<AppState>,
    Extension(of): Extension<OfOrganization>,
    Path((_org, user)): Path<(String, String)>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let (of, desk) = (of.organization(), &state.desk);
    mutation
        .run(&state, StatusCode::OK, async |tx| {
            desk.restore(tx, of, &user, &mutation.actor).await?;
            Ok(members::find(tx, of, &user).await?)
        })
        .await
}
