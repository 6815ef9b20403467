//! `tenantry fleet plan`: what each tenant is on, what would run, and how long about that takes.
//!
//! Guarantees: no tenant is touched, and nothing is begun but the dry run of `--measure`. The time is an estimate
//! from the newest dry run to the same version: by the clones of tenants where it had some, as they have data, else
//! by those of templates. Runs to other versions ran other migrations and say nothing of it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{runs, select::Select};
use crate::{
    blueprint::{Blueprint, SqlFile},
    cli::{Failure, Globals, access::Access, pool},
    fleet::{self, Rehearsal, Run},
    page::Asked,
    tenants::{self, Standing},
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    select: Select,
    /// Stop after this migration, such as `0008_attachments` or 8 [default: the newest]
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// Measure first how long a database takes, by a dry run on throw-away clones
    #[arg(long)]
    measure: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What is planned.
#[derive(Debug, Serialize)]
struct Plan {
    /// The version of the blueprint here, where that can be told before it runs.
    version: Option<String>,
    blueprint_hash: String,
    starts: Vec<Start>,
    /// Milliseconds of one database, where a dry run or a run has measured it.
    sample_ms: Option<f64>,
    /// Seconds of one replica for all, with its places.
    estimated_s: Option<f64>,
}

/// Tenants that are on one version.
#[derive(Debug, Serialize)]
struct Start {
    cluster: String,
    version: String,
    tenants: u32,
    /// What would run, where that can be told before it runs.
    migrations: Option<Vec<String>>,
}

pub(super) async fn run(
    globals: &Globals,
    access: &Access,
    options: &Options,
) -> Result<(), Failure> {
    let selection = options.select.read(access).await?;
    if options.measure {
        let to = options.to.as_deref();
        runs::measure(globals, access, (to, selection.clone())).await?;
    }
    let source = pool::blueprint_source(globals, access);
    let whole = source.load().map_err(|error| pool::failed(&error))?;
    let blueprint = match &options.to {
        Some(version) => whole
            .up_to(version)
            .map_err(|error| pool::failed(&error.into()))?,
        None => whole,
    };
    let asked = Asked::first(50);
    let find = async |connection: &mut _| {
        let fleet = tenants::list_migratable(connection, &selection).await?;
        let runs = fleet::list_page(connection, None, &asked).await?;
        Ok::<_, crate::page::Error>((fleet, runs.data))
    };
    let (fleet, runs) = access.db.run(find).await?;
    let hash = blueprint.hash();
    let starts = starts(fleet, &blueprint, &hash);
    let waiting: u32 = starts
        .iter()
        .filter(|start| {
            start
                .migrations
                .as_ref()
                .is_none_or(|names| !names.is_empty())
        })
        .map(|start| start.tenants)
        .sum();
    let sample_ms = sample(&runs, &hash);
    #[expect(clippy::cast_precision_loss, reason = "a number of places")]
    let places = access.config.fleet.concurrency as f64;
    let plan = Plan {
        version: blueprint.version(),
        blueprint_hash: hash,
        estimated_s: sample_ms.map(|ms| f64::from(waiting) * ms / 1000.0 / places),
        starts,
        sample_ms,
    };
    if options.json {
        return globals.printer.json(&plan);
    }
    print(globals, plan, waiting);
    Ok(())
}

/// The tenants of each cluster by what they are on.
fn starts(fleet: Vec<Standing>, blueprint: &Blueprint, hash: &str) -> Vec<Start> {
    let mut starts: BTreeMap<(String, String), (u32, bool)> = BTreeMap::new();
    for tenant in fleet {
        let is_there = tenant.blueprint_hash.as_deref() == Some(hash);
        let start = starts
            .entry((tenant.cluster, tenant.version))
            .or_insert((0, is_there));
        start.0 += 1;
    }
    let missing = |version: &str, is_there: bool| {
        if is_there {
            return Some(Vec::new());
        }
        let mut names = blueprint.migrations.iter().map(SqlFile::version);
        names.position(|name| name == version)?;
        Some(names.map(str::to_owned).collect())
    };
    starts
        .into_iter()
        .map(|((cluster, version), (tenants, is_there))| Start {
            migrations: missing(&version, is_there),
            cluster,
            version,
            tenants,
        })
        .collect()
}

/// The mean of the newest dry run to the same version that measured anything.
fn sample(runs: &[Run], hash: &str) -> Option<f64> {
    let of_this = |run: &&Run| run.is_dry && run.blueprint_hash.as_deref() == Some(hash);
    runs.iter().filter(of_this).find_map(|run| {
        // of one that had it all already nothing was measured; a program without a version tells no number
        let is_measured = |of: &&Rehearsal| {
            of.failure.is_none() && (of.applied > 0 || of.from_version.is_empty())
        };
        let good = run.rehearsals.iter().filter(is_measured);
        let (of_tenants, of_templates): (Vec<_>, Vec<_>) = good.partition(|of| of.tenant.is_some());
        mean(&of_tenants).or_else(|| mean(&of_templates))
    })
}

fn mean(rehearsals: &[&Rehearsal]) -> Option<f64> {
    let count = u32::try_from(rehearsals.len())
        .ok()
        .filter(|count| *count > 0)?;
    let total: f64 = rehearsals.iter().map(|of| of.duration_ms).sum();
    Some(total / f64::from(count))
}

fn print(globals: &Globals, plan: Plan, waiting: u32) {
    let row = |start: Start| {
        let what = match start.migrations {
            Some(names) if names.is_empty() => "nothing".to_owned(),
            Some(names) => names.join(", "),
            None => "what the migrator finds missing".to_owned(),
        };
        vec![
            start.cluster,
            start.version,
            start.tenants.to_string(),
            what,
        ]
    };
    let header = ["CLUSTER", "VERSION", "TENANTS", "WOULD RUN"];
    globals
        .printer
        .table(&header, plan.starts.into_iter().map(row));
    let version = plan.version.as_deref().unwrap_or("the newest version");
    let time = match (plan.sample_ms, plan.estimated_s) {
        (Some(ms), Some(seconds)) => format!(
            "about {seconds:.0} s for one replica, by {ms:.0} ms a database in the last dry run"
        ),
        _ => {
            "how long that takes is not known; measure it: tenantry fleet plan --measure".to_owned()
        }
    };
    globals
        .printer
        .talk(format!("{waiting} tenants to bring to {version}; {time}"));
}
