//! `tenantry fleet drift`.

use std::time::Duration;

use super::{
    progress::Progress,
    select::{self, InStates, Select},
    which,
};
use crate::{
    cli::{Failure, Globals, access::Access},
    fleet::{
        Named, Reach,
        drift::{self, Drift, Group},
    },
};

/// So long a look at one database may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    in_states: InStates,
    /// So many databases at once
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
    let mut progress = Progress::of(globals.printer, tenants.len());
    let found = drift::find(&reach, &tenants, || progress.step()).await;
    progress.finish();
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
            "{url} was not looked at: {} [{}]",
            failed.error, failed.code
        );
        globals.printer.talk(line);
    }
    let drifted: usize = found.drifted.iter().map(|group| group.tenants.len()).sum();
    globals.printer.talk(format!(
        "{} tenants are as they should be, {drifted} are not, {} were not looked at",
        found.alike,
        found.unreached.len()
    ));
}

fn row(group: &Group) -> Vec<String> {
    let first = group.differences.first().map_or(
        "cannot be told: the database cannot be read any more",
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
    if drifted > 0 {
        return Err(Failure::failed(
            format!("{drifted} of {all} tenants are not what their blueprint makes"),
            "--json names every tenant and difference; docs/fleet.md says how drift is mended",
        ));
    }
    match found.unreached.len() {
        0 => Ok(()),
        count => Err(Failure::failed(
            format!("{count} of {all} tenants were not looked at"),
            "see the lines above; `tenantry doctor` checks the clusters",
        )),
    }
}
