//! `tenantry tenants ls|get|watch|retry|connection`.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    Failure, Globals,
    access::{self, Access},
    timeline,
};
use crate::{
    jobs,
    tenants::{self, Tenant, TenantState},
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List tenants, newest first
    Ls {
        /// Only tenants in this state
        #[arg(long, value_parser = parse_state)]
        state: Option<TenantState>,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a tenant and its steps
    Get {
        /// Id, organization id, host or database
        tenant: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Follow a tenant until it is ready
    Watch {
        /// Id, organization id, host or database
        tenant: String,
        /// Give up after so many seconds
        #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(..=31_536_000))]
        timeout: u64,
    },
    /// Try a failed tenant again, from the step that failed
    Retry {
        /// Id, organization id, host or database
        tenant: String,
    },
    /// Print the URL with which a tenant's role connects, with its password
    Connection {
        /// Id, organization id, host or database
        tenant: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

fn parse_state(text: &str) -> Result<TenantState, String> {
    serde_json::from_value(json!(text)).map_err(|_| {
        "pending, provisioning, ready, failed, suspended, archived or deleted".to_owned()
    })
}

pub(super) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let access = access::open(globals)?;
    match command {
        Command::Ls { state, limit, json } => list(globals, &access, state, limit, json).await,
        Command::Get { tenant, json } => {
            get(globals, &find(&access, &tenant).await?, &access, json).await
        }
        Command::Watch { tenant, timeout } => {
            let tenant = find(&access, &tenant).await?;
            let deadline = Instant::now() + Duration::from_secs(timeout);
            let printer = globals.printer;
            let story = timeline::follow(&access.db, tenant.id, deadline, |step| {
                printer.step(&step.name, step.duration_ms.unwrap_or(0.0));
            });
            let story = story.await?;
            printer.data(format!(
                "{} is ready after {:.1} ms",
                story.tenant.url, story.total_ms
            ));
            Ok(())
        }
        Command::Retry { tenant } => {
            let tenant = find(&access, &tenant).await?;
            retry(globals, &access, &tenant).await
        }
        Command::Connection { tenant, json } => {
            let tenant = find(&access, &tenant).await?;
            connection(globals, &access, &tenant, json).await
        }
    }
}

/// The one tenant that the text names.
pub(super) async fn find(access: &Access, text: &str) -> Result<Tenant, Failure> {
    let mut found = access
        .db
        .run(async |connection| tenants::find_by_any(connection, text).await)
        .await?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Failure::failed(
            format!("no tenant is named {text:?}"),
            "give its id, organization id, host or database: tenantry tenants ls",
        )),
        _ => Err(Failure::failed(
            format!("{} tenants are named {text:?}", found.len()),
            "give the tenant's id: tenantry tenants ls",
        )),
    }
}

async fn list(
    globals: &Globals,
    access: &Access,
    state: Option<TenantState>,
    limit: u32,
    json: bool,
) -> Result<(), Failure> {
    let found = access
        .db
        .run(async |connection| tenants::list(connection, state, limit.into()).await)
        .await?;
    if json {
        return globals.printer.json(&found);
    }
    if found.is_empty() {
        globals
            .printer
            .talk("no tenants yet; try: tenantry trigger organization.created --name Acme");
        return Ok(());
    }
    globals.printer.table(
        &["STATE", "URL", "NAME", "DATABASE", "VERSION", "ID"],
        found.into_iter().map(|tenant| {
            let name = tenant.name.chars().take(30).collect();
            vec![
                tenant.state.name().to_owned(),
                tenant.url,
                name,
                tenant.database,
                tenant.alembic_version,
                tenant.id.to_string(),
            ]
        }),
    );
    Ok(())
}

async fn get(
    globals: &Globals,
    tenant: &Tenant,
    access: &Access,
    json: bool,
) -> Result<(), Failure> {
    let (tenant, steps) = timeline::look(&access.db, tenant.id).await?;
    if json {
        return globals
            .printer
            .json(&json!({ "tenant": tenant, "steps": steps }));
    }
    let printer = globals.printer;
    let rows = [
        ("id", tenant.id.to_string()),
        (
            "organization",
            format!("{} ({})", tenant.org_id, tenant.source),
        ),
        ("name", tenant.name),
        ("state", tenant.state.name().to_owned()),
        ("url", tenant.url),
        (
            "database",
            format!(
                "{} on {}",
                tenant.database,
                tenant.cluster.as_deref().unwrap_or("no cluster yet")
            ),
        ),
        ("role", tenant.username),
        ("version", tenant.alembic_version),
        ("requested", tenant.requested_at.to_rfc3339()),
        (
            "ready",
            tenant
                .ready_at
                .map_or_else(|| "not yet".to_owned(), |at| at.to_rfc3339()),
        ),
    ];
    for (label, value) in rows {
        printer.data(format!("{label:<14}{value}"));
    }
    for step in steps {
        match (step.duration_ms, step.error) {
            (Some(duration_ms), None) => printer.step(&step.name, duration_ms),
            (_, Some(error)) => printer.data(format!(
                "  ✗ {:<18} attempt {}: {error}",
                step.name, step.attempts
            )),
            (None, None) => {
                printer.data(format!("  … {:<18} attempt {}", step.name, step.attempts));
            }
        }
    }
    if let Some(failure) = tenant.failure {
        printer.data(format!(
            "problem       {} [{}]\nfix           {}",
            failure.cause, failure.code, failure.fix
        ));
    }
    Ok(())
}

async fn retry(globals: &Globals, access: &Access, tenant: &Tenant) -> Result<(), Failure> {
    let max_attempts = access.config.queue.max_attempts;
    let actor = globals.operator();
    let retried = jobs::retry_tenant(&access.db, tenant, max_attempts, &actor)
        .await
        .map_err(|error| Failure::unexpected(&error))?;
    if !retried {
        let message = format!(
            "tenant {} is {}, not failed",
            tenant.url,
            tenant.state.name()
        );
        return Err(Failure::failed(
            message,
            format!("tenantry tenants get {}", tenant.id),
        ));
    }
    globals.printer.data(tenant.id.to_string());
    globals.printer.talk(format!(
        "tried again; follow it with: tenantry tenants watch {}",
        tenant.id
    ));
    Ok(())
}

async fn connection(
    globals: &Globals,
    access: &Access,
    tenant: &Tenant,
    json: bool,
) -> Result<(), Failure> {
    let url = url(access, tenant).await?;
    if json {
        return globals.printer.json(&json!({ "tenant": tenant.id, "url": url, "database": tenant.database, "username": tenant.username }));
    }
    globals.printer.data(url);
    Ok(())
}

/// The URL with the tenant's password.
pub(super) async fn url(access: &Access, tenant: &Tenant) -> Result<String, Failure> {
    let Some(cluster) = &tenant.cluster else {
        return Err(Failure::failed(
            format!("tenant {} has no database yet", tenant.url),
            format!("tenantry tenants watch {}", tenant.id),
        ));
    };
    let sealed = access
        .db
        .run(async |connection| tenants::find_credential(connection, tenant.id).await)
        .await?;
    let password = access
        .keyring()?
        .open(tenant.id.0, &sealed.unwrap_or_default())
        .map_err(|error| {
            Failure::failed(error, "configure the key that sealed it in secrets.keys")
        })?;
    let clusters = access.clusters()?;
    let cluster = clusters
        .get(cluster)
        .map_err(|error| Failure::failed(error, "configure it in [[clusters]]"))?;
    Ok(cluster.tenant_url(&tenant.database, &tenant.username, Some(&password)))
}
