//! `register_organization`: what a registration needs at the provider, before its tenant is made.
//!
//! Guarantees: the provider has one organization of the registration, found by its external id whenever
//! an attempt died between making it and recording it; whoever signed up administers it or is invited
//! to; the tenant is begun only then, in the transaction that completes the job.

use std::time::Instant;

use uuid::Uuid;

use super::{JobContext, JobError, hear, revoke_invitation::client_of};
use crate::{
    audit::Actor,
    causes::chain,
    identity::{self, Heard},
    members::{self, Organization, Promise},
    provider_api::{Client, NewMember, NewOrganization, Refusal as ProviderRefusal},
    provisioning::steps::{self, CREATE_ORGANIZATION, INVITE_USER, Went},
    queue::{
        self, Claim, Failure, NewJob,
        worker::{Lease, Outcome, Settled},
    },
    registrations::{self, Stored},
    tenants::{self, TenantFailure, TenantId, TenantState},
    webhooks::IdentityEvent,
};

pub(super) async fn run(
    cx: &JobContext,
    claim: &Claim,
    lease: &Lease,
    id: Uuid,
) -> Result<Outcome, JobError> {
    let Some((registration, tenant)) = find_open(cx, id).await? else {
        return Ok(Outcome::Done);
    };
    let attempt = Attempt {
        cx,
        claim,
        lease,
        id,
    };
    let mut step = CREATE_ORGANIZATION;
    let failure = match attempt.make(registration, tenant, &mut step).await {
        Ok(()) => return Ok(Outcome::Settled(Settled::Completed)),
        // whoever abandoned it has a job of their own, which undoes what was made
        Err(Stopped::Abandoned) => return Ok(Outcome::Done),
        Err(Stopped::Failed(JobError::Lost)) => return Err(JobError::Lost),
        Err(Stopped::Failed(failure)) => failure,
    };
    attempt.note(tenant, step, failure).await
}

/// Why an attempt went no further.
enum Stopped {
    /// The registration was abandoned meanwhile.
    Abandoned,
    /// Something failed.
    Failed(JobError),
}

impl<E: Into<JobError>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The registration, if it is still to become ready.
async fn find_open(cx: &JobContext, id: Uuid) -> Result<Option<(Stored, TenantId)>, JobError> {
    let found = cx
        .db
        .run(async |connection| registrations::find_stored(connection, id).await)
        .await?;
    let open = found.filter(Stored::is_open);
    Ok(open.and_then(|registration| Some((registration.clone(), registration.tenant_id?))))
}

/// One attempt of the job.
struct Attempt<'a> {
    cx: &'a JobContext,
    claim: &'a Claim,
    lease: &'a Lease,
    id: Uuid,
}

