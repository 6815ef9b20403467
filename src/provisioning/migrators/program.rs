//! Migrators that are programs of their own: what `alembic` and `command` have in common.
//!
//! Guarantees: a database at the version of its template is known by one query, and nothing is started;
//! the program logs in as a role that is a member of the owner role and of nothing else; its URL is in its
//! environment and never in its arguments; sessions that an earlier program left are ended before the next
//! one begins; its word that all went well is not taken: the version is read again.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::PgConnection;

use super::{
    Done, Error, Migrated, Migration, alembic,
    blocker::Watch,
    child::{self, Ended, Program},
    command, mark, name_blocker, sql,
    state::{MOST_VERSIONS, State},
};
use crate::{
    blueprint::{LONGEST_VERSION, Migrator, Project},
    config::Environment,
    provisioning::{StepError, template},
    tenant_db::{self, fingerprint, roles, sessions, shape},
};

/// The variables of our own environment that every program gets.
const INHERITED: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];

/// A temporary failure in sysexits: the only exit code that means something to us.
const TRY_AGAIN: i32 = 75;

/// The exit codes of whoever was ended by a signal; 255 is one that programs choose.
const BY_SIGNAL: std::ops::RangeInclusive<i32> = 129..=192;

/// How long it may take to find out whether an earlier attempt was broken off.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// How many lines of its output an error quotes at most.
const TOLD_LINES: usize = 20;

/// Runs the program where the database is not at its version, and then the shared seed.
pub(super) async fn migrate(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    watch: &Watch<'_>,
    project: &Project,
) -> Result<Done, StepError> {
    let state = State::lock(connection, migration, watch).await?;
    let from = version_before(migration, &state)?;
    let mut to = from.clone();
    let is_there = !from.is_empty() && migration.head() == Some(from.as_str());
    if !is_there {
        to = run(connection, migration, watch, (project, &state, &from)).await?;
    }
    let seeded = sql::seed(connection, migration, watch, &state).await?;
    Ok(Done {
        changed: !is_there || seeded,
        migrated: Migrated {
            applied: u32::from(from != to),
            from,
            to,
        },
    })
}

/// The version before the program runs. Several revisions may be those of two branches whose merge is next, which
/// only Alembic knows.
fn version_before(migration: &Migration<'_>, state: &State) -> Result<String, Error> {
    let is_alembic = migration.blueprint.settings.migrator == Migrator::Alembic;
    match state.versions.as_slice() {
        several @ [_, _, ..] if is_alembic && several.len() < MOST_VERSIONS => {
            Ok(several.join(", "))
        }
        _ => one_version(migration, state),
    }
}

/// The version; empty where the database has none.
pub(super) fn one_version(migration: &Migration<'_>, state: &State) -> Result<String, Error> {
    let migrator = migration.blueprint.settings.migrator;
    match state.versions.as_slice() {
        [] => Ok(String::new()),
        [version] if version.chars().count() > LONGEST_VERSION => Err(Error::VersionUnreadable {
            what: format!(
                "version {version:?} has more than {LONGEST_VERSION} characters: let command.version_query return fewer, such as left(…, {LONGEST_VERSION})"
            ),
            migrator,
        }),
        [version] => Ok(version.clone()),
        several if migrator == Migrator::Alembic => Err(Error::SeveralHeads {
            what: format!(
                "database {} is on several revisions, such as {}",
                migration.database.as_str(),
                several[..2].join(", ")
            ),
        }),
        _ => Err(Error::VersionUnreadable {
            what: "command.version_query returned several rows".to_owned(),
            migrator,
        }),
    }
}

