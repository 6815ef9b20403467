//! `tenantry fleet plan`: each tenant's version, what would run, and about how long that takes.
//!
//! Guarantees: no tenant is touched, and nothing is begun except the dry run of `--measure`. The time is an estimate
//! from the newest dry run to the same version: by the clones of tenants where it had some, as they have data, else
//! by those of templates. Runs to other versions ran other migrations and say nothing of it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{runs, select::Select, which};
use crate::{
    blueprint::{Blueprint, SqlFile},
    cli::{Failure, Globals, access::Access, pool, printer},
    fleet::{self, RehearsalResult, Run},
    page::Asked,
    tenants::{self, RecordedVersion, TenantId},
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
    /// Seconds of one replica for all, with its slots.
    estimated_s: Option<f64>,
}

/// Tenants that are on one version.
#[derive(Debug, Serialize)]
struct Start {
    cluster: String,
    version: String,
    tenants: u32,
    which: Vec<Who>,
    /// Whether they have it all.
    is_there: bool,
    /// Whether they are ahead of what is planned: a run skips them.
    is_ahead: bool,
    /// What would run, where that can be told before it runs.
    migrations: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
struct Who {
    id: TenantId,
    url: String,
}

impl Start {
    const fn is_waiting(&self) -> bool {
        !self.is_there && !self.is_ahead
    }
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
    let cut = match &options.to {
        Some(version) => whole
            .up_to(version)
            .map_err(|error| pool::failed(&error.into()))?,
        None => whole.clone(),
    };
    let asked = Asked::first(50);
    let find = async |connection: &mut _| {
        let fleet = tenants::list_migratable(connection, &selection).await?;
        let runs = fleet::list_page(connection, None, &asked).await?;
        Ok::<_, crate::page::Error>((fleet, runs.data))
    };
    let (fleet, runs) = access.db.run(find).await?;
    let hash = cut.hash();
    let starts = starts(fleet, (&whole, &cut));
    let waiting = count(&starts, Start::is_waiting);
    let sample_ms = sample(&runs, &hash);
    #[expect(clippy::cast_precision_loss, reason = "a number of slots")]
    let slots = access.config.fleet.concurrency as f64;
    let plan = Plan {
        version: cut.version(),
        blueprint_hash: hash,
        estimated_s: sample_ms.map(|ms| f64::from(waiting) * ms / 1000.0 / slots),
        starts,
        sample_ms,
    };
    if options.json {
        return globals.printer.json(&plan);
    }
    print(globals, &plan, waiting);
    Ok(())
}

/// How many tenants these are.
fn count(starts: &[Start], of: impl Fn(&Start) -> bool) -> u32 {
    let counted = starts.iter().filter(|start| of(start));
    counted.map(|start| start.tenants).sum()
}

/// The tenants of each cluster by their version. At one version some may have it all, and others not: those that a
/// failure left at it, or that differ in the shared seed.
fn starts(fleet: Vec<RecordedVersion>, (whole, cut): (&Blueprint, &Blueprint)) -> Vec<Start> {
    let hash = cut.hash();
    let mut starts: BTreeMap<(String, String, bool), Vec<Who>> = BTreeMap::new();
    for tenant in fleet {
        let is_there = tenant.blueprint_hash.as_ref() == Some(&hash);
        let which = starts
            .entry((tenant.cluster, tenant.version, is_there))
            .or_default();
        which.push(Who {
            id: tenant.id,
            url: tenant.url,
        });
    }
    let starts = starts.into_iter();
    let starts = starts.map(|((cluster, version, is_there), which)| {
        let (is_ahead, migrations) = if is_there {
            (false, Some(Vec::new()))
        } else {
            missing(&version, (whole, cut))
        };
        Start {
            cluster,
            version,
            tenants: u32::try_from(which.len()).unwrap_or(u32::MAX),
            which,
            is_there,
            is_ahead,
            migrations,
        }
    });
    starts.collect()
}

/// Whether the version is further than the blueprint that was cut off, and what would run, where that is known.
fn missing(version: &str, (whole, cut): (&Blueprint, &Blueprint)) -> (bool, Option<Vec<String>>) {
    let mut names = whole.migrations.iter().map(SqlFile::version);
    let Some(at) = names.position(|name| name == version) else {
        return (false, None);
    };
    let rest = cut.migrations.get(at + 1..);
    let names = rest.unwrap_or_default().iter().map(SqlFile::version);
    (rest.is_none(), Some(names.map(str::to_owned).collect()))
}

/// The mean of the newest dry run to the same version that measured anything.
fn sample(runs: &[Run], hash: &str) -> Option<f64> {
    let of_this = |run: &&Run| run.is_dry && run.blueprint_hash.as_deref() == Some(hash);
    runs.iter().filter(of_this).find_map(|run| {
        // of one that had it all already nothing was measured; a program without a version tells no number
        let is_measured = |of: &&RehearsalResult| {
            of.failure.is_none() && (of.applied > 0 || of.from_version.is_empty())
        };
        let good = run.rehearsals.iter().filter(is_measured);
        let (of_tenants, of_templates): (Vec<_>, Vec<_>) = good.partition(|of| of.tenant.is_some());
        mean(&of_tenants).or_else(|| mean(&of_templates))
    })
}

fn mean(rehearsals: &[&RehearsalResult]) -> Option<f64> {
    let count = u32::try_from(rehearsals.len())
        .ok()
        .filter(|count| *count > 0)?;
    let total: f64 = rehearsals.iter().map(|of| of.duration_ms).sum();
    Some(total / f64::from(count))
}

fn print(globals: &Globals, plan: &Plan, waiting: u32) {
    let row = |start: &Start| {
        let what = match &start.migrations {
            _ if start.is_ahead => "nothing: ahead, skipped".to_owned(),
            _ if start.is_there => "nothing".to_owned(),
            Some(names) if names.is_empty() => {
                "changed shared seeds only; then compared with the template".to_owned()
            }
            Some(names) => names.join(", "),
            None => "whatever the migrator finds missing".to_owned(),
        };
        vec![
            start.cluster.clone(),
            start.version.clone(),
            start.tenants.to_string(),
            what,
            which(start.which.iter().map(|who| who.url.as_str())),
        ]
    };
    let header = ["CLUSTER", "VERSION", "TENANTS", "WOULD RUN", "WHICH"];
    globals.printer.table(&header, plan.starts.iter().map(row));
    let version = plan.version.as_deref().unwrap_or("the newest version");
    let time = match (plan.sample_ms, plan.estimated_s) {
        (Some(ms), Some(seconds)) => format!(
            "about {seconds:.0} s for one replica, by {ms:.0} ms a database in the last dry run"
        ),
        _ => {
            "how long that takes is not known; measure it: tenantry fleet plan --measure".to_owned()
        }
    };
    let ahead = match count(&plan.starts, |start| start.is_ahead) {
        0 => String::new(),
        ahead => format!(", {ahead} ahead and skipped"),
    };
    let waiting = printer::count(waiting, "tenant");
    globals
        .printer
        .talk(format!("{waiting} to bring to {version}{ahead}; {time}"));
}
