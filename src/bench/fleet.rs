//! A fleet that gets a release, and one that has it already, beside the same by hand.
//!
//! A release is one migration: a column with a check and an index, and a table with foreign keys. What is
//! measured is the command `tenantry fleet migrate` from start to exit: with it the template of the new
//! version, the comparison of every database with that, and a record of each.
//!
//! The floor is as many connections at once as the replica has slots for databases, each of which takes one
//! after the other: the migration in one transaction as the owner role, or one look at the ledger, which ours can do
//! without.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use indicatif::ProgressBar;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::task::JoinSet;

use super::{
    Error, Measure, Options, ROUNDS,
    ready::Ready,
    replica::{self, Replica},
    report::Target,
    samples::median,
    server::{Server, execute},
};

const MIGRATE: &str = "fleet_migrate_500";
const NOOP: &str = "fleet_noop_500";

/// The migration of a release, whose names have `{release}` in them.
const RELEASE: &str = include_str!("../../bench/next_release.sql");

/// What a database says of itself when nothing is to be done.
const LOOK: &str = "select name, sha256 from tenantry.migrations";

/// By a replica of its own, which has the tenants of nobody else.
pub(super) async fn measure(
    options: &Options,
    server: &Server,
    progress: &ProgressBar,
) -> Result<Vec<Measure>, Error> {
    let count = options.fleet_databases;
    progress.set_message(format!("{count} tenants, and as many databases by hand"));
    let replica = Replica::start_with_template(server).await?;
    Ready::new(server, &replica, progress)
        .make_tenants(count)
        .await?;
    let hands = Hands::new(server, count).await?;
    let (mut migrates, mut noops) = (Pair::default(), Pair::default());
    for round in 1..=ROUNDS {
        progress.set_message(format!("fleet, round {round}"));
        let name = format!("{:04}_release_{round}", 1000 + round);
        let release = RELEASE.replace("{release}", &round.to_string());
        let file = format!("migrations/{name}.sql");
        std::fs::write(server.config.blueprint.directory.join(file), &release)
            .map_err(Error::io("writing a migration"))?;
        let sql = format!(
            "begin; set local role {};\n{release}\n; commit",
            hands.owner
        );
        migrates
            .take_turns(server, (round, count), hands.all(sql))
            .await?;
        noops
            .take_turns(server, (round, count), hands.all(LOOK.to_owned()))
            .await?;
    }
    replica.stop().await?;
    server.drop_tenants().await?;
    let measures = [
        (
            MIGRATE,
            migrates.measure(MIGRATE).target(Target::AtLeast(0.85)),
        ),
        (
            NOOP,
            noops.measure(NOOP).target(Target::ValueAtLeast(400.0)),
        ),
    ];
    let wanted = measures.into_iter().filter(|(name, _)| options.wants(name));
    Ok(wanted.map(|(_, measure)| measure).collect())
}

/// Databases a second: ours, and by hand.
#[derive(Default)]
struct Pair {
    ours: Vec<f64>,
    floors: Vec<f64>,
}

impl Pair {
    async fn take_turns(
        &mut self,
        server: &Server,
        (round, count): (u32, u32),
        by_hand: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        let ours = replica::run_command(server, &["fleet", "migrate"]);
        if round % 2 == 1 {
            self.ours.push(rate(server, count, ours).await?);
            self.floors.push(rate(server, count, by_hand).await?);
        } else {
            self.floors.push(rate(server, count, by_hand).await?);
            self.ours.push(rate(server, count, ours).await?);
        }
        Ok(())
    }

    fn measure(self, name: &'static str) -> Measure {
        Measure::plain(name, median(self.ours), "databases/s").beside(median(self.floors))
    }
}

async fn rate(
    server: &Server,
    count: u32,
    work: impl Future<Output = Result<(), Error>>,
) -> Result<f64, Error> {
    server.checkpoint().await?;
    let started = Instant::now();
    work.await?;
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

/// Whoever migrates by hand, and the databases that are theirs.
struct Hands {
    options: PgConnectOptions,
    databases: Arc<Vec<String>>,
    at_once: usize,
    owner: String,
}

impl Hands {
    /// With clones of the template.
    async fn new(server: &Server, count: u32) -> Result<Self, Error> {
        let prefix = &server.config.tenants.prefix;
        let owner = format!("{prefix}owner");
        let template: String = sqlx::query_scalar("select database from templates")
            .fetch_one(&mut server.control().await?)
            .await
            .map_err(Error::sql("looking up the template"))?;
        let mut maintenance = server.maintenance().await?;
        let databases: Vec<String> = (0..count)
            .map(|number| format!("{prefix}hand_fleet_{number}"))
            .collect();
        for name in &databases {
            let clone = format!("create database {name} template {template} owner {owner}");
            execute(&mut maintenance, clone).await?;
        }
        Ok(Self {
            options: server.maintenance_options(),
            databases: Arc::new(databases),
            at_once: server.config.fleet.concurrency,
            owner,
        })
    }

    /// The same statements in every database.
    async fn all(&self, sql: String) -> Result<(), Error> {
        let (next, sql) = (Arc::new(AtomicUsize::new(0)), Arc::new(sql));
        // tasks: the hands use as many processors as the replica does
        let mut running = JoinSet::new();
        for _ in 0..self.at_once {
            let (next, sql) = (Arc::clone(&next), Arc::clone(&sql));
            let (options, databases) = (self.options.clone(), Arc::clone(&self.databases));
            running.spawn(async move {
                while let Some(name) = databases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run(options.clone().database(name), &sql).await?;
                }
                Ok::<_, Error>(())
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.map_err(|_| Error::Broken)??;
        }
        Ok(())
    }
}

async fn run(database: PgConnectOptions, sql: &str) -> Result<(), Error> {
    let mut connection = PgConnection::connect_with(&database)
        .await
        .map_err(Error::sql("connecting to a database by hand"))?;
    execute(&mut connection, sql.to_owned()).await?;
    connection
        .close()
        .await
        .map_err(Error::sql("leaving a database by hand"))
}
