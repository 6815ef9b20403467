//! `tenantry pool status|fill|drain`: the databases that are ready before anybody asks.
//!
//! Guarantees: runs beside replicas, which fill the pool as well; may be ended at any time, and what was
//! half done is mended by whoever comes next.

use serde::Serialize;

use super::{
    Exit, Failure, Globals,
    access::{self, Access},
    printer::count,
    progress::Progress,
};
use crate::{
    causes::chain,
    metrics::Metrics,
    provisioning::{Again, BlueprintSource, Provisioner, StepError, pool},
    replica,
    tenant_db::Cluster,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show how many databases are ready, of which blueprint
    Status(Options),
    /// Fill the pool of the present blueprint, now
    Fill(Options),
    /// Drop every database that no tenant has claimed
    Drain(Options),
}

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let access = access::open(globals)?;
    match command {
        Command::Status(options) => status(globals, &access, &options).await,
        Command::Fill(options) => fill(globals, &access, &options).await,
        Command::Drain(options) => drain(globals, &access, &options).await,
    }
}

async fn status(globals: &Globals, access: &Access, options: &Options) -> Result<(), Failure> {
    let counts = access
        .db
        .run(async |connection| pool::count(connection).await)
        .await?;
    if options.json {
        return globals.printer.json(&counts);
    }
    let row = |count: &pool::StateCount| {
        vec![
            count.cluster.clone(),
            count.hash.chars().take(16).collect(),
            count.state.clone(),
            count.databases.to_string(),
            format!("{:.0} s", count.oldest_s),
        ]
    };
    let header = ["CLUSTER", "BLUEPRINT", "STATE", "DATABASES", "OLDEST"];
    globals.printer.table(&header, counts.iter().map(row));
    if !access.config.pool.is_on() {
        let off = "there is no pool: pool.size is 0, and each tenant's database is cloned";
        globals.printer.talk(off);
    }
    Ok(())
}

/// What became of a cluster's pool.
#[derive(Debug, Serialize)]
struct OfCluster {
    cluster: String,
    #[serde(flatten)]
    outcome: PoolOutcome,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum PoolOutcome {
    Filled { made: u32, ready: u32, wanted: u32 },
    Drained { dropped: u32 },
    Failed { code: &'static str, error: String },
}

async fn fill(globals: &Globals, access: &Access, options: &Options) -> Result<(), Failure> {
    if !access.config.pool.is_on() {
        return Err(Failure::new(
            Exit::Failed,
            "there is no pool: pool.size is 0",
            "set pool.size to a number, or to -1 for as many as tenants come",
        ));
    }
    let provisioner = provisioner(globals, access)?;
    let blueprint = provisioner
        .blueprint
        .load()
        .map_err(|error| failed(&error))?;
    let fill = async |cluster: &Cluster| {
        let (progress, name) = (bar(globals), &cluster.name);
        let told = |filled: pool::FillProgress| {
            let wanted = filled.wanted.max(filled.ready);
            progress.is_at((filled.ready.into(), wanted.into()), name, || {
                let wanted = count(wanted, "database");
                format!("{name}: {} of {wanted} ready", filled.ready)
            });
        };
        let filled = pool::fill(&provisioner, cluster, &blueprint, || true, told).await;
        filled.map(|filled| PoolOutcome::Filled {
            made: filled.made,
            ready: filled.ready,
            wanted: filled.wanted,
        })
    };
    let report = for_each_cluster(&provisioner, fill).await;
    tell(globals, options, &report)
}

async fn drain(globals: &Globals, access: &Access, options: &Options) -> Result<(), Failure> {
    let provisioner = provisioner(globals, access)?;
    let drain = async |cluster: &Cluster| {
        let (progress, name) = (bar(globals), &cluster.name);
        let told = |dropped: u32| {
            progress.is_at((dropped.into(), dropped.into()), name, || {
                format!("{name}: {} dropped", count(dropped, "database"))
            });
        };
        let dropped = pool::drain(&provisioner, cluster, told).await;
        dropped.map(|dropped| PoolOutcome::Drained { dropped })
    };
    let report = for_each_cluster(&provisioner, drain).await;
    if access.config.pool.is_on() {
        let refilled =
            "replicas refill the pool; to keep it empty set pool.size = 0 and restart them";
        globals.printer.talk(refilled);
    }
    tell(globals, options, &report)
}

fn bar(globals: &Globals) -> Progress {
    Progress::new(globals.printer, "{msg} {wide_bar} {pos}/{len} {eta}").at_once()
}

/// Does `work` for one cluster after the other; one that fails keeps it from no other.
async fn for_each_cluster(
    provisioner: &Provisioner,
    work: impl AsyncFn(&Cluster) -> Result<PoolOutcome, StepError>,
) -> Vec<OfCluster> {
    let mut report = Vec::new();
    for cluster in provisioner.clusters.iter() {
        let outcome = work(cluster)
            .await
            .unwrap_or_else(|error| PoolOutcome::Failed {
                code: error.code(),
                error: chain(&error),
            });
        report.push(OfCluster {
            cluster: cluster.name.clone(),
            outcome,
        });
    }
    provisioner.clusters.close().await;
    report
}

fn tell(globals: &Globals, options: &Options, report: &[OfCluster]) -> Result<(), Failure> {
    if options.json {
        globals.printer.json(&report)?;
    }
    let mut failures = Vec::new();
    for OfCluster { cluster, outcome } in report {
        let line = match outcome {
            PoolOutcome::Filled { made, ready, .. } => {
                format!("{cluster}: {made} made, {ready} ready")
            }
            PoolOutcome::Drained { dropped } => format!("{cluster}: {dropped} dropped"),
            PoolOutcome::Failed { code, error } => {
                failures.push(format!("{cluster}: {error} [{code}]"));
                continue;
            }
        };
        if !options.json {
            globals.printer.data(line);
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    let fix = "`tenantry doctor` checks the clusters; then run the same command again";
    Err(Failure::failed(failures.join("\n"), fix))
}

/// The blueprint that replicas of this configuration have.
pub(super) fn blueprint_source(globals: &Globals, access: &Access) -> BlueprintSource {
    if access::uses_bundled_blueprint(globals, &access.config) {
        BlueprintSource::Bundled
    } else {
        BlueprintSource::Directory(access.config.blueprint.directory.clone())
    }
}

fn provisioner(globals: &Globals, access: &Access) -> Result<Provisioner, Failure> {
    let blueprint = blueprint_source(globals, access);
    let (db, clusters) = (&access.db, &access.clusters()?);
    let parts = (db, clusters, &Metrics::new());
    Ok(replica::provisioner(&access.config, blueprint, parts)?)
}

/// An error of what was done here, not of a tenant.
pub(super) fn failed(error: &StepError) -> Failure {
    Failure::failed(
        format!("{} [{}]", chain(error), error.code()),
        error.fix(&Again::With("the same command again".to_owned())),
    )
}
