//! The timeline of a tenant, as it happens.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Exit, Failure, printer::Printer};
use crate::{
    db::Db,
    provisioning::{PLAN, steps, steps::StepRecord},
    tenants::{self, Tenant, TenantId, TenantState},
};

const PAUSE: Duration = Duration::from_millis(25);

/// A ready tenant and how it came to be.
#[derive(Debug, Serialize)]
pub(super) struct Story {
    /// The tenant as the API shows it.
    pub(super) tenant: Tenant,
    /// Its steps.
    pub(super) steps: Vec<StepTime>,
    /// From the receipt of the event to ready.
    pub(super) total_ms: f64,
}

/// A step and how long it took.
#[derive(Debug, Serialize)]
pub(super) struct StepTime {
    /// Name of the step.
    pub(super) name: String,
    /// How long it took.
    pub(super) duration_ms: f64,
}

/// Waits for the tenant of an organization.
pub(super) async fn find_by_org(
    db: &Db,
    org_id: &str,
    deadline: Instant,
) -> Result<Tenant, Failure> {
    loop {
        let found = db
            .run(async |connection| tenants::find_by_any(connection, org_id).await)
            .await?;
        if let Some(tenant) = found.into_iter().find(|tenant| tenant.org_id == org_id) {
            return Ok(tenant);
        }
        if Instant::now() > deadline {
            let hint = "is a worker running? `tenantry events ls` shows what became of the event";
            return Err(Failure::new(
                Exit::NotInTime,
                format!("organization {org_id} has no tenant yet"),
                hint,
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Follows a tenant until it is ready; `on_step` is told of each step that was done.
pub(super) async fn follow(
    db: &Db,
    id: TenantId,
    deadline: Instant,
    mut on_step: impl FnMut(&StepRecord),
) -> Result<Story, Failure> {
    let mut told = 0;
    loop {
        let (tenant, steps) = look(db, id).await?;
        let done: Vec<_> = PLAN
            .iter()
            .filter_map(|step| {
                steps
                    .iter()
                    .find(|record| record.name == step.name() && record.state == "done")
            })
            .collect();
        for record in done.iter().skip(told) {
            on_step(record);
        }
        told = done.len();
        match tenant.state {
            TenantState::Ready => return Ok(story(tenant, &done)),
            TenantState::Pending | TenantState::Provisioning if Instant::now() < deadline => {}
            TenantState::Pending | TenantState::Provisioning => return Err(not_in_time(&tenant)),
            state => return Err(ended(&tenant, state)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A tenant and its steps now.
pub(super) async fn look(db: &Db, id: TenantId) -> Result<(Tenant, Vec<StepRecord>), Failure> {
    let found = db
        .run(async |connection| {
            let tenant = tenants::find(connection, id).await?;
            Ok::<_, sqlx::Error>((tenant, steps::list(connection, id).await?))
        })
        .await?;
    match found {
        (Some(tenant), steps) => Ok((tenant, steps)),
        (None, _) => Err(Failure::failed(
            format!("tenant {id} is gone"),
            "tenantry tenants ls",
        )),
    }
}

fn story(tenant: Tenant, done: &[&StepRecord]) -> Story {
    let total = tenant.ready_at.unwrap_or(tenant.updated_at) - tenant.requested_at;
    let time = |record: &&StepRecord| StepTime {
        name: record.name.clone(),
        duration_ms: round(record.duration_ms.unwrap_or(0.0)),
    };
    Story {
        steps: done.iter().map(time).collect(),
        total_ms: round(total.num_microseconds().map_or(0.0, |us| {
            Duration::from_micros(us.unsigned_abs()).as_secs_f64() * 1000.0
        })),
        tenant,
    }
}

fn round(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

fn not_in_time(tenant: &Tenant) -> Failure {
    let cause = tenant.failure.as_ref().map_or_else(
        || format!("it is {}", tenant.state.name()),
        |failure| {
            format!(
                "step {} waits to be tried again: {} [{}]",
                failure.step, failure.cause, failure.code
            )
        },
    );
    let hint = tenant
        .failure
        .as_ref()
        .map_or("is a worker running? `tenantry doctor`", |failure| {
            failure.fix.as_str()
        });
    Failure::new(
        Exit::NotInTime,
        format!("tenant {} is not ready in time: {cause}", tenant.url),
        hint,
    )
}

fn ended(tenant: &Tenant, state: TenantState) -> Failure {
    match &tenant.failure {
        Some(failure) if state == TenantState::Failed => Failure::failed(
            format!(
                "step {} of tenant {} failed: {} [{}]",
                failure.step, tenant.url, failure.cause, failure.code
            ),
            failure.fix.clone(),
        ),
        _ => Failure::failed(
            format!("tenant {} is {}", tenant.url, state.name()),
            "tenantry tenants get <tenant>",
        ),
    }
}

impl Printer {
    /// One line of a timeline.
    pub(super) fn step(self, name: &str, duration_ms: f64) {
        self.data(format!("  ✓ {name:<18} {duration_ms:>8.1} ms"));
    }
}
