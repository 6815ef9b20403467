//! `tenantry tenants hosts ls|add|rm`.

use super::{Access, Failure, Globals, find};
use crate::{
    audit,
    tenants::{self, HostError},
};

#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Command {
    /// List a tenant's hosts beside its own
    Ls {
        /// Id, organization id, host or database
        tenant: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a tenant a further host
    Add {
        /// Id, organization id, host or database
        tenant: String,
        /// The host, such as crm.customer.example
        host: String,
    },
    /// Take a further host from a tenant
    Rm {
        /// Id, organization id, host or database
        tenant: String,
        /// The host
        host: String,
    },
}

pub(super) async fn run(
    globals: &Globals,
    access: &Access,
    command: Command,
) -> Result<(), Failure> {
    match command {
        Command::Ls { tenant, json } => list(globals, access, &tenant, json).await,
        Command::Add { tenant, host } => add(globals, access, &tenant, &host).await,
        Command::Rm { tenant, host } => remove(globals, access, &tenant, &host).await,
    }
}

async fn list(globals: &Globals, access: &Access, tenant: &str, json: bool) -> Result<(), Failure> {
    let tenant = find(access, tenant).await?;
    let list = async |connection: &mut _| tenants::list_hosts(connection, tenant.id).await;
    let hosts = access.db.run(list).await?;
    if json {
        return globals.printer.json(&hosts);
    }
    for host in hosts {
        globals.printer.data(host.host);
    }
    Ok(())
}

async fn add(globals: &Globals, access: &Access, tenant: &str, host: &str) -> Result<(), Failure> {
    let (tenant, actor) = (find(access, tenant).await?, globals.operator());
    let add = async |tx: &mut _| {
        audit::by(tx, &actor).await?;
        tenants::add_host(tx, tenant.id, host).await
    };
    let told = if access.change(add).await? {
        "added; let its name and certificate lead to your proxy"
    } else {
        "it had this host already"
    };
    globals
        .printer
        .data(tenants::normalize_host(host).unwrap_or_default());
    globals.printer.talk(told);
    Ok(())
}

async fn remove(
    globals: &Globals,
    access: &Access,
    tenant: &str,
    host: &str,
) -> Result<(), Failure> {
    let (tenant, actor) = (find(access, tenant).await?, globals.operator());
    let remove = async |tx: &mut _| {
        audit::by(tx, &actor).await?;
        Ok::<_, HostError>(tenants::remove_host(tx, tenant.id, host).await?)
    };
    if !access.change(remove).await? {
        return Err(Failure::failed(
            format!("tenant {} has no further host {host:?}", tenant.url),
            format!("list them: tenantry tenants hosts ls {}", tenant.id),
        ));
    }
    globals
        .printer
        .data(tenants::normalize_host(host).unwrap_or_default());
    Ok(())
}
