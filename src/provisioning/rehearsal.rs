//! Rehearsals: a migration tried on a throw-away clone, of a template or of a tenant's database.
//!
//! Guarantees: no tenant is touched: no session is ended, and a database that somebody is in is not
//! cloned; while one is cloned nobody can connect to it, so that takes seconds at most. The clone stays on its
//! cluster, and no tenant's role can connect to it. One rehearsal at a time per cluster, under an advisory
//! lock that ends with its session; the clone is dropped, or the rehearsal has failed; one that was left by a
//! process that died is dropped by whoever rehearses or [sweeps](sweep) next.

use std::time::{Duration, Instant};

use super::{
    Provisioner, StepError,
    migrators::{self, Migrated, Migration, migrate},
    template::{self, TemplateRecord},
};
use crate::{
    blueprint::Blueprint,
    causes::chain,
    queue::worker::Lease,
    tenant_db::{self, Cluster, Ident, MaintenanceSession, Tag, databases, sessions, spare},
    tenants::Tenant,
};

/// How long new connections to a tenant's database may have to wait while it is copied.
const LONGEST_COPY: Duration = Duration::from_secs(10);

/// What is cloned.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// The template of this hash.
    Template(&'a str),
    /// The database of this tenant, with its data.
    Tenant(&'a Tenant),
}

/// What is to be rehearsed.
#[derive(Debug)]
pub struct Rehearsal<'a> {
    /// Where.
    pub cluster: &'a Cluster,
    /// What is cloned.
    pub source: Source<'a>,
    /// The blueprint to bring the clone to.
    pub blueprint: &'a Blueprint,
    /// The template that it is compared with, where there is one.
    pub template: Option<&'a TemplateRecord>,
    /// Whose attempt it is.
    pub tag: &'a Tag,
    /// The proof that its claim is still held.
    pub lease: &'a Lease,
}

