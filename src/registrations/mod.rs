//! Registrations: the second way in. Somebody signs up, and follows the tenant until it is ready.
//!
//! ```text
//!  accepted ─▶ provisioning ─▶ ready
//!     │ ▲          │  │
//!     │ └─ retry ─ failed
//!     └────────────┴──▶ abandoning ─▶ abandoned
//! ```
//!
//! Guarantees: a person asks for an organization once, by a unique index: whoever asks again gets the
//! same registration; an external id stands for one registration; a registration follows its tenant in
//! the transaction in which the tenant changes, because the tables themselves see to it (migration 0010);
//! every change that can be seen is an event with a number of its own, in the order in which they are seen.
//!
//! Does not: make the tenant, or talk to the provider. `jobs` does.

mod events;
pub mod form;
mod status;
mod transitions;

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

pub use events::{Event, Seen, Watcher, count_old_events, list_events, prune_events};
use status::select_row;
pub use status::{Registration, Row, Viewer, find, read};
pub use transitions::{
    mark_abandoned, mark_abandoning, mark_failed, mark_linked, mark_ready, mark_retried,
    mark_superseded, mark_user_added, note_failure,
};

use crate::{
    causes::chain,
    db::Db,
    metrics::Metrics,
    tenants::{self, Tenant, TenantId},
};

/// Pause between two looks for registrations that are late.
const DELAY_PAUSE: Duration = Duration::from_secs(1);

/// Every column of [`Stored`]; a macro because statements are literals.
macro_rules! select_stored {
    ($rest:literal) => {
        concat!(
            "select id, source, external_id, name, domain, email, at_provider, org_id, tenant_id,
                    is_tenant_ours, state, made_by
             from registrations ",
            $rest
        )
    };
}

/// How far a registration is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::Type, Serialize, Deserialize, utoipa::ToSchema,
)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
#[schema(as = RegistrationState)]
pub enum State {
    /// Recorded; nothing was begun yet.
    Accepted,
    /// A step was begun.
    Provisioning,
    /// The tenant is ready.
    Ready,
    /// Given up, until somebody asks again.
    Failed,
    /// Being undone.
    Abandoning,
    /// Undone; nothing is left.
    Abandoned,
}

impl State {
    /// The word as it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Provisioning => "provisioning",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Abandoning => "abandoning",
            Self::Abandoned => "abandoned",
        }
    }

    /// Whether nothing follows by itself.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Ready | Self::Failed | Self::Abandoned => true,
            Self::Accepted | Self::Provisioning | Self::Abandoning => false,
        }
    }
}

/// Whoever has this may read a registration's status: a text that nobody guesses.
#[derive(Clone, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub struct StatusToken(pub String);

impl fmt::Debug for StatusToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusToken(…)")
    }
}

/// A registration to be recorded.
#[derive(Debug)]
pub struct NewRegistration<'a> {
    /// Its id.
    pub id: Uuid,
    /// Name of the source.
    pub source: &'a str,
    /// What the provider's organization is recognised by.
    pub external_id: &'a str,
    /// What was asked for.
    pub form: &'a form::Form,
    /// Principal that asks.
    pub made_by: &'a str,
    /// For whoever follows it.
    pub token: &'a StatusToken,
    /// Whether the provider is called first.
    pub at_provider: bool,
    /// The provider's organization, where it is known already.
    pub org_id: Option<&'a str>,
    /// The tenant.
    pub tenant: TenantId,
    /// Whether the tenant is made for it.
    pub is_tenant_ours: bool,
    /// How far it is: a tenant that was there before may be ready.
    pub state: State,
    /// How long it may take.
    pub deadline: Duration,
}

/// Records a registration; returns it as [`find`] does.
pub async fn insert(tx: &mut PgConnection, new: &NewRegistration<'_>) -> sqlx::Result<Row> {
    let form = new.form;
    sqlx::query_as(concat!(
        "with made as (
             insert into registrations
                 (id, source, external_id, name, slug, domain, email, given_name, family_name, email_key, organization_key,
                  name_key, made_by, credential, at_provider, waits_for_user, org_id, tenant_id, is_tenant_ours, state, may_take,
                  deadline_at, ended_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $20, $12, $13, $14, $14, $15, $16, $17, $18,
                     make_interval(secs => $19), now() + make_interval(secs => $19), case when $18 = 'ready' then now() end)
             returning *
         ) ",
        select_row!("made as registrations", "")
    ))
    .bind(new.id)
    .bind(new.source)
    .bind(new.external_id)
    .bind(&form.name)
    .bind(&form.slug)
    .bind(&form.domain)
    .bind(&form.email)
    .bind(&form.given_name)
    .bind(&form.family_name)
    .bind(&form.email_key)
    .bind(form.organization_key())
    .bind(new.made_by)
    .bind(new.token)
    .bind(new.at_provider)
    .bind(new.org_id)
    .bind(new.tenant)
    .bind(new.is_tenant_ours)
    .bind(new.state)
    .bind(new.deadline.as_secs_f64())
    .bind(form.name_key())
    .fetch_one(tx)
    .await
}

