//! Rehearsals: a migration tried on a throw-away clone of a template.
//!
//! Guarantees: no tenant is touched; one rehearsal at a time per cluster, under an advisory lock that ends
//! with its session; the clone is dropped, and one that was left by a process that died is dropped by
//! whoever rehearses next.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};

use super::{
    Provisioner, StepError,
    migrators::{Migrated, Migration, migrate},
    template::{self, TemplateRecord},
};
use crate::{
    blueprint::Blueprint,
    causes::chain,
    tenant_db::{self, Cluster, Tag, databases},
};

/// What is to be rehearsed.
#[derive(Debug)]
pub struct Rehearsal<'a> {
    /// Where.
    pub cluster: &'a Cluster,
    /// Hash of the blueprint whose template is cloned.
    pub from: &'a str,
    /// The blueprint to bring the clone to.
    pub blueprint: &'a Blueprint,
    /// The template that it is compared with, where there is one.
    pub template: Option<&'a TemplateRecord>,
    /// Whose attempt it is.
    pub tag: &'a Tag,
}

/// Clones, migrates and drops; what was done to the clone, and how long that took.
pub async fn rehearse(
    provisioner: &Provisioner,
    rehearsal: &Rehearsal<'_>,
) -> Result<(Migrated, Duration), StepError> {
    let mut session = rehearsal.cluster.connect_for_maintenance().await?;
    lock(&mut session, rehearsal.cluster).await?;
    let done = on_clone(provisioner, rehearsal, &mut session).await;
    if let Err(left) = databases::drop_rehearsals(&mut session, rehearsal.cluster).await {
        tracing::warn!(
            error = chain(&left),
            "a throw-away clone was left; the next rehearsal drops it"
        );
    }
    // ends the session and with it the lock
    let _ = session.close().await;
    done
}

async fn on_clone(
    provisioner: &Provisioner,
    rehearsal: &Rehearsal<'_>,
    session: &mut PgConnection,
) -> Result<(Migrated, Duration), StepError> {
    let (cluster, hash) = (rehearsal.cluster, rehearsal.from);
    databases::drop_rehearsals(session, cluster).await?;
    let known = provisioner
        .db
        .run(async |connection| template::find(connection, &cluster.name, hash).await)
        .await?;
    if known.is_none() {
        let hash = hash.to_owned();
        return Err(StepError::TemplateUnknown { hash });
    }
    let template = template::named(cluster, hash.to_owned())?;
    let name = databases::rehearsal(&cluster.prefix, hash)?;
    if !databases::clone_template(session, cluster, &template.database, &name).await? {
        let found = "it appeared while it was being made".to_owned();
        let name = name.as_str().to_owned();
        return Err(tenant_db::Error::ForeignDatabase { name, found }.into());
    }
    databases::open_rehearsal(session, &name).await?;
    let started = Instant::now();
    let migration = Migration {
        db: &provisioner.db,
        cluster,
        keyring: &provisioner.keyring,
        blueprint: rehearsal.blueprint,
        database: &name,
        tenant: None,
        tag: Some(rehearsal.tag),
        head: rehearsal.template.map(|record| record.version.as_str()),
        expected: rehearsal.template.map(|record| record.fingerprint.as_str()),
    };
    let migrated = tokio::select! {
        migrated = migrate(&migration) => migrated?,
        lost = template::keep_alive(session) => return Err(lost),
    };
    Ok((migrated, started.elapsed()))
}

/// Waits its turn with a try-lock: a waiting one would hold a snapshot while the other clones.
async fn lock(session: &mut PgConnection, cluster: &Cluster) -> Result<(), StepError> {
    loop {
        let locked: bool =
            sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended($1, 0))")
                .bind(format!("{}rehearsal", cluster.prefix))
                .fetch_one(&mut *session)
                .await
                .map_err(tenant_db::Error::sql("locking the rehearsal"))?;
        if locked {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
