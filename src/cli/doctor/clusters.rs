//! Checks of the clusters that hold tenants: version, rights, what PUBLIC may do, templates, disk.

use super::Check;
use crate::{
    causes::chain,
    config::Config,
    tenant_db::{
        Cluster, Clusters, Error,
        probe::{self, Findings},
    },
};

/// Oldest Postgres that works.
const OLDEST: i32 = 140_000;

pub(super) async fn check(config: &Config) -> Vec<Check> {
    let clusters = match Clusters::new(config) {
        Ok(clusters) => clusters,
        Err(error) => {
            return vec![Check::fail(
                "clusters",
                chain(&error),
                "check [[clusters]] and DATABASE_URL",
            )];
        }
    };
    let mut checks = Vec::new();
    for cluster in clusters.iter() {
        match look(cluster).await {
            Ok(findings) => checks.extend(judge(cluster, &findings)),
            Err(error) => checks.push(Check::fail(
                "cluster",
                format!("{}: {}", cluster.name, chain(&error)),
                "check its URL and that it runs",
            )),
        }
    }
    clusters.close().await;
    checks
}

async fn look(cluster: &Cluster) -> Result<Findings, Error> {
    // one direct attempt first: a pool tries again for a minute and forgets the reason
    drop(cluster.connect_for_maintenance().await?);
    cluster
        .run(async |connection| probe::look(connection, &cluster.prefix).await)
        .await
}

fn judge(cluster: &Cluster, findings: &Findings) -> Vec<Check> {
    let name = &cluster.name;
    let version = format!(
        "{}.{}",
        findings.version / 10_000,
        findings.version % 10_000
    );
    let mut checks = vec![if findings.version < OLDEST {
        Check::fail(
            "server version",
            format!("{name}: {version}"),
            "Postgres 14 or newer is needed",
        )
    } else {
        Check::pass("server version", format!("{name}: {version}"))
    }];
    if findings.version < 150_000 && !findings.superuser {
        checks.push(Check::fail(
            "schema public",
            format!("{name}: before Postgres 15 only a superuser can close schema public to tenants' roles"),
            "use Postgres 15 or newer, or a superuser",
        ));
    }
    checks.push(rights(cluster, findings));
    if findings.orphan_directories > 0 {
        checks.push(Check::warn(
            "directories",
            format!("{name}: {} directories under base/ belong to no database (a server crash inside create database)", findings.orphan_directories),
            "look at them with the server stopped, then remove them by hand: SQL cannot",
        ));
    }
    checks.push(match findings.public_databases.as_slice() {
        [] => Check::pass(
            "PUBLIC",
            format!("{name}: PUBLIC can connect to no other database"),
        ),
        open => Check::warn(
            "PUBLIC",
            format!("{name}: tenants' roles can connect to {}", open.join(", ")),
            open.iter()
                .map(|database| format!("revoke connect on database \"{database}\" from public;"))
                .collect::<Vec<_>>()
                .join(" "),
        ),
    });
    if !findings.unusable_databases.is_empty() {
        let fix = "a `drop database` was interrupted: drop them again";
        checks.push(Check::warn(
            "databases",
            format!(
                "{name}: unusable: {}",
                findings.unusable_databases.join(", ")
            ),
            fix,
        ));
    }
    checks.push(templates(name, findings));
    checks.push(connections(name, findings));
    checks.extend(disk(name, findings));
    checks
}

fn templates(name: &str, findings: &Findings) -> Check {
    match (findings.sealed_templates, findings.unsealed_templates) {
        (0, 0) => Check::pass(
            "template",
            format!("{name}: none yet; the first tenant or `serve` builds it"),
        ),
        (sealed, 0) => Check::pass("template", format!("{name}: {sealed} sealed")),
        (_, unsealed) => Check::warn(
            "template",
            format!("{name}: {unsealed} not sealed"),
            "nothing: a builder is at work, or the next one rebuilds it",
        ),
    }
}

fn connections(name: &str, findings: &Findings) -> Check {
    let free = findings.max_connections - findings.connections;
    let found = format!("{name}: {free} of {} free", findings.max_connections);
    if free < 20 {
        Check::warn("connections", found, "raise max_connections")
    } else {
        Check::pass("connections", found)
    }
}

fn rights(cluster: &Cluster, findings: &Findings) -> Check {
    let Cluster { name, prefix, .. } = cluster;
    let user = &findings.user;
    if findings.superuser {
        return Check::pass(
            "rights",
            format!("{name}: {user} is a superuser; CREATEDB and CREATEROLE would do"),
        );
    }
    match findings.missing_rights() {
        None if findings.foreign_roles > 0 => Check::fail(
            "rights",
            format!(
                "{name}: {user} may not administer {} of tenantry's roles, as after an upgrade from Postgres 15 or older",
                findings.foreign_roles
            ),
            format!(
                "as a superuser, in psql: select format('grant %I to \"{user}\" with admin option', rolname) from pg_roles where shobj_description(oid, 'pg_authid') like 'tenantry %' and starts_with(rolname, '{prefix}') \\gexec"
            ),
        ),
        None => Check::pass(
            "rights",
            format!("{name}: {user} may create databases and roles"),
        ),
        Some((missing, fix)) => {
            Check::fail("rights", format!("{name}: {user} lacks {missing}"), fix)
        }
    }
}

/// Free space, where the data directory is on this machine.
fn disk(name: &str, findings: &Findings) -> Option<Check> {
    let directory = findings.data_directory.as_deref()?;
    let space = rustix::fs::statvfs(directory).ok()?;
    let free_mib = space.f_bavail.saturating_mul(space.f_frsize) >> 20;
    Some(if free_mib < 1024 {
        Check::warn(
            "disk",
            format!("{name}: {free_mib} MiB free"),
            "a tenant needs 10 MiB and more: free or add space",
        )
    } else {
        Check::pass("disk", format!("{name}: {} GiB free", free_mib >> 10))
    })
}
