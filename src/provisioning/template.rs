//! Templates: built once per cluster and blueprint hash, sealed, cloned for each tenant.
//!
//! Guarantees: one builder at a time, whichever replica comes first, under an advisory lock that
//! ends with its session; the seal (`is_template`, no connections, our comment) is the completion
//! mark; an unsealed one of ours is dropped and rebuilt; a database of that name that is not ours is
//! an error; a migration that was edited after it was applied is refused before anything is built.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use sqlx::{Connection, FromRow, PgConnection, types::Json};

use super::{
    Provisioner, StepError,
    migrators::{Migration, grant, migrate, prepare},
    pool,
};
use crate::{
    blueprint::Blueprint,
    causes::chain,
    db::Db,
    tenant_db::{
        self, Cluster, Ident, MaintenanceSession, databases, fingerprint, roles, structure,
    },
};

/// A template that can be cloned.
#[derive(Debug, Clone)]
pub struct Template {
    /// Hash of the blueprint.
    pub hash: String,
    /// The sealed database.
    pub database: Ident,
}

/// What is on record of a template.
#[derive(Debug, Clone, FromRow)]
pub struct TemplateRecord {
    /// Schema version of its clones.
    pub version: String,
    /// Structure of its clones; `None` where an older version of tenantry built it, which compared something else.
    pub fingerprint: Option<String>,
    /// What such a version compares; `None` where it was older still.
    pub older_fingerprint: Option<String>,
    /// Major version of the server that it was built on; `None` where an older version of tenantry built it.
    pub server_major: Option<i32>,
}

/// The record of a sealed template.
pub async fn find(
    connection: &mut PgConnection,
    cluster: &str,
    hash: &str,
) -> sqlx::Result<Option<TemplateRecord>> {
    sqlx::query_as(
        "select version, compared_fingerprint as fingerprint, full_fingerprint as older_fingerprint, server_major
         from templates
         where cluster = $1
           and hash = $2",
    )
    .bind(cluster)
    .bind(hash)
    .fetch_optional(connection)
    .await
}

/// The structure of a sealed template, line by line; `None` where an older version of tenantry built it.
pub async fn find_structure(
    connection: &mut PgConnection,
    cluster: &str,
    hash: &str,
) -> sqlx::Result<Option<Vec<String>>> {
    let structure = sqlx::query_scalar(
        "select compared
         from templates
         where cluster = $1
           and hash = $2",
    );
    let found: Option<Option<Vec<String>>> = structure
        .bind(cluster)
        .bind(hash)
        .fetch_optional(connection)
        .await?;
    Ok(found.flatten())
}

/// The most telling difference of a database from a template, in words; `None` where it cannot be told.
///
/// `cluster` and `hash` name the template. It describes an error that has already occurred, so it returns none.
pub(super) async fn tell_difference(
    db: &Db,
    cluster: &str,
    hash: &str,
    connection: &mut PgConnection,
) -> Option<String> {
    let find = async |control: &mut _| find_structure(control, cluster, hash).await;
    let expected = db.run(find).await.ok()??;
    let actual = fingerprint::structure(connection).await.ok()?;
    let mut differences = structure::differences(&expected, &actual).into_iter();
    let first = differences.next()?;
    Some(match differences.len() {
        0 => first,
        more => format!("{first}, and {more} more"),
    })
}

/// The most telling of what a database, which is to be like the one template, has of the next one already; `None` also
/// where that cannot be told.
///
/// `cluster` and `hashes` name the templates.
pub(super) async fn tell_beginning(
    db: &Db,
    cluster: &str,
    hashes: (&str, &str),
    connection: &mut PgConnection,
) -> Option<String> {
    let find = async |hash: &str| {
        let find = async |control: &mut _| find_structure(control, cluster, hash).await;
        db.run(find).await.ok()?
    };
    let (this, next) = (find(hashes.0).await?, find(hashes.1).await?);
    let actual = fingerprint::structure(connection).await.ok()?;
    let [was, wanted, is] = [&this, &next, &actual].map(HashSet::<&String>::from_iter);
    // what is new there or gone, as it is in the next one
    let has_begun = |line: &&String| is.contains(line) == wanted.contains(line);
    let lines = was.union(&is).copied();
    let begun = lines.filter(|line| {
        if has_begun(line) {
            is.contains(line)
        } else {
            was.contains(line)
        }
    });
    let begun: Vec<String> = begun.cloned().collect();
    structure::differences(&this, &begun).into_iter().next()
}

/// The message where the difference is unknown.
pub(super) fn fingerprints_differ(expected: &str, found: &str) -> String {
    let short = |fingerprint: &str| fingerprint.chars().take(12).collect::<String>();
    format!(
        "its fingerprint is {}, should be {}",
        short(found),
        short(expected)
    )
}

/// The template of a hash, whether it is there or not.
pub(super) fn named(cluster: &Cluster, hash: String) -> Result<Template, StepError> {
    let name = format!("{}template_{}", cluster.prefix, &hash[..16]);
    let database = Ident::new(&name).map_err(tenant_db::Error::from)?;
    Ok(Template { hash, database })
}

