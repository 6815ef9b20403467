//! `tenantry fleet drift`.

use std::time::Duration;

use super::{
    select::{self, InStates, Select},
    which,
};
use crate::{
    cli::{Failure, Globals, access::Access, printer::count, progress::Progress},
    fleet::{
        Named, Reach,
        drift::{self, Drift, Group},
    },
};

/// How long checking one database may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    in_states: InStates,
    /// Number of databases to work on at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    globals: &Globals,
    access: &Access,
    options: Options,
) -> Result<(), Failure> {
    let tenants = select::find(access, &options.select, &options.in_states).await?;
    let clusters = access.clusters()?;
    let concurrency = options.concurrency.into();
    let reach = Reach::new(&access.db, &clusters, concurrency, LOOK_TIMEOUT);
    let progress = Progress::of_tenants(globals.printer, tenants.len());
    let found = drift::find(&reach, &tenants, || progress.step()).await;
    drop(progress);
    let found = found?;
    if options.json {
        globals.printer.json(&found)?;
    } else {
        print(globals, &found);
    }
    judge(tenants.len(), &found)
}

fn print(globals: &Globals, found: &Drift) {
    if !found.drifted.is_empty() {
        let header = ["TENANTS", "VERSION", "DIFFERENCE", "WHICH"];
        globals
            .printer
            .table(&header, found.drifted.iter().map(row));
    }
    for failed in &found.unreached {
        let Named { url, .. } = &failed.tenant;
        let line = format!(
            "{url} could not be checked: {} [{}]",
            failed.error, failed.code
        );
        globals.printer.talk(line);
    }
    let drifted: usize = found.drifted.iter().map(|group| group.tenants.len()).sum();
    let alike = match found.alike {
        1 => "1 tenant matches its blueprint".to_owned(),
        alike => format!("{alike} tenants match their blueprint"),
    };
    let have = if drifted == 1 { "has" } else { "have" };
    globals.printer.talk(format!(
        "{alike}, {drifted} {have} drifted, {} could not be checked",
        found.unreached.len()
    ));
}

fn row(group: &Group) -> Vec<String> {
    let first = group.differences.first().map_or(
        "unknown: the database can no longer be read",
        String::as_str,
    );
    let more = match group.difference_count {
        0 | 1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    vec![
        group.tenants.len().to_string(),
        group.version.clone(),
        format!("{first}{more}"),
        which(group.tenants.iter().map(|tenant| tenant.url.as_str())),
    ]
}

fn judge(all: usize, found: &Drift) -> Result<(), Failure> {
    let drifted: usize = found.drifted.iter().map(|group| group.tenants.len()).sum();
    let all = count(all, "tenant");
    if drifted > 0 {
        let have_drifted = match drifted {
            1 => "has drifted from its blueprint",
            _ => "have drifted from their blueprint",
        };
        return Err(Failure::failed(
            format!("{drifted} of {all} {have_drifted}"),
            "see every tenant and difference with --json; docs/fleet.md says how to undo drift",
        ));
    }
    match found.unreached.len() {
        0 => Ok(()),
        unreached => Err(Failure::failed(
            format!("{unreached} of {all} could not be checked"),
            "see the lines above; `tenantry doctor` checks the clusters",
        )),
    }
}