/// Nobody else registers this person, until the transaction ends. Taken before any lock of an external id or host.
pub async fn lock_person(tx: &mut PgConnection, source: &str, email_key: &str) -> sqlx::Result<()> {
    lock(tx, &format!("person {source} {email_key}")).await
}

/// Nobody else decides whose organization an external id is, until the transaction ends.
///
/// Whoever needs several takes them in the order of their texts; before any lock of a host.
pub async fn lock_external_id(
    tx: &mut PgConnection,
    source: &str,
    external_id: &str,
) -> sqlx::Result<()> {
    lock(tx, &format!("external id {source} {external_id}")).await
}

async fn lock(tx: &mut PgConnection, what: &str) -> sqlx::Result<()> {
    sqlx::query(
        "select pg_advisory_xact_lock(hashtextextended('tenantry registration ' || $1, 0))",
    )
    .bind(what)
    .execute(tx)
    .await?;
    Ok(())
}

/// The registration in which this person asked for this organization already, and who asked.
///
/// What one of the two requests leaves out makes no difference, slug or external id.
pub async fn find_same(
    tx: &mut PgConnection,
    source: &str,
    form: &form::Form,
) -> sqlx::Result<Option<Stored>> {
    sqlx::query_as(select_stored!(
        "where source = $1
           and email_key = $2
           and (organization_key = $3
                or (name_key = $4
                    and (slug is null or $5::text is null or slug = $5)
                    and (external_id = id::text or $6::text is null)))
           and superseded_at is null
           and state not in ('abandoning', 'abandoned')
         order by created_at
         limit 1"
    ))
    .bind(source)
    .bind(&form.email_key)
    .bind(form.organization_key())
    .bind(form.name_key())
    .bind(&form.slug)
    .bind(&form.external_id)
    .fetch_optional(tx)
    .await
}

/// The registration that an external id stands for.
pub async fn find_by_external_id(
    tx: &mut PgConnection,
    source: &str,
    external_id: &str,
) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar(
        "select id
         from registrations
         where source = $1
           and external_id = $2
           and superseded_at is null
           and state not in ('abandoning', 'abandoned')",
    )
    .bind(source)
    .bind(external_id)
    .fetch_optional(tx)
    .await
}

/// A registration as the jobs need it.
#[derive(Debug, Clone, FromRow)]
pub struct Stored {
    /// Its id.
    pub id: Uuid,
    /// Name of the source.
    pub source: String,
    /// What the provider's organization is recognised by.
    pub external_id: String,
    /// Name of the organization.
    pub name: String,
    /// E-mail domain of its people.
    pub domain: Option<String>,
    /// Who signs up.
    pub email: String,
    /// Whether the provider is called first.
    pub at_provider: bool,
    /// The provider's organization, once known.
    pub org_id: Option<String>,
    /// The tenant.
    pub tenant_id: Option<TenantId>,
    /// Whether the tenant was made for this registration.
    pub is_tenant_ours: bool,
    /// How far it is.
    pub state: State,
    /// Principal that asked for it.
    pub made_by: String,
}

impl Stored {
    /// Name of the source, and the provider's id of the organization; empty while that is not known.
    pub fn organization(&self) -> (&str, &str) {
        (&self.source, self.org_id.as_deref().unwrap_or_default())
    }

    /// Whether it is still to become ready.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Accepted | State::Provisioning)
    }

    /// Whether the provider's organization is still to be heard of.
    pub fn is_waiting(&self) -> bool {
        self.org_id.is_none() && !matches!(self.state, State::Abandoning | State::Abandoned)
    }

    /// Whether the provider's organization is made for this registration, and can be nobody else's: it is
    /// known there by the registration's own id.
    pub fn is_organization_ours(&self) -> bool {
        self.at_provider && self.external_id == self.id.to_string()
    }
}