/// Runs the program; the version that the database is on afterwards.
async fn run(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    watch: &Watch<'_>,
    (project, state, from): (&Project, &State, &str),
) -> Result<String, StepError> {
    let Migration {
        cluster, database, ..
    } = *migration;
    let settings = &migration.blueprint.settings;
    let passwords = migration.keyring.derive(&format!(
        "migrator of cluster {} {}",
        cluster.name, cluster.prefix
    ));
    let limits = (settings.lock_timeout_ms, settings.statement_timeout_ms);
    let prepare = async |connection: &mut PgConnection| {
        let password = roles::ensure_migrator(connection, cluster, &passwords, limits).await?;
        sessions::end_of_role(connection, database, &cluster.migrator).await?;
        Ok(password)
    };
    let password = migration.run_on_cluster(prepare).await?;
    let before = shape::of(connection).await?;
    migration.check_lease()?;
    let taken_away = mark::take_away(connection, migration).await;
    taken_away.map_err(|error| name_blocker(error.into(), watch))?;
    let ended = child::run(Program {
        argv: match settings.migrator {
            Migrator::Alembic => alembic::argv(&settings.alembic, project, migration.head()),
            Migrator::Sql | Migrator::Command => command::argv(settings.command.as_ref()),
        },
        directory: &project.root,
        environment: environment(migration, project, (&password, state.tls)),
        secret: password.expose_secret(),
    })
    .await
    .map_err(|source| Error::NotStarted { source })?;
    tracing::debug!(
        database = database.as_str(),
        code = ended.code,
        output = ended.output,
        "a migrator ended"
    );
    let after = State::try_lock(connection, migration).await?;
    if ended.code != 0 {
        let left = if after.versions != state.versions {
            Left::Further(after.versions.join(", "))
        } else if shape::of(connection).await? != before {
            Left::Changed(from)
        } else {
            Left::AsItWas(from)
        };
        return Err(failure(connection, migration, watch, (&ended, left))
            .await
            .into());
    }
    let to = one_version(migration, &after)?;
    if to == from && is_ahead(migration, project, &to, (&password, state.tls)).await? {
        return Err(Error::Ahead {
            database: database.as_str().to_owned(),
            version: to,
            target: migration.head().unwrap_or_default().to_owned(),
        }
        .into());
    }
    check_reached(migration, project, &to)?;
    Ok(to)
}

/// Whether Alembic, which found nothing to do, has the version after the target. It has to be asked: an `env.py` that
/// does nothing succeeds too.
async fn is_ahead(
    migration: &Migration<'_>,
    project: &Project,
    version: &str,
    (password, tls): (&SecretString, bool),
) -> Result<bool, Error> {
    let settings = &migration.blueprint.settings;
    let is_asked = settings.migrator == Migrator::Alembic
        && !version.is_empty()
        && migration.head().is_some_and(|head| head != version);
    let Some(target) = project.target.as_deref().filter(|_| is_asked) else {
        return Ok(false);
    };
    let ended = child::run(Program {
        argv: alembic::history_argv(&settings.alembic, target, version),
        directory: &project.root,
        environment: environment(migration, project, (password, tls)),
        secret: password.expose_secret(),
    })
    .await
    .map_err(|source| Error::NotStarted { source })?;
    Ok(ended.code == 0 && ended.output.contains(version))
}

/// Refuses a version that is not the one that was asked for, or not the template's.
fn check_reached(migration: &Migration<'_>, project: &Project, to: &str) -> Result<(), Error> {
    let database = migration.database.as_str();
    let migrator = migration.blueprint.settings.migrator;
    let is_command = migrator == Migrator::Command;
    // Alembic goes to a target that it is given, and knows more names of a revision than one
    if let Some(target) = project.target.as_deref().filter(|_| is_command)
        && to != target
    {
        return Err(Error::TargetMissed {
            database: database.to_owned(),
            version: to.to_owned(),
            target: target.to_owned(),
        });
    }
    let wanted = migration.head().unwrap_or(to);
    if to.is_empty() && wanted.is_empty() {
        let what = format!(
            "the migrator succeeded, but no version is found in database {database}: where is it kept (version_schema and version_table, or version_query, in blueprint.toml), and was that the database it migrated?"
        );
        return Err(Error::VersionUnreadable { what, migrator });
    }
    if to.is_empty() || to != wanted {
        let what = format!(
            "the migrator succeeded, but database {database} is at version {to:?} instead of {wanted:?}"
        );
        return Err(Error::VersionUnreadable { what, migrator });
    }
    Ok(())
}

