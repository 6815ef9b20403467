//! A command of an operator, started for each of many tenants.
//!
//! Guarantees: the URL with the tenant's password is in the environment and never in the arguments; no shell reads the
//! command line; the command ends with us, and when its time is up; a tenant's failure does not stop the
//! others; the command is audited per tenant before it begins.

use secrecy::ExposeSecret;
use sqlx::PgConnection;

use super::{
    Reach, Unreached,
    exec::{Summary, excerpt, note},
    reach::Failed,
};
use crate::{
    audit::Actor,
    provisioning::migrators::child::{self, Program},
    secrets::Keyring,
    tenants::{self, Tenant},
};

/// How much of a command's last output the error of a failure quotes.
const TOLD_CHARACTERS: usize = 500;

/// What is to be started, and how.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    /// The program and its arguments.
    pub argv: &'a [String],
    /// Where it runs.
    pub directory: &'a std::path::Path,
    /// What it gets of our own environment.
    pub environment: &'a [(String, String)],
    /// Opens the tenants' passwords.
    pub keyring: &'a Keyring,
    /// Who wants it.
    pub actor: &'a Actor,
}

/// Starts the command for each tenant; `told` hears what each said as soon as it has ended.
pub async fn run(
    reach: &Reach<'_>,
    tenants: &[Tenant],
    command: Command<'_>,
    mut told: impl FnMut(&Tenant, &Result<String, Unreached>),
) -> Summary {
    let mut summary = Summary::default();
    let work = async |tenant: &Tenant| one(reach, tenant, command).await;
    reach
        .each_within(reach.timeout, tenants, work, |tenant, said| {
            told(tenant, &said);
            match said {
                Ok(_) => summary.done += 1,
                Err(failed) => summary.failed.push(failed),
            }
        })
        .await;
    summary
}

async fn one(reach: &Reach<'_>, tenant: &Tenant, command: Command<'_>) -> Result<String, Failed> {
    let cluster = reach.cluster_of(tenant)?;
    let find =
        async |connection: &mut PgConnection| tenants::find_credential(connection, tenant.id).await;
    let sealed = reach.db.run(find).await?.unwrap_or_default();
    let password = command.keyring.open(tenant.id.0, &sealed)?;
    let url = cluster.tenant_url(&tenant.database, &tenant.username, Some(&password));
    let run = serde_json::json!({ "command": excerpt(&command.argv.join(" ")) });
    note(reach, tenant, "tenant.command_run", &run, command.actor).await?;
    let timeout = format!("-c statement_timeout={}ms", reach.timeout.as_millis());
    let own = [
        ("DATABASE_URL", url),
        // what a command that is cut off has begun in the database ends there as well
        ("PGOPTIONS", timeout),
        // seconds; a host that says nothing would cost the whole of the command's time
        ("PGCONNECT_TIMEOUT", "10".to_owned()),
        ("TENANTRY_TENANT_ID", tenant.id.to_string()),
        ("TENANTRY_ORGANIZATION_ID", tenant.org_id.clone()),
    ];
    let own = own.map(|(name, value)| (name.to_owned(), value));
    let ended = child::run(Program {
        argv: command.argv.to_vec(),
        directory: command.directory,
        environment: command.environment.iter().cloned().chain(own).collect(),
        secret: password.expose_secret(),
    });
    let ended = ended.await.map_err(Failed::NotStarted)?;
    match ended.code {
        0 => Ok(ended.output),
        code => Err(Failed::Command {
            code,
            told: last_words(&ended.output),
        }),
    }
}

fn last_words(output: &str) -> String {
    let output = output.trim();
    let skipped = output.chars().count().saturating_sub(TOLD_CHARACTERS);
    output.chars().skip(skipped).collect()
}
