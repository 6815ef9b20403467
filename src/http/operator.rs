//! What the routes of operators have in common: their refusals, and a tenant by its id.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use sqlx::PgConnection;
use utoipa::{
    IntoResponses,
    openapi::{ContentBuilder, RefOr, Response, ResponseBuilder, schema::Ref},
};
use uuid::Uuid;

use super::{Problem, problem, resolve};
use crate::{
    actions::Refusal,
    fleet, queue,
    tenants::{self, HostError, Tenant, TenantId},
};

/// The tenant of this id.
pub(super) async fn find_tenant(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<Tenant, Problem> {
    let found = tenants::find(connection, TenantId(id)).await?;
    found.ok_or_else(resolve::unknown)
}

impl From<Refusal> for Problem {
    fn from(error: Refusal) -> Self {
        let status = match error {
            Refusal::Queue(error) => return error.into(),
            Refusal::Job(queue::Refused::Sql(error)) => return error.into(),
            Refusal::Job(queue::Refused::Unknown(_))
            | Refusal::EventUnknown(_)
            | Refusal::TenantUnknown(_) => StatusCode::NOT_FOUND,
            Refusal::Label(_) => StatusCode::BAD_REQUEST,
            Refusal::Job(_)
            | Refusal::JobKindUnknown(_)
            | Refusal::RevocationGivenUp(_)
            | Refusal::TenantWrongState { .. }
            | Refusal::OrganizationDeleted(_)
            | Refusal::RegistrationReady(_)
            | Refusal::OrganizationLives(_)
            | Refusal::EventIsPending(_)
            | Refusal::EventInConflict(_)
            | Refusal::EventBodyPruned(_) => StatusCode::CONFLICT,
        };
        Self::new(status, error.code(), error.to_string(), error.fix())
    }
}

impl From<fleet::Error> for Problem {
    fn from(error: fleet::Error) -> Self {
        let status = match error {
            fleet::Error::Sql(error) => return error.into(),
            fleet::Error::Queue(error) => return error.into(),
            fleet::Error::Unknown(_) => StatusCode::NOT_FOUND,
            fleet::Error::Active(_)
            | fleet::Error::WrongState { .. }
            | fleet::Error::NotWaiting { .. }
            | fleet::Error::NotKeptUp(_) => StatusCode::CONFLICT,
        };
        Self::new(status, error.code(), error.to_string(), error.fix())
    }
}

impl From<HostError> for Problem {
    fn from(error: HostError) -> Self {
        let code = error.code();
        let (status, fix) = match error {
            HostError::Sql(error) => return error.into(),
            HostError::Invalid(_) => {
                let fix = "give a name such as crm.customer.example";
                return Self::new(
                    StatusCode::BAD_REQUEST,
                    code,
                    "the text is no host name",
                    fix,
                );
            }
            HostError::Taken(_) => (StatusCode::CONFLICT, "take it from its tenant first"),
        };
        Self::new(status, code, error.to_string(), fix)
    }
}

/// What every route that reads may be refused with, for its description.
pub(super) struct Reading;

/// What every route that changes something may be refused with as well.
pub(super) struct Changing;

impl IntoResponses for Reading {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[
            (400, "A parameter cannot be read, or is unknown"),
            (401, "No API key, or none that is accepted"),
            (403, "The API key does not have the scope"),
            (429, "Asked too often"),
            (500, "Something went wrong here"),
            (503, "The control database does not answer"),
        ])
    }
}

impl IntoResponses for Changing {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut all = Reading::responses();
        all.extend(problems(&[
            (404, "Nothing with this id"),
            (
                409,
                "Not in the state that it has to be in, or the Idempotency-Key is in use",
            ),
            (413, "The body is too large"),
            (415, "The body is not declared as JSON"),
            (422, "The Idempotency-Key was used for another request"),
        ]));
        all
    }
}

fn problems(all: &[(u16, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let problem = |description: &str| {
        let schema = Ref::from_schema_name("Problem");
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response = ResponseBuilder::new()
            .description(description)
            .content(problem::MEDIA_TYPE, content);
        RefOr::T(response.build())
    };
    all.iter()
        .map(|(status, description)| (status.to_string(), problem(description)))
        .collect()
}