/// Everything that the program gets to know.
fn environment(
    migration: &Migration<'_>,
    project: &Project,
    (password, tls): (&SecretString, bool),
) -> Vec<(String, String)> {
    let settings = &migration.blueprint.settings;
    let ours = Environment::of_process();
    let more = match settings.migrator {
        Migrator::Alembic => &settings.alembic.environment[..],
        Migrator::Sql | Migrator::Command => settings
            .command
            .as_ref()
            .map_or(&[][..], |command| &command.environment),
    };
    let inherited = INHERITED.into_iter().chain(more.iter().map(String::as_str));
    let inherited =
        inherited.filter_map(|name| Some((name.to_owned(), ours.get(name)?.to_owned())));
    let connection = migration
        .cluster
        .environment(migration.database, password, tls);
    let named = [
        (
            "PGAPPNAME",
            migration
                .tag()
                .map_or("tenantry migrator", tenant_db::Tag::as_str),
        ),
        ("TENANTRY_DIRECTION", "up"),
    ];
    let tenant = migration.tenant.map(|(id, name)| {
        [
            ("TENANTRY_TENANT_ID", id.to_string()),
            ("TENANTRY_TENANT_NAME", name.replace('\0', "")),
        ]
    });
    let target = project.target.clone().map(|to| ("TENANTRY_TARGET", to));
    let own = |(name, value): (&str, String)| (name.to_owned(), value);
    inherited
        .chain(connection.into_iter().map(own))
        .chain(named.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .chain(tenant.into_iter().flatten().map(own))
        .chain(target.map(own))
        .collect()
}

/// How a program that failed left its database.
enum Left<'a> {
    /// At this version.
    AsItWas(&'a str),
    /// At this version still, but with another structure: a migration outside a transaction was broken off.
    Changed(&'a str),
    /// Now at this version. Nobody can tell whether the next one was broken off: there is no template of it.
    Further(String),
}

/// What a failure means. Where nothing else explains it, what an earlier attempt left may.
async fn failure(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    watch: &Watch<'_>,
    (ended, left): (&Ended, Left<'_>),
) -> Error {
    let error = explain(migration, watch, ended, &left);
    let (Error::Failed { passing: false, .. }, Left::AsItWas(version)) = (&error, left) else {
        return error;
    };
    let look = broken_off_before(connection, migration, version);
    match tokio::time::timeout(LOOK_TIMEOUT, look).await {
        Ok(Some(begun)) => Error::HalfApplied {
            database: migration.database.as_str().to_owned(),
            version: version.to_owned(),
            how: format!("an earlier attempt may have left what is there of the next one, {begun}"),
            told: last_lines(said(migration, ended)),
        },
        Ok(None) | Err(_) => error,
    }
}

/// What the database, which is on record with this version, has of the next one: an attempt may have been cut off
/// outside a transaction, and the present one met what it left. `None` also where that cannot be told.
async fn broken_off_before(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    version: &str,
) -> Option<String> {
    let (hash, cluster) = (migration.recorded_hash?, &migration.cluster.name);
    let find = async |control: &mut _| template::find(control, cluster, hash).await;
    let record = migration.db.run(find).await.ok()??;
    // another version of the server words things otherwise
    if record.version != version || record.server_major != fingerprint::server_major(connection) {
        return None;
    }
    let hashes = (hash, &*migration.blueprint.hash());
    template::tell_beginning(migration.db, cluster, hashes, connection).await
}

/// What a failure means, as far as that can be known.
fn explain(migration: &Migration<'_>, watch: &Watch<'_>, ended: &Ended, left: &Left<'_>) -> Error {
    let said = said(migration, ended);
    let told = last_lines(said);
    let database = migration.database.as_str();
    let waited = ["lock timeout", "LockNotAvailable", "55P03"];
    let reached = match left {
        Left::AsItWas(_) => None,
        Left::Changed(version) => {
            return Error::HalfApplied {
                database: database.to_owned(),
                version: (*version).to_owned(),
                how: "the migrator changed its structure and failed".to_owned(),
                told,
            };
        }
        // a template is made anew, and a clone thrown away: there is nothing to take back
        Left::Further(version) => migration.tenant.is_some().then(|| version.clone()),
    };
    if watch.seen().is_some() && waited.iter().any(|mark| said.contains(mark)) {
        return Error::LockTimeout {
            doing: match reached {
                None => format!("the migrator of database {database}"),
                Some(version) => {
                    format!(
                        "the migrator of database {database}, which came to version {version:?},"
                    )
                }
            },
            blocker: watch.seen(),
            source: None,
        };
    }
    if migration.blueprint.settings.migrator == Migrator::Alembic
        && let Some(error) = alembic::explain(said, database)
    {
        return error;
    }
    Error::Failed {
        code: ended.code,
        reached,
        told,
        // whoever was killed did not decide to fail
        passing: ended.code == TRY_AGAIN || BY_SIGNAL.contains(&ended.code),
    }
}

/// What it said of why it failed. Alembic says on standard output why it gives up.
fn said<'a>(migration: &Migration<'_>, ended: &'a Ended) -> &'a str {
    let is_alembic = migration.blueprint.settings.migrator == Migrator::Alembic;
    if is_alembic || ended.errors.trim().is_empty() {
        &ended.output
    } else {
        &ended.errors
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let lines = &lines[lines.len().saturating_sub(TOLD_LINES)..];
    if lines.is_empty() {
        return "it said nothing".to_owned();
    }
    lines.join("\n")
}