/// Makes sure that the blueprint's template is there.
pub async fn ensure(
    provisioner: &Provisioner,
    cluster: &Cluster,
    blueprint: &Blueprint,
) -> Result<Template, StepError> {
    ensure_up_to(provisioner, cluster, (blueprint, blueprint)).await
}

/// Makes sure that the template of the blueprint `cut` is there, which is `whole` up to some version.
///
/// What templates have applied is compared with `whole`: some may be further than `cut`.
pub async fn ensure_up_to(
    provisioner: &Provisioner,
    cluster: &Cluster,
    (whole, cut): (&Blueprint, &Blueprint),
) -> Result<Template, StepError> {
    let template = named(cluster, cut.hash())?;
    if is_sealed(provisioner, cluster, &template).await? {
        return Ok(template);
    }
    check_history(&provisioner.db, cluster, whole).await?;
    cluster
        .run(async |connection| roles::ensure_shared(connection, cluster).await)
        .await?;
    // its own session: the lock lives and dies with it, and a statement that outlives us with it
    let mut builder = cluster.connect_for_maintenance().await?;
    lock(&mut builder, &template.database).await?;
    let built = if is_sealed(provisioner, cluster, &template).await? {
        Ok(())
    } else {
        build(provisioner, cluster, cut, &template, &mut builder).await
    };
    // whatever happened
    builder.close().await;
    built?;
    Ok(template)
}

/// Sealed, ours, and on record.
pub(super) async fn is_sealed(
    provisioner: &Provisioner,
    cluster: &Cluster,
    template: &Template,
) -> Result<bool, StepError> {
    let name = template.database.as_str();
    let recorded = provisioner
        .db
        .run(async |connection| find(connection, &cluster.name, &template.hash).await);
    let facts = async { Ok::<_, StepError>(cluster.find_database(name).await?) };
    let recorded = async { Ok::<_, StepError>(recorded.await?) };
    // neither is cut off when the other one fails: its connection would be closed
    let (recorded, facts) = tokio::join!(recorded, facts);
    let (recorded, Some(facts)) = (recorded?, facts?) else {
        return Ok(false);
    };
    if facts.owner != cluster.owner.as_str() {
        return Err(tenant_db::Error::ForeignDatabase {
            name: name.to_owned(),
            found: facts.describe(),
        }
        .into());
    }
    let sealed = facts.is_template
        && !facts.allows_connections
        && facts.comment == Some(databases::template_comment(&template.hash));
    // an older version of tenantry, or of the server, took another fingerprint: no clone would be like it
    let is_comparable = |record: TemplateRecord| {
        record.fingerprint.is_some() && record.server_major == Some(facts.server_major)
    };
    Ok(sealed && recorded.is_some_and(is_comparable))
}

/// Refuses a blueprint whose applied migrations were changed: those that a tenant has, or that a fleet run is about to
/// bring to one. Of a template that nobody came from yet, files may still be repaired.
async fn check_history(db: &Db, cluster: &Cluster, blueprint: &Blueprint) -> Result<(), StepError> {
    let applied: Vec<Json<Vec<(String, String)>>> = db
        .run(async |connection| {
            sqlx::query_scalar(
                "select migrations
                 from templates
                 where cluster = $1
                   and (
                       exists (
                           select
                           from tenants
                           where tenants.cluster = templates.cluster
                             and tenants.blueprint_hash = templates.hash
                       )
                       or exists (
                           select
                           from fleet_runs
                           where fleet_runs.blueprint_hash = templates.hash
                             and state in ('running', 'paused')
                             and prepared_at is not null
                       )
                   )
                 order by sealed_at desc",
            )
            .bind(&cluster.name)
            .fetch_all(connection)
            .await
        })
        .await?;
    for Json(applied) in applied {
        blueprint.check_history(&applied)?;
    }
    Ok(())
}

