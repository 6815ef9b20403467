//! Statements of an operator over many tenants' databases.
//!
//! Guarantees: a tenant's failure does not stop the others; each tenant's statements run in one transaction; what
//! may write is audited per tenant before it begins.
//!
//! Does not: go on after a crash, or do anything twice. What has to be done in every tenant is a migration.

use serde::Serialize;
use sqlx::PgConnection;

use super::{Reach, Unreached, reach::Failed};
use crate::{
    audit::{self, Act, Actor},
    tenant_db::statements::{self, Access, Given},
    tenants::Tenant,
};

/// How many characters of the statements the audit log keeps.
const LONGEST_EXCERPT: usize = 1000;

/// What is to be run, and how.
#[derive(Debug, Clone, Copy)]
pub struct Statements<'a> {
    /// The statements.
    pub sql: &'a str,
    /// What they may do.
    pub access: Access,
    /// How many rows of a tenant are kept at most.
    pub most_rows: usize,
    /// Who wants it.
    pub actor: &'a Actor,
}

/// What became of all tenants.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Tenants where it was done.
    pub done: usize,
    /// Tenants where it was not.
    pub failed: Vec<Unreached>,
}

/// Runs the statements in the tenants' databases; `told` hears what each gave as soon as it has.
pub async fn run(
    reach: &Reach<'_>,
    tenants: &[Tenant],
    statements: Statements<'_>,
    mut told: impl FnMut(&Tenant, &Result<Given, Unreached>),
) -> Summary {
    let mut summary = Summary::default();
    let work = async |tenant: &Tenant, connection: &mut PgConnection| {
        one(reach, tenant, connection, statements).await
    };
    reach
        .each(tenants, work, |tenant, given| {
            told(tenant, &given);
            match given {
                Ok(_) => summary.done += 1,
                Err(failed) => summary.failed.push(failed),
            }
        })
        .await;
    summary
}

async fn one(
    reach: &Reach<'_>,
    tenant: &Tenant,
    connection: &mut PgConnection,
    statements: Statements<'_>,
) -> Result<Given, Failed> {
    let cluster = reach.cluster_of(tenant)?;
    if statements.access == Access::Write {
        let run = serde_json::json!({ "sql": excerpt(statements.sql) });
        note(
            reach,
            tenant,
            "tenant.statements_run",
            &run,
            statements.actor,
        )
        .await?;
    }
    let Statements {
        sql,
        access,
        most_rows,
        ..
    } = statements;
    Ok(statements::run(connection, cluster, sql, access, most_rows).await?)
}

/// Records what is about to be done in a tenant's database.
pub(super) async fn note(
    reach: &Reach<'_>,
    tenant: &Tenant,
    action: &'static str,
    run: &serde_json::Value,
    actor: &Actor,
) -> sqlx::Result<()> {
    let id = tenant.id.to_string();
    let act = Act {
        action,
        target_kind: "tenant",
        target: &id,
        organization: Some((&tenant.source, Some(&tenant.org_id))),
    };
    let note = async |tx: &mut _| {
        audit::by(tx, actor).await?;
        audit::note_with(tx, act, run).await
    };
    reach.db.transaction(note).await
}

/// The beginning of what is run, for the audit log.
pub(super) fn excerpt(text: &str) -> String {
    let is_whole = text.chars().nth(LONGEST_EXCERPT).is_none();
    let begin: String = text.chars().take(LONGEST_EXCERPT).collect();
    if is_whole {
        begin
    } else {
        format!("{begin}…")
    }
}
