//! `process_event`: what a received event does to organizations and tenants.
//!
//! Guarantees: the event's effects, the job for what follows, the event's new state and the end of
//! this job are one transaction; descriptions count by the provider's `updated_at`, deletions for
//! ever, so that any order and any repetition of the same events ends in the same state.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{FAULT_POINTS, JobContext, JobError};
use crate::{
    causes::chain,
    inbox,
    queue::{
        self, Claim, Failure, Job, NewJob,
        worker::{Outcome, Settled},
    },
    tenants::{
        self, NewTenant,
        organizations::{self, Description, Upserted},
    },
    webhooks::{self, IdentityEvent, Meaning, Organization, Said},
};

pub(super) async fn run(cx: &JobContext, claim: &Claim, event: i64) -> Result<Outcome, JobError> {
    let stored = cx
        .db
        .run(async |connection| inbox::find_body(connection, event).await)
        .await?;
    let Some(stored) = stored.filter(|stored| stored.state == "received") else {
        // settled by an attempt whose completion was not recorded, or pruned
        return Ok(Outcome::Done);
    };
    let Some(source) = cx.sources.get(&stored.source) else {
        let error = format!("source {} is not configured any more", stored.source);
        return Err(JobError::Retry(Failure {
            code: "source_unknown",
            error,
        }));
    };
    let meaning = match webhooks::read_received(
        source.kind,
        &source.mapping,
        &stored.body,
        stored.received_at,
    )
    .meaning
    {
        Meaning::Events(mut events) => events.pop(),
        Meaning::Ignored => None,
        Meaning::Unreadable(reason) => {
            let failure = Failure {
                code: "event_unreadable",
                error: chain(&reason),
            };
            return Err(JobError::Discard(failure, None));
        }
    };
    let faults = &cx.provisioner.faults;
    faults.hit(FAULT_POINTS[0]).await?;
    let origin = Origin {
        source: &stored.source,
        received_at: stored.received_at,
    };
    let follow_up = cx
        .db
        .transaction(async |tx| {
            let applied = match &meaning {
                Some(meaning) => apply(cx, tx, &origin, meaning).await?,
                None => Applied {
                    note: Some("no meaning for tenantry"),
                    enqueued: false,
                },
            };
            inbox::mark_processed(tx, event, applied.note).await?;
            queue::complete(tx, claim).await?;
            faults.hit(FAULT_POINTS[1]).await?;
            Ok::<_, JobError>(applied.enqueued)
        })
        .await?;
    faults.hit(FAULT_POINTS[2]).await?;
    if follow_up {
        cx.waker.wake();
    }
    Ok(Outcome::Settled(Settled::Completed))
}

struct Origin<'a> {
    source: &'a str,
    received_at: DateTime<Utc>,
}

/// What an event did.
#[derive(Default)]
struct Applied {
    note: Option<&'static str>,
    enqueued: bool,
}

async fn apply(
    cx: &JobContext,
    tx: &mut PgConnection,
    origin: &Origin<'_>,
    event: &IdentityEvent,
) -> Result<Applied, JobError> {
    match event {
        IdentityEvent::Organization(said) => match said.deleted_at {
            None => upsert_organization(cx, tx, origin, said).await,
            Some(deleted_at) => {
                if let Some(last) = describe(origin.source, said) {
                    organizations::delete(tx, &last, deleted_at).await?;
                }
                tenants::mark_suspended(tx, origin.source, &said.id).await?;
                tenants::follow_name(tx, origin.source, &said.id).await?;
                Ok(Applied::default())
            }
        },
        _ => Ok(Applied::default()),
    }
}

fn describe<'a>(source: &'a str, said: &'a Said<Organization>) -> Option<Description<'a>> {
    let described = said.described.as_ref()?;
    Some(Description {
        source,
        org_id: &said.id,
        name: &described.content.name,
        external_id: described.content.external_id.as_deref(),
        metadata: &described.content.metadata,
        updated_at: described.updated_at,
    })
}

async fn upsert_organization(
    cx: &JobContext,
    tx: &mut PgConnection,
    origin: &Origin<'_>,
    organization: &Said<Organization>,
) -> Result<Applied, JobError> {
    let Some(described) = describe(origin.source, organization) else {
        return Ok(Applied::default());
    };
    let upserted = organizations::upsert(tx, &described).await?;
    if upserted == Upserted::Deleted {
        tenants::follow_name(tx, origin.source, &organization.id).await?;
        let note = "the organization was deleted; a later event does not bring it back";
        return Ok(Applied {
            note: Some(note),
            enqueued: false,
        });
    }
    let new = NewTenant {
        source: origin.source,
        org_id: &organization.id,
        name: described.name,
        requested_at: origin.received_at,
    };
    let (names, keyring) = (&cx.provisioner.names, &cx.provisioner.keyring);
    let inserted =
        tenants::insert(tx, &new, names, keyring)
            .await
            .map_err(|error| match error {
                tenants::Error::Sql(error) => JobError::from(error),
                error => JobError::Retry(Failure {
                    code: "tenant_not_recorded",
                    error: chain(&error),
                }),
            })?;
    match (inserted, upserted) {
        (Some(tenant), _) => {
            let job = NewJob {
                job: Job::ProvisionTenant { tenant: tenant.0 },
                concurrency_key: Some(format!("{}:{}", origin.source, organization.id)),
                unique_key: Some(format!("provision:{tenant}")),
                max_attempts: cx.max_attempts,
            };
            queue::enqueue(tx, &job).await?;
            Ok(Applied {
                note: None,
                enqueued: true,
            })
        }
        (None, Upserted::Newest) => {
            tenants::follow_name(tx, origin.source, &organization.id).await?;
            Ok(Applied::default())
        }
        (None, _) => Ok(Applied {
            note: Some("a newer description was there already"),
            enqueued: false,
        }),
    }
}
