//! How far a registration is, for whoever asked for it.
//!
//! Guarantees: whoever only has a status token learns the code of what went wrong, and not its cause.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{State, StatusToken};
use crate::{
    provisioning::{PLAN, steps::PROVIDER_STEPS},
    queue,
    tenants::{TenantFailure, TenantState},
};

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer {
    /// A key of operators.
    Operator,
    /// Whoever has the status token, or a form.
    Public,
}

/// A registration and how far it is.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Registration {
    /// Id.
    pub id: Uuid,
    /// How far it is.
    pub state: State,
    /// Whether it takes longer than it should; the work goes on.
    pub is_delayed: bool,
    /// The organization.
    pub organization: RegisteredOrganization,
    /// Who signed up.
    pub user: RegisteredUser,
    /// Steps.
    pub progress: Progress,
    /// Why the step that failed last is tried again, and when.
    pub waiting: Option<Waiting>,
    /// The tenant, when it is ready.
    pub tenant: Option<RegisteredTenant>,
    /// Why it failed.
    pub problem: Option<Reason>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it should be ready.
    pub deadline_at: DateTime<Utc>,
    /// When it became ready, failed or abandoned.
    pub ended_at: Option<DateTime<Utc>>,
}

/// The organization of a registration.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct RegisteredOrganization {
    /// The provider's id, once it is known; not for the public.
    pub id: Option<String>,
    /// Name of the source.
    pub source: String,
    /// Its name.
    pub name: String,
    /// What the provider knows it by as `external_id`; not for the public.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
}

/// The person of a registration.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct RegisteredUser {
    /// E-mail address.
    pub email: String,
    /// Given name; not for the public.
    pub given_name: Option<String>,
    /// Family name; not for the public.
    pub family_name: Option<String>,
}

/// How many steps are done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Progress {
    /// The step that runs, or ran last.
    pub step: Option<String>,
    /// Steps that are done.
    pub done: i32,
    /// Steps that there are.
    pub of: i32,
    /// The same in percent.
    #[schema(minimum = 0, maximum = 100)]
    pub percentage: i32,
}

/// Why something went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = RegistrationReason)]
pub struct Reason {
    /// Stable code, explained in docs/errors.md.
    pub code: String,
    /// What went wrong; not for the public.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What to do; not for the public.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Why there is another attempt, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Waiting {
    /// Why.
    #[serde(flatten)]
    pub reason: Reason,
    /// When; absent while it is being made.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// The tenant of a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct RegisteredTenant {
    /// Id.
    pub id: Uuid,
    /// Host name: the workspace.
    pub url: String,
    /// Where it is in its life.
    pub state: TenantState,
    /// When it became ready.
    pub ready_at: Option<DateTime<Utc>>,
}

/// A registration as it was read, with what decides who may see it.
#[derive(Debug, Clone, FromRow)]
pub struct Row {
    /// Id.
    pub id: Uuid,
    source: String,
    external_id: String,
    name: String,
    email: String,
    given_name: Option<String>,
    family_name: Option<String>,
    /// Principal that asked for it.
    pub made_by: String,
    /// The status token.
    pub credential: StatusToken,
    at_provider: bool,
    org_id: Option<String>,
    /// How far it is.
    pub state: State,
    step: Option<String>,
    steps_done: i32,
    #[sqlx(json(nullable))]
    waits_for: Option<TenantFailure>,
    created_at: DateTime<Utc>,
    deadline_at: DateTime<Utc>,
    delayed_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    /// Number of its newest event.
    pub last_event: i32,
    tenant_id: Option<Uuid>,
    url: Option<String>,
    tenant_state: Option<TenantState>,
    ready_at: Option<DateTime<Utc>>,
}

/// Every column of [`Row`]; a macro because statements are literals.
macro_rules! select_row {
    ($from:literal, $rest:literal) => {
        concat!(
            "select registrations.id, registrations.source, registrations.external_id, registrations.name, email,
                    given_name, family_name, made_by, registrations.credential, at_provider, registrations.org_id,
                    registrations.state, step, steps_done, waits_for, registrations.created_at, deadline_at, delayed_at,
                    ended_at, last_event, tenant_id, tenants.url, tenants.state as tenant_state, tenants.ready_at
             from ",
            $from,
            " left join tenants on tenants.id = registrations.tenant_id ",
            $rest
        )
    };
}
pub(super) use select_row;

/// A registration by its id.
pub async fn find(connection: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<Row>> {
    sqlx::query_as(select_row!("registrations", "where registrations.id = $1"))
        .bind(id)
        .fetch_optional(connection)
        .await
}

/// How far it is, for this viewer.
pub async fn read(
    connection: &mut PgConnection,
    row: Row,
    viewer: Viewer,
) -> sqlx::Result<Registration> {
    let next_attempt_at = if row.waits_for.is_some() && !row.state.is_terminal() {
        queue::find_next_attempt(connection, &row.job_keys()).await?
    } else {
        None
    };
    Ok(row.shown(viewer, next_attempt_at))
}

impl Row {
    /// Unique keys of the jobs that make it ready.
    fn job_keys(&self) -> Vec<String> {
        let provision = self.tenant_id.map(queue::provision_key);
        let register = queue::register_key(self.id);
        std::iter::once(register).chain(provision).collect()
    }

    fn shown(self, viewer: Viewer, next_attempt_at: Option<DateTime<Utc>>) -> Registration {
        let progress = self.progress();
        let is_operator = viewer == Viewer::Operator;
        let reason = self.waits_for.map(|failure| Reason::new(failure, viewer));
        let (waiting, problem) = match self.state {
            State::Failed => (None, reason),
            _ => (reason, None),
        };
        let tenant = match (self.state, self.tenant_id, self.url, self.tenant_state) {
            (State::Ready, Some(id), Some(url), Some(state)) => Some(RegisteredTenant {
                id,
                url,
                state,
                ready_at: self.ready_at,
            }),
            _ => None,
        };
        Registration {
            id: self.id,
            state: self.state,
            is_delayed: self.delayed_at.is_some() && !self.state.is_terminal(),
            organization: RegisteredOrganization {
                id: self.org_id.filter(|_| is_operator),
                source: self.source,
                name: self.name,
                external_id: is_operator.then_some(self.external_id),
            },
            // a form's key is everybody's: what others typed into the form is not told
            user: RegisteredUser {
                email: self.email,
                given_name: self.given_name.filter(|_| is_operator),
                family_name: self.family_name.filter(|_| is_operator),
            },
            progress,
            waiting: waiting.map(|reason| Waiting {
                reason,
                next_attempt_at,
            }),
            tenant,
            problem,
            created_at: self.created_at,
            deadline_at: self.deadline_at,
            ended_at: self.ended_at,
        }
    }

    fn progress(&self) -> Progress {
        let of = PLAN.len()
            + if self.at_provider {
                PROVIDER_STEPS.len()
            } else {
                0
            };
        let of = i32::try_from(of).unwrap_or(i32::MAX);
        let done = if self.state == State::Ready {
            of
        } else {
            self.steps_done.min(of)
        };
        Progress {
            step: self.step.clone(),
            done,
            of,
            percentage: 100 * done / of,
        }
    }
}

impl Reason {
    fn new(failure: TenantFailure, viewer: Viewer) -> Self {
        let is_told = viewer == Viewer::Operator;
        Self {
            code: failure.code,
            cause: is_told.then_some(failure.cause),
            fix: is_told.then_some(failure.fix),
        }
    }
}