/// Waits its turn with a try-lock: a waiting one would hold a snapshot while the other builds.
async fn lock(session: &mut MaintenanceSession, database: &Ident) -> Result<(), StepError> {
    while !session.try_lock(database.as_str()).await? {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn build(
    provisioner: &Provisioner,
    cluster: &Cluster,
    blueprint: &Blueprint,
    template: &Template,
    session: &mut MaintenanceSession,
) -> Result<(), StepError> {
    let started = Instant::now();
    let name = &template.database;
    let discard =
        async |connection: &mut _| pool::discard(connection, &cluster.name, &template.hash).await;
    provisioner.db.run(discard).await?;
    // what a lost builder left; the name is ours by its owner, and it is not sealed
    let drop = async |connection: &mut _| databases::drop_database(connection, name).await;
    session.run(drop).await?;
    let create =
        async |connection: &mut _| databases::create_empty(connection, cluster, name).await;
    if !session.run(create).await? {
        let found = "it appeared while the template was being built".to_owned();
        let name = name.as_str().to_owned();
        return Err(tenant_db::Error::ForeignDatabase { name, found }.into());
    }
    provisioner.faults.hit("template.created").await?;
    let mut connection = cluster.connect(name, None).await?;
    let limit = Duration::from_millis(blueprint.settings.migrate_timeout_ms.into());
    let built = tokio::select! {
        built = fill(&mut connection, provisioner, cluster, blueprint, name) => built,
        lost = keep_alive(session) => Err(lost),
        () = tokio::time::sleep(limit) => Err(StepError::TimedOut { step: "template", limit }),
    };
    let _ = connection.close().await;
    let filled = match built {
        Ok(filled) => filled,
        Err(error) => {
            // a broken migration must not leave a half-built database behind; the next builder drops
            // it too, and the error that counts is the first one
            if let Err(left) = session.run(drop).await {
                tracing::warn!(error = chain(&left), "a half-built template was left");
            }
            return Err(error);
        }
    };
    provisioner.faults.hit("template.filled").await?;
    tokio::select! {
        recorded = record(&provisioner.db, cluster, blueprint, template, &filled) => recorded?,
        lost = keep_alive(session) => return Err(lost),
    }
    let seal = async |connection: &mut _| databases::seal(connection, name, &template.hash).await;
    session.run(seal).await?;
    provisioner.faults.hit("template.sealed").await?;
    tracing::info!(
        cluster = cluster.name,
        template = name.as_str(),
        version = filled.version,
        duration_ms = started.elapsed().as_millis(),
        "built the template"
    );
    Ok(())
}

/// Shows signs of life on the session that holds the lock; returns when it was lost.
pub(super) async fn keep_alive(session: &mut MaintenanceSession) -> StepError {
    loop {
        tokio::time::sleep(tenant_db::IDLE_LIMIT / 4).await;
        if let Err(lost) = session.ping().await {
            return lost.into();
        }
    }
}

/// What a filled template is.
struct Filled {
    version: String,
    facts: Vec<String>,
    server_major: Option<i32>,
}

/// Migrations, shared seed and grants.
async fn fill(
    connection: &mut PgConnection,
    provisioner: &Provisioner,
    cluster: &Cluster,
    blueprint: &Blueprint,
    database: &Ident,
) -> Result<Filled, StepError> {
    prepare(connection, cluster).await?;
    let migrated = migrate(&Migration {
        db: &provisioner.db,
        cluster,
        keyring: &provisioner.keyring,
        blueprint,
        database,
        tenant: None,
        mark: None,
        attempt: None,
        template: None,
        is_on_record: false,
        recorded_hash: None,
    })
    .await?;
    grant(connection, cluster).await?;
    // before Postgres 15 schema public belongs to the superuser, and only a warning says that the
    // grants changed nothing
    let may: bool = sqlx::query_scalar("select has_schema_privilege($1::name, 'public', 'create')")
        .bind(cluster.app.as_str())
        .fetch_one(&mut *connection)
        .await
        .map_err(tenant_db::Error::sql("looking at schema public"))?;
    if may {
        return Err(StepError::PublicSchemaOpen);
    }
    Ok(Filled {
        version: migrated.to,
        facts: fingerprint::facts(connection).await?,
        server_major: fingerprint::server_major(connection),
    })
}

async fn record(
    db: &Db,
    cluster: &Cluster,
    blueprint: &Blueprint,
    template: &Template,
    filled: &Filled,
) -> Result<(), StepError> {
    let migrations: Vec<(&str, &str)> = blueprint
        .migrations
        .iter()
        .map(|file| (file.name.as_str(), file.sha256.as_str()))
        .collect();
    let older = fingerprint::older_lines(&filled.facts);
    let compared = fingerprint::compared_lines(&filled.facts);
    db.run(async |connection| {
        sqlx::query(
            // fingerprint to full_fingerprint: for older versions
            "insert into templates
                 (cluster, hash, database, version, migrations, fingerprint, structure, details, full_fingerprint,
                  compared, compared_fingerprint, server_major)
             values ($1, $2, $3, $4, $5, $6, $7, '{}', $6, $9, $8, $10)
             on conflict (cluster, hash) do update
             set database = excluded.database,
                 fingerprint = excluded.fingerprint,
                 structure = excluded.structure,
                 details = excluded.details,
                 full_fingerprint = excluded.full_fingerprint,
                 compared = excluded.compared,
                 compared_fingerprint = excluded.compared_fingerprint,
                 server_major = excluded.server_major,
                 sealed_at = now()",
        )
        .bind(&cluster.name)
        .bind(&template.hash)
        .bind(template.database.as_str())
        .bind(&filled.version)
        .bind(Json(migrations))
        .bind(fingerprint::of_lines(&older))
        .bind(older)
        .bind(fingerprint::of_lines(&compared))
        .bind(compared)
        .bind(filled.server_major)
        .execute(connection)
        .await
    })
    .await?;
    Ok(())
}
