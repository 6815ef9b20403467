//! `/v1/organizations/{org}/staff-assignments`: which member looks after which of the application's customers.
//!
//! Guarantees: an assignment is seen and changed only in the organization in the path; a change answers
//! with the assignment that began or ended.

use axum::{Extension, Json, extract::State, http::StatusCode, response::Response};
use serde::Deserialize;

use super::{
    AppState, Problem,
    access::OfOrganization,
    extract::{Path, Query},
    mutation::Mutation,
};
use crate::{
    members::{self, Assignment, AssignmentFilter},
    page::{Asked, Page},
};

/// Which assignments.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// Only of this user.
    user: Option<String>,
    /// Only to this customer.
    customer: Option<String>,
    /// Where the page begins: `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows of the page, 1 to 200; 50 where it is not said.
    limit: Option<u32>,
}

/// Who is to look after whom.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAssignment {
    /// The provider's id of an active member.
    #[schema(min_length = 1, pattern = r"^[^\u0000]*$")]
    user_id: String,
    /// The application's id of the customer.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$"
    )]
    customer_id: String,
}

/// The assignments of an organization, by user and customer.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/staff-assignments",
    operation_id = "list_assignments",
    tag = "staff",
    params(("org" = String, Path, description = "The provider's organization id"), Listing),
    responses(
        (status = 200, description = "A page of assignments", body = Page<Assignment>),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Extension(of): Extension<OfOrganization>,
    Query(listing): Query<Listing>,
) -> Result<Json<Page<Assignment>>, Problem> {
    let asked = Asked::read(listing.cursor, listing.limit)?;
    let (after, limit) = (asked.after("staff-assignments")?, asked.fetch_limit());
    let filter = AssignmentFilter {
        user_id: listing.user,
        customer_id: listing.customer,
    };
    let of = of.organization();
    let list = async |connection: &mut _| {
        members::list_assignments_page(connection, of, &filter, after, limit).await
    };
    let found = state.db.run(list).await?;
    let key = |found: &Assignment| (found.user_id.clone(), found.customer_id.clone());
    Ok(Json(asked.page("staff-assignments", found, key)))
}

/// Lets an active member look after a customer.
#[utoipa::path(
    post,
    path = "/v1/organizations/{org}/staff-assignments",
    operation_id = "assign",
    tag = "staff",
    params(
        ("org" = String, Path, description = "The provider's organization id"),
        ("idempotency-key" = Option<String>, Header, description = "The same key and request are done once"),
    ),
    request_body = NewAssignment,
    responses(
        (status = 201, description = "The assignment, also where it was there already", body = Assignment),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn assign(
    State(state): State<AppState>,
    Extension(of): Extension<OfOrganization>,
    mutation: Mutation<NewAssignment>,
) -> Result<Response, Problem> {
    let of = of.organization();
    let NewAssignment {
        user_id,
        customer_id,
    } = &mutation.body;
    mutation
        .run(&state, StatusCode::CREATED, async |tx| {
            members::assign(tx, of, user_id, customer_id, &mutation.actor).await?;
            let assigned = members::find_assignment(tx, of, user_id, customer_id).await?;
            assigned.ok_or_else(unknown)
        })
        .await
}

/// Ends an assignment.
#[utoipa::path(
    delete,
    path = "/v1/organizations/{org}/staff-assignments/{user}/{customer}",
    operation_id = "unassign",
    tag = "staff",
    params(
        ("org" = String, Path, description = "The provider's organization id"),
        ("user" = String, Path, description = "The provider's user id"),
        ("customer" = String, Path, description = "The application's id of the customer"),
        ("idempotency-key" = Option<String>, Header, description = "The same key and request are done once"),
    ),
    responses(
        (status = 200, description = "The assignment that ended", body = Assignment),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn unassign(
    State(state): State<AppState>,
    Extension(of): Extension<OfOrganization>,
    Path((_org, user, customer)): Path<(String, String, String)>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let of = of.organization();
    mutation
        .run(&state, StatusCode::OK, async |tx| {
            let ended = members::find_assignment(tx, of, &user, &customer).await?;
            let ended = ended.ok_or_else(unknown)?;
            members::unassign(tx, of, &user, &customer, &mutation.actor).await?;
            Ok(ended)
        })
        .await
}

fn unknown() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "assignment_unknown",
        "the member does not look after this customer",
        "list the organization's staff assignments",
    )
}