/// Clones, migrates and drops; what was done to the clone, and how long that took.
pub async fn rehearse(
    provisioner: &Provisioner,
    rehearsal: &Rehearsal<'_>,
) -> Result<(Migrated, Duration), StepError> {
    let mut session = rehearsal.cluster.connect_for_maintenance().await?;
    while !try_lock(&mut session, rehearsal.cluster).await? {
        // a lock that is waited for would hold a snapshot while the other clones
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let done = on_clone(provisioner, rehearsal, &mut session).await;
    let dropped = drop_left(&mut session, rehearsal.cluster).await;
    session.close().await;
    match (done, dropped) {
        (Ok(done), dropped) => dropped.map(|()| done),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => {
            tracing::warn!(error = chain(&left), "a throw-away clone was left");
            Err(error)
        }
    }
}

/// Drops what rehearsals that were lost have left on a cluster; false while one is under way.
pub async fn sweep(cluster: &Cluster) -> Result<bool, StepError> {
    let mut session = cluster.connect_for_maintenance().await?;
    let is_alone = try_lock(&mut session, cluster).await?;
    let swept = if is_alone {
        drop_left(&mut session, cluster).await
    } else {
        Ok(())
    };
    session.close().await;
    swept?;
    Ok(is_alone)
}

async fn drop_left(session: &mut MaintenanceSession, cluster: &Cluster) -> Result<(), StepError> {
    let drop = async |connection: &mut _| spare::drop_rehearsals(connection, cluster).await;
    Ok(session.run(drop).await?)
}

async fn on_clone(
    provisioner: &Provisioner,
    rehearsal: &Rehearsal<'_>,
    session: &mut MaintenanceSession,
) -> Result<(Migrated, Duration), StepError> {
    let cluster = rehearsal.cluster;
    drop_left(session, cluster).await?;
    let name = match rehearsal.source {
        Source::Template(hash) => clone_template(provisioner, cluster, session, hash).await?,
        Source::Tenant(tenant) => clone_tenant(cluster, session, tenant).await?,
    };
    let open = async |connection: &mut _| spare::open_rehearsal(connection, &name).await;
    session.run(open).await?;
    let started = Instant::now();
    let migration = Migration {
        db: &provisioner.db,
        cluster,
        keyring: &provisioner.keyring,
        blueprint: rehearsal.blueprint,
        database: &name,
        // a program that is told whose database it is might reach for what else the tenant has
        tenant: None,
        mark: None,
        attempt: Some((rehearsal.tag, rehearsal.lease)),
        template: rehearsal.template,
        is_on_record: false,
        recorded_hash: match rehearsal.source {
            Source::Template(hash) => Some(hash),
            Source::Tenant(tenant) => tenant.blueprint_hash.as_deref(),
        },
    };
    let migrated = tokio::select! {
        migrated = migrate(&migration) => migrated?,
        lost = template::keep_alive(session) => return Err(lost),
    };
    Ok((migrated, started.elapsed()))
}

async fn clone_template(
    provisioner: &Provisioner,
    cluster: &Cluster,
    session: &mut MaintenanceSession,
    hash: &str,
) -> Result<Ident, StepError> {
    let known = provisioner
        .db
        .run(async |connection| template::find(connection, &cluster.name, hash).await)
        .await?;
    if known.is_none() {
        let hash = hash.to_owned();
        return Err(StepError::TemplateUnknown { hash });
    }
    let template = template::named(cluster, hash.to_owned())?;
    let name = spare::rehearsal(&cluster.prefix, hash)?;
    let clone = async |connection: &mut _| {
        databases::clone_template(connection, cluster, &template.database, &name).await
    };
    if session.run(clone).await? {
        Ok(name)
    } else {
        Err(appeared(&name))
    }
}

/// Only while nobody is in it: the server would wait for its sessions to end, and let nobody in meanwhile.
async fn clone_tenant(
    cluster: &Cluster,
    session: &mut MaintenanceSession,
    tenant: &Tenant,
) -> Result<Ident, StepError> {
    let source = Ident::new(&tenant.database).map_err(tenant_db::Error::from)?;
    let find = async |connection: &mut _| databases::find(connection, source.as_str()).await;
    let Some(facts) = session.run(find).await? else {
        let database = tenant.database.clone();
        return Err(migrators::Error::DatabaseGone { database }.into());
    };
    let mark = facts.mark(&cluster.owner);
    if mark.is_none_or(|mark| mark.tenant != tenant.id.0) {
        let (name, found) = (tenant.database.clone(), facts.describe());
        return Err(tenant_db::Error::ForeignDatabase { name, found }.into());
    }
    let not_copied = |why| {
        let database = tenant.database.clone();
        Err(StepError::NotCopied { database, why })
    };
    let in_use = |who: &str| format!("{who} would have to leave it");
    let describe = async |connection: &mut _| sessions::describe_all(connection, &source).await;
    if let Some(who) = session.run(describe).await? {
        return not_copied(in_use(&who));
    }
    // the end of an id is what differs between tenants of one moment
    let name = spare::rehearsal(&cluster.prefix, &tenant.id.0.simple().to_string()[16..])?;
    let clone = async |connection: &mut _| {
        databases::clone_tenant(connection, cluster, &source, &name, LONGEST_COPY).await
    };
    match session.run(clone).await {
        Ok(true) => Ok(name),
        Ok(false) => Err(appeared(&name)),
        Err(error) => match error.sqlstate().as_deref() {
            // who came in the same moment may have left again
            Some("55006") => {
                let who = session.run(describe).await?;
                not_copied(in_use(
                    who.as_deref().unwrap_or("a session that is gone now"),
                ))
            }
            Some("57014") => not_copied(format!(
                "that takes longer than {} s, and nobody could connect to it meanwhile",
                LONGEST_COPY.as_secs()
            )),
            _ => Err(error.into()),
        },
    }
}

fn appeared(name: &Ident) -> StepError {
    let found = "it appeared while it was being made".to_owned();
    let name = name.as_str().to_owned();
    tenant_db::Error::ForeignDatabase { name, found }.into()
}

async fn try_lock(session: &mut MaintenanceSession, cluster: &Cluster) -> Result<bool, StepError> {
    let name = format!("{}rehearsal", cluster.prefix);
    Ok(session.try_lock(&name).await?)
}
