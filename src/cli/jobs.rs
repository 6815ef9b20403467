//! `tenantry jobs ls|get|retry|cancel`.

use serde_json::json;

use super::{
    Failure, Globals,
    access::{self, Access},
    tenants,
};
use crate::{
    actions,
    page::Asked,
    queue::{self, Filter, JobId, JobState, StoredJob},
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List jobs, newest first
    Ls {
        /// Only jobs in this state
        #[arg(long, value_parser = parse_state)]
        state: Option<JobState>,
        /// Only jobs of this kind, such as `provision_tenant`
        #[arg(long)]
        kind: Option<String>,
        /// Only jobs of this tenant: id, organization id, host or database
        #[arg(long)]
        tenant: Option<String>,
        /// The most to show
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a job and its attempts
    Get {
        /// Number of the job
        job: i64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a job that was given up go on, or one that waits begin now
    Retry {
        /// Number of the job
        job: i64,
    },
    /// Give up a job that waits or is dead, and what it is for
    Cancel {
        /// Number of the job
        job: i64,
    },
}

fn parse_state(text: &str) -> Result<JobState, String> {
    serde_json::from_value(json!(text))
        .map_err(|_| "available, running, completed, dead or cancelled".to_owned())
}

pub(super) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let access = access::open(globals)?;
    match command {
        Command::Ls {
            state,
            kind,
            tenant,
            limit,
            json,
        } => {
            let mut concurrency_key = None;
            if let Some(tenant) = tenant {
                let tenant = tenants::find(&access, &tenant).await?;
                concurrency_key = Some(queue::organization_key(tenant.key()));
            }
            let filter = Filter {
                state,
                kind,
                concurrency_key,
            };
            list(globals, &access, &filter, (limit, json)).await
        }
        Command::Get { job, json } => get(globals, &access, JobId(job), json).await,
        Command::Retry { job } => {
            let (actor, attempts) = (globals.operator(), access.config.queue.max_attempts);
            let retry =
                async |tx: &mut _| actions::retry_job(tx, JobId(job), attempts, &actor).await;
            done(globals, &access.change(retry).await?);
            Ok(())
        }
        Command::Cancel { job } => {
            let actor = globals.operator();
            let cancel = async |tx: &mut _| actions::cancel_job(tx, JobId(job), &actor).await;
            done(globals, &access.change(cancel).await?);
            Ok(())
        }
    }
}

fn done(globals: &Globals, job: &StoredJob) {
    globals.printer.data(job.id.to_string());
    globals
        .printer
        .talk(format!("job {} is {} now", job.id, job.state.name()));
}

async fn list(
    globals: &Globals,
    access: &Access,
    filter: &Filter,
    (limit, json): (u32, bool),
) -> Result<(), Failure> {
    let list_page =
        async |connection: &mut _| queue::list_page(connection, filter, &Asked::first(limit)).await;
    let found = access.db.run(list_page).await?.data;
    if json {
        return globals.printer.json(&found);
    }
    let row = |job: StoredJob| {
        vec![
            job.id.to_string(),
            job.state.name().to_owned(),
            job.kind,
            format!("{}/{}", job.attempt, job.max_attempts),
            job.run_at.format("%Y-%m-%d %H:%M:%S").to_string(),
            job.concurrency_key.unwrap_or_default(),
            job.error_code.unwrap_or_default(),
        ]
    };
    let header = [
        "ID",
        "STATE",
        "KIND",
        "ATTEMPT",
        "DUE (UTC)",
        "ORGANIZATION",
        "PROBLEM",
    ];
    globals.printer.table(&header, found.into_iter().map(row));
    Ok(())
}

async fn get(globals: &Globals, access: &Access, id: JobId, json: bool) -> Result<(), Failure> {
    let find = async |connection: &mut _| {
        let job = queue::find_job(connection, id).await?;
        Ok::<_, sqlx::Error>((job, queue::list_attempts(connection, id).await?))
    };
    let (job, attempts) = access.db.run(find).await?;
    let job = job.ok_or_else(|| actions::Refusal::Job(queue::Refused::Unknown(id)))?;
    if json {
        return globals
            .printer
            .json(&json!({ "job": job, "attempts": attempts }));
    }
    let rows = [
        ("id", job.id.to_string()),
        ("kind", job.kind),
        ("data", job.payload.to_string()),
        ("state", job.state.name().to_owned()),
        (
            "attempts",
            format!("{} of {}", job.attempt, job.max_attempts),
        ),
        ("due", job.run_at.to_rfc3339()),
        ("enqueued", job.created_at.to_rfc3339()),
        (
            "finished",
            job.finished_at
                .map_or_else(|| "—".to_owned(), |at| at.to_rfc3339()),
        ),
    ];
    for (label, value) in rows {
        globals.printer.data(format!("{label:<14}{value}"));
    }
    for attempt in attempts {
        let outcome = attempt.outcome.as_deref().unwrap_or("running");
        let code = attempt.error_code.map(|code| format!(" [{code}]"));
        globals.printer.data(format!(
            "  attempt {:<4} {} {outcome:<10} {}{}",
            attempt.attempt,
            attempt.started_at.format("%Y-%m-%d %H:%M:%S"),
            attempt.error.unwrap_or_default(),
            code.unwrap_or_default(),
        ));
    }
    Ok(())
}
