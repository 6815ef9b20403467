//! What every tenant's database has beside the user's schema: the ledger, and the application's rights.

use sqlx::{AssertSqlSafe, PgConnection};

use super::super::StepError;
use crate::tenant_db::{self, Cluster};

/// Makes our own schema in a new database: what was applied and what was seeded.
pub(in crate::provisioning) async fn prepare(
    connection: &mut PgConnection,
    cluster: &Cluster,
) -> Result<(), StepError> {
    let owner = &cluster.owner;
    let sql = format!(
        "grant usage, create on schema public to {owner};
         create schema tenantry authorization {owner};
         set role {owner};
         create table tenantry.migrations (
             name text primary key,
             sha256 text not null,
             applied_at timestamptz not null default now()
         );
         create table tenantry.seeds (
             name text primary key,
             seeded_at timestamptz not null default now()
         );
         reset role"
    );
    run(connection, "making the ledger", sql).await
}

/// DML rights for the application group on everything there is and will be; nothing for PUBLIC.
pub(in crate::provisioning) async fn grant(
    connection: &mut PgConnection,
    cluster: &Cluster,
) -> Result<(), StepError> {
    let (owner, app) = (&cluster.owner, &cluster.app);
    let sql = format!(
        "revoke all on schema public from public;
         -- before Postgres 15 it is not the owner's
         grant usage on schema public to {app};
         set role {owner};
         do $$
         declare
             target text;
         begin
             for target in
                 select quote_ident(nspname)
                 from pg_namespace
                 where nspname not in ('information_schema', 'tenantry')
                   and nspname !~ '^pg_'
             loop
                 execute 'grant usage on schema ' || target || ' to {app}';
                 execute 'grant select, insert, update, delete on all tables in schema ' || target || ' to {app}';
                 execute 'grant usage, select on all sequences in schema ' || target || ' to {app}';
                 execute 'alter default privileges in schema ' || target
                     || ' grant select, insert, update, delete on tables to {app}';
                 execute 'alter default privileges in schema ' || target
                     || ' grant usage, select on sequences to {app}';
             end loop;
         end
         $$;
         reset role"
    );
    run(connection, "giving the application its rights", sql).await
}

async fn run(connection: &mut PgConnection, doing: &str, sql: String) -> Result<(), StepError> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map_err(tenant_db::Error::sql(doing))?;
    Ok(())
}
