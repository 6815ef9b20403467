//! `tenantry prune`: what has been kept for its time goes, now.
//!
//! Guarantees: it may be ended at any time and run beside replicas, which do the same by themselves;
//! `--dry-run` changes nothing.

use serde::Serialize;

use super::{
    Failure, Globals,
    access::{self, Access},
    progress::Progress,
};
use crate::retention::{self, Due, Kind, Plan};

/// How the bar of rows looks.
const BAR: &str = "{wide_bar} {pos}/{len} {msg} {eta}";

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Only count what would go
    #[arg(long)]
    dry_run: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What went, or would go.
#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    kinds: Vec<OfKind>,
}

#[derive(Debug, Serialize)]
struct OfKind {
    kind: &'static str,
    /// `null`: it is kept for ever.
    older_than_days: Option<u64>,
    rows: u64,
}

pub(super) async fn run(globals: &Globals, options: Options) -> Result<(), Failure> {
    let access = access::open(globals)?;
    let due = Plan::new(&access.config).due;
    let counted = count(&access, &due).await?;
    let rows = if options.dry_run {
        counted
    } else {
        prune(globals, &access, &due, counted).await?
    };
    let of_kind = |kind: Kind| {
        let age = kind.age(&access.config);
        let found = rows.iter().find(|(of, _)| *of == kind);
        OfKind {
            kind: kind.name(),
            older_than_days: age.map(|age| age.as_secs() / 86_400),
            rows: found.map_or(0, |(_, rows)| *rows),
        }
    };
    let report = Report {
        dry_run: options.dry_run,
        kinds: Kind::ALL.into_iter().map(of_kind).collect(),
    };
    print(globals, &report, options.json)
}

/// Rows of each kind.
type Rows = Vec<(Kind, u64)>;

async fn count(access: &Access, due: &[Due]) -> Result<Rows, Failure> {
    let count = async |connection: &mut _| {
        let mut rows = Rows::new();
        for due in due {
            let counted = retention::count(connection, *due).await?;
            rows.push((due.kind, u64::try_from(counted).unwrap_or_default()));
        }
        Ok::<_, sqlx::Error>(rows)
    };
    Ok(access.db.run(count).await?)
}

async fn prune(
    globals: &Globals,
    access: &Access,
    due: &[Due],
    expected: Rows,
) -> Result<Rows, Failure> {
    let mut pruned: Rows = due.iter().map(|due| (due.kind, 0)).collect();
    let all: u64 = expected.iter().map(|(_, rows)| rows).sum();
    let (progress, mut done) = (Progress::new(globals.printer, BAR), 0);
    let told = |kind: Kind, rows: u64| {
        if let Some((_, pruned)) = pruned.iter_mut().find(|(of, _)| *of == kind) {
            *pruned += rows;
        }
        done += rows;
        progress.is_at((done, all), kind.name(), || {
            format!("{done} of about {all} rows are gone, now {}", kind.name())
        });
    };
    let ended = retention::prune((&access.db, &access.config.faults), due, || true, told).await;
    drop(progress);
    if let Err(error) = ended {
        let went: u64 = pruned.iter().map(|(_, rows)| rows).sum();
        let mut failure = Failure::from(error);
        failure.message = format!("{went} rows went, then: {}", failure.message);
        failure.hint = format!(
            "{}; then run it again: it goes on where it was",
            failure.hint
        );
        return Err(failure);
    }
    Ok(pruned)
}

fn print(globals: &Globals, report: &Report, json: bool) -> Result<(), Failure> {
    if json {
        return globals.printer.json(report);
    }
    let row = |of: &OfKind| {
        let age = of.older_than_days.map(|days| format!("{days} days"));
        vec![
            of.kind.to_owned(),
            age.unwrap_or_else(|| "kept for ever".to_owned()),
            of.rows.to_string(),
        ]
    };
    let rows = if report.dry_run { "WOULD GO" } else { "GONE" };
    let header = ["KIND", "OLDER THAN", rows];
    globals.printer.table(&header, report.kinds.iter().map(row));
    if report.dry_run {
        let hint = "nothing was changed; without --dry-run it is done";
        globals.printer.talk(hint);
    }
    Ok(())
}