impl Attempt<'_> {
    async fn make(
        &self,
        mut registration: Stored,
        mut tenant: TenantId,
        step: &mut &'static str,
    ) -> Result<(), Stopped> {
        let client = client_of(self.cx, &registration.source)?;
        if registration.org_id.is_none() {
            let started = self.start(tenant, CREATE_ORGANIZATION).await?;
            let said = self.make_organization(client, &registration).await?;
            (registration, tenant) = self.record(said, started).await?;
        }
        *step = INVITE_USER;
        let started = self.start(tenant, INVITE_USER).await?;
        let org_id = registration.org_id.clone().unwrap_or_default();
        let said = self.add_user(client, &registration, &org_id).await?;
        self.finish(&registration, (tenant, &org_id), said, started)
            .await
    }

    async fn start(&self, tenant: TenantId, step: &'static str) -> Result<Instant, Stopped> {
        self.check_lease()?;
        self.cx
            .db
            .transaction(async |tx| {
                queue::assert_held(tx, self.claim).await?;
                self.still_open(tx).await?;
                steps::note_at_provider(tx, tenant, step, Went::Begun).await?;
                Ok::<_, Stopped>(())
            })
            .await?;
        Ok(Instant::now())
    }

    /// After a long stop somebody else has the job.
    fn check_lease(&self) -> Result<(), JobError> {
        if self.lease.is_held() {
            Ok(())
        } else {
            Err(JobError::Lost)
        }
    }

    /// The organization at the provider, made unless it is there.
    async fn make_organization(
        &self,
        client: &Client,
        registration: &Stored,
    ) -> Result<Vec<IdentityEvent>, JobError> {
        self.check_lease()?;
        let new = NewOrganization {
            name: &registration.name,
            external_id: &registration.external_id,
            domain: registration.domain.as_deref(),
        };
        Ok(client.create_organization(&new).await?)
    }

    /// Records the organization, and that the registration's tenant is its.
    async fn record(
        &self,
        said: Vec<IdentityEvent>,
        started: Instant,
    ) -> Result<(Stored, TenantId), Stopped> {
        let Some(org_id) = identity::organization_in(&said) else {
            let error = "the answer about the organization is about something else".to_owned();
            return Err(JobError::Retry(Failure::new("provider_unreadable", error)).into());
        };
        self.cx
            .db
            .transaction(async |tx| {
                identity::lock(tx).await?;
                queue::assert_held(tx, self.claim).await?;
                let before = self.still_open(tx).await?;
                let heard = Heard::from_api(&before.source, said);
                hear::hear(self.cx, tx, &[heard]).await?;
                let mut after = self.still_open(tx).await?;
                if after.org_id.is_none() {
                    hear::join_known(tx, &after, &org_id).await?;
                    after = self.still_open(tx).await?;
                }
                let tenant = after.tenant_id.ok_or(JobError::Lost)?;
                let done = Went::Done(started.elapsed());
                steps::note_at_provider(tx, tenant, CREATE_ORGANIZATION, done).await?;
                Ok((after, tenant))
            })
            .await
    }

    /// Whoever signed up, where the provider knows them already: their membership.
    async fn add_user(
        &self,
        client: &Client,
        registration: &Stored,
        org_id: &str,
    ) -> Result<Vec<IdentityEvent>, JobError> {
        let Some(mut said) = client.find_user_by_email(&registration.email).await? else {
            return Ok(Vec::new());
        };
        let user_id = said.iter().find_map(|event| match event {
            IdentityEvent::User(said) => Some(said.id.clone()),
            _ => None,
        });
        if let Some(user_id) = user_id {
            self.check_lease()?;
            let new = NewMember {
                org_id,
                user_id: &user_id,
                role: &self.cx.provisioner.admin_role,
            };
            match client.add_member(&new).await {
                Ok(membership) => said.extend(membership),
                // invited before: whoever is, has what was wanted
                Err(error) if error.reason() == Some(ProviderRefusal::MembershipPending) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(said)
    }

    /// Records the membership, or asks for an invitation; the tenant is begun.
    async fn finish(
        &self,
        registration: &Stored,
        (tenant, org_id): (TenantId, &str),
        said: Vec<IdentityEvent>,
        started: Instant,
    ) -> Result<(), Stopped> {
        let cx = self.cx;
        cx.db
            .transaction(async |tx| {
                identity::lock(tx).await?;
                queue::assert_held(tx, self.claim).await?;
                self.still_open(tx).await?;
                if said.is_empty() {
                    self.invite(tx, registration, org_id).await?;
                } else {
                    let heard = Heard::from_api(&registration.source, said);
                    hear::hear(cx, tx, &[heard]).await?;
                }
                let done = Went::Done(started.elapsed());
                steps::note_at_provider(tx, tenant, INVITE_USER, done).await?;
                registrations::mark_user_added(tx, self.id).await?;
                // locked above: it does not become ready in between
                let found = tenants::find(tx, tenant).await?;
                if found.is_some_and(|tenant| tenant.state == TenantState::Ready) {
                    registrations::mark_ready(tx, self.id).await?;
                } else {
                    let key = (registration.source.as_str(), org_id);
                    queue::enqueue(
                        tx,
                        &NewJob::provision_tenant(tenant.0, key, cx.max_attempts),
                    )
                    .await?;
                }
                queue::complete(tx, self.claim).await?;
                Ok::<_, Stopped>(())
            })
            .await?;
        cx.waker.wake();
        Ok(())
    }

    async fn invite(
        &self,
        tx: &mut sqlx::PgConnection,
        registration: &Stored,
        org_id: &str,
    ) -> Result<(), JobError> {
        let role = self.cx.provisioner.admin_role.as_str();
        let of = Organization {
            source: &registration.source,
            org_id,
            admin_role: role,
        };
        let promise = Promise {
            email: &registration.email,
            role: Some(role),
            customer_id: None,
        };
        let key = registration.made_by.trim_start_matches("key:").to_owned();
        let organization = (of.source, of.org_id);
        let attempts = self.cx.max_attempts;
        let send = |invitation| NewJob::send_invitation(invitation, organization, attempts);
        match members::invite(tx, of, promise, &Actor::Key(key), send).await {
            // an earlier attempt asked for it, or the provider's event came first
            Ok(_) | Err(members::Error::AlreadyThere(_)) => Ok(()),
            Err(members::Error::Sql(error)) => Err(error.into()),
            Err(members::Error::Queue(error)) => Err(error.into()),
            Err(error) => Err(JobError::Discard(
                Failure::new(error.code(), chain(&error)),
                None,
            )),
        }
    }

    /// The registration, unless it was abandoned meanwhile: then nothing more is made.
    async fn still_open(&self, tx: &mut sqlx::PgConnection) -> Result<Stored, Stopped> {
        let found = registrations::lock_with_tenant(tx, self.id).await?;
        let found = found.map(|(registration, _)| registration);
        found.filter(Stored::is_open).ok_or(Stopped::Abandoned)
    }

    /// Whoever follows the registration sees why it takes another attempt, or fails.
    async fn note(
        &self,
        tenant: TenantId,
        step: &'static str,
        error: JobError,
    ) -> Result<Outcome, JobError> {
        let (failure, is_final) = match error {
            JobError::Lost => return Err(JobError::Lost),
            JobError::Retry(failure) => {
                let is_final = self.claim.is_last_attempt() && failure.retry_after.is_none();
                (failure, is_final)
            }
            JobError::Discard(failure, _) => (failure, true),
        };
        let told = TenantFailure {
            step: step.to_owned(),
            code: failure.code.to_owned(),
            cause: failure.error.clone(),
            fix: format!("tenantry tenants retry {tenant}"),
        };
        let noted = self
            .cx
            .db
            .transaction(async |tx| {
                queue::assert_held(tx, self.claim).await?;
                steps::note_at_provider(tx, tenant, step, Went::Failed(&failure)).await?;
                registrations::note_failure(tx, self.id, &told).await?;
                Ok::<_, JobError>(())
            })
            .await;
        match noted {
            Err(JobError::Lost) => Err(JobError::Lost),
            // a database that is away cannot take the note; the attempt keeps the error all the same
            _ if is_final => Err(JobError::Discard(failure, Some(Box::new(told)))),
            _ => Err(JobError::Retry(failure)),
        }
    }
}
