//! `tenantry tenants …`.

mod hosts;
mod manage;

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    Failure, Globals,
    access::{self, Access},
    timeline,
};
use crate::{
    audit::{self, Act},
    page::Asked,
    tenants::{self, Tenant, TenantFilter, TenantState},
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List tenants, newest first
    Ls {
        /// Only tenants in this state
        #[arg(long, value_parser = parse_state)]
        state: Option<TenantState>,
        /// Only tenants of this source
        #[arg(long)]
        source: Option<String>,
        /// Only tenants with this in name, organization id, host or database
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// The most to show
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
    /// Take a ready tenant out of the routing; its database stays
    Suspend {
        /// Id, organization id, host or database
        tenant: String,
    },
    /// Route a suspended tenant again
    Resume {
        /// Id, organization id, host or database
        tenant: String,
    },
    /// Give a tenant labels, or take them away; fleet commands select by them
    Label {
        /// Id, organization id, host or database
        tenant: String,
        /// KEY=VALUE gives a label, KEY- takes one away
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        changes: Vec<String>,
    },
    /// A tenant's hosts beside its own, such as the customer's domain
    #[command(subcommand)]
    Hosts(hosts::Command),
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
        Command::Ls {
            state,
            source,
            search,
            limit,
            json,
        } => {
            let filter = TenantFilter {
                state,
                source,
                search,
                org_id: None,
            };
            list(globals, &access, &filter, limit, json).await
        }
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
            manage::retry(globals, &access, &tenant).await
        }
        Command::Suspend { tenant } => {
            let tenant = find(&access, &tenant).await?;
            manage::suspend(globals, &access, &tenant).await
        }
        Command::Resume { tenant } => {
            let tenant = find(&access, &tenant).await?;
            manage::resume(globals, &access, &tenant).await
        }
        Command::Label { tenant, changes } => {
            let changes = manage::read_labels(&changes)?;
            let tenant = find(&access, &tenant).await?;
            manage::label(globals, &access, &tenant, changes).await
        }
        Command::Hosts(command) => hosts::run(globals, &access, command).await,
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
    filter: &TenantFilter,
    limit: u32,
    json: bool,
) -> Result<(), Failure> {
    let list_page = async |connection: &mut _| {
        tenants::list_page(connection, filter, &Asked::first(limit)).await
    };
    let found = access.db.run(list_page).await?.data;
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
        ("labels", manage::show_labels(&tenant.labels)),
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

async fn connection(
    globals: &Globals,
    access: &Access,
    tenant: &Tenant,
    json: bool,
) -> Result<(), Failure> {
    let url = url(access, tenant).await?;
    let actor = globals.operator();
    let note = async |tx: &mut _| {
        audit::by(tx, &actor).await?;
        audit::note(tx, revealed(tenant)).await
    };
    access.db.transaction(note).await?;
    if json {
        return globals.printer.json(&json!({ "tenant": tenant.id, "url": url, "database": tenant.database, "username": tenant.username }));
    }
    globals.printer.data(url);
    Ok(())
}

fn revealed(tenant: &Tenant) -> Act<'_> {
    Act {
        action: "credential.revealed",
        target_kind: "credential",
        target: &tenant.username,
        organization: Some((&tenant.source, Some(&tenant.org_id))),
    }
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