/// A registration by its id.
pub async fn find_stored(connection: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<Stored>> {
    sqlx::query_as(select_stored!("where id = $1"))
        .bind(id)
        .fetch_optional(connection)
        .await
}

/// A registration with its tenant; nobody changes either until the transaction ends.
///
/// The tenant is locked first, as whoever changes it does: its registration follows. Jobs are locked before both.
pub async fn lock_with_tenant(
    tx: &mut PgConnection,
    id: Uuid,
) -> sqlx::Result<Option<(Stored, Option<Tenant>)>> {
    loop {
        let Some(seen) = find_stored(tx, id).await? else {
            return Ok(None);
        };
        let tenant = match seen.tenant_id {
            Some(tenant) => tenants::lock(tx, tenant).await?,
            None => None,
        };
        let locked: Option<Stored> = sqlx::query_as(select_stored!("where id = $1 for update"))
            .bind(id)
            .fetch_optional(&mut *tx)
            .await?;
        // another tenant by now: it joined one that was there before
        match locked {
            Some(locked) if locked.tenant_id == seen.tenant_id => {
                return Ok(Some((locked, tenant)));
            }
            Some(_) => {}
            None => return Ok(None),
        }
    }
}

/// The registration of a tenant that is not given up.
pub async fn find_of_tenant(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> sqlx::Result<Option<Stored>> {
    sqlx::query_as(select_stored!(
        "where tenant_id = $1
           and state <> 'abandoned'"
    ))
    .bind(tenant)
    .fetch_optional(connection)
    .await
}

/// Whether an external id is that of a registration that was given up, and whose organization was made for it alone.
pub async fn is_given_up(tx: &mut PgConnection, external_id: &str) -> sqlx::Result<bool> {
    let Ok(id) = external_id.parse::<Uuid>() else {
        return Ok(false);
    };
    sqlx::query_scalar(
        "select exists (
             select
             from registrations
             where id = $1
               and external_id = $2
               and at_provider
               and state in ('abandoning', 'abandoned')
         )",
    )
    .bind(id)
    .bind(external_id)
    .fetch_one(tx)
    .await
}

/// The registration that waits for the provider's organization with this external id.
pub async fn find_waiting_for(
    tx: &mut PgConnection,
    source: &str,
    external_id: &str,
) -> sqlx::Result<Option<Stored>> {
    sqlx::query_as(select_stored!(
        "where source = $1
           and external_id = $2
           and org_id is null
           and superseded_at is null
           and state not in ('abandoning', 'abandoned')"
    ))
    .bind(source)
    .bind(external_id)
    .fetch_optional(tx)
    .await
}

/// Marks those that are late, again and again; does not end.
pub async fn keep_marking_delayed(db: Db, metrics: Metrics) {
    loop {
        match db.run(mark_delayed).await {
            Ok(0) => {}
            Ok(registrations) => {
                metrics.registrations_delayed.inc_by(registrations);
                tracing::warn!(registrations, "registrations take longer than they should");
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), "late registrations were not marked");
            }
        }
        tokio::time::sleep(DELAY_PAUSE).await;
    }
}

/// Marks those that should be ready by now; returns how many.
///
/// Replicas that look at the same time mark each once, and wait for nobody.
pub async fn mark_delayed(connection: &mut PgConnection) -> sqlx::Result<u64> {
    let marked = sqlx::query(
        "with late as (
             select id
             from registrations
             where delayed_at is null
               and ended_at is null
               and deadline_at < now()
               and state in ('accepted', 'provisioning')
             -- whoever has it locked changes it just now: the next look sees how
             for update skip locked
         )
         update registrations
         set delayed_at = now()
         from late
         where registrations.id = late.id",
    );
    Ok(marked.execute(connection).await?.rows_affected())
}

/// How many registrations are in each state; those that ended well are not counted: there may be millions.
pub async fn count_open(connection: &mut PgConnection) -> sqlx::Result<Vec<(String, i64)>> {
    sqlx::query_as(
        "select case when delayed_at is not null and ended_at is null then 'delayed' else state end, count(*)
         from registrations
         where state in ('accepted', 'provisioning', 'failed', 'abandoning')
         group by 1",
    )
    .fetch_all(connection)
    .await
}
