//! `tenantry fleet …`: the databases of all tenants.

mod command;
mod drift;
mod exec;
mod plan;
mod runs;
mod select;
mod watch;

use runs::Change;

use super::{Failure, Globals, access};

/// How many tenants of a group a table names; `--json` names all.
const MOST_NAMED: usize = 5;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show each tenant's version and the migrations that would run
    Plan(plan::Options),
    /// Bring every tenant's database to the blueprint's version; replicas do it, this watches
    Migrate(runs::Migrate),
    /// Show how far a run is
    Status(runs::Status),
    /// List runs, newest first
    Runs(runs::Listed),
    /// List what became of each tenant in a run
    Targets(runs::Targets),
    /// Pause a run; migrations under way finish
    Pause(runs::Act),
    /// Resume a run that was paused or stopped by failures
    Resume(runs::Act),
    /// Retry the failed tenants of a run; waiting ones go on as well, unless the run is paused
    Retry(runs::Retry),
    /// End a run; waiting tenants are skipped
    Abort(runs::Act),
    /// Move a waiting tenant to the front of a run
    First(runs::First),
    /// Find tenants whose database has drifted from its blueprint, and show how
    Drift(drift::Options),
    /// Run SQL or a command for many tenants; read-only unless --write is given
    Exec(exec::Options),
}

pub(super) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let access = access::open(globals)?;
    match command {
        Command::Plan(options) => plan::run(globals, &access, &options).await,
        Command::Migrate(options) => runs::migrate(globals, &access, options).await,
        Command::Status(options) => runs::status(globals, &access, options).await,
        Command::Runs(options) => runs::list(globals, &access, &options).await,
        Command::Targets(options) => runs::targets(globals, &access, &options).await,
        Command::Pause(act) => runs::change(globals, &access, &act, Change::Pause).await,
        Command::Resume(act) => runs::change(globals, &access, &act, Change::Resume).await,
        Command::Retry(options) => runs::retry(globals, &access, &options).await,
        Command::Abort(act) => runs::change(globals, &access, &act, Change::Abort).await,
        Command::First(options) => runs::first(globals, &access, &options).await,
        Command::Drift(options) => drift::run(globals, &access, options).await,
        Command::Exec(options) => exec::run(globals, &access, options).await,
    }
}

/// The first few tenants of a group, for a table.
fn which<'a>(urls: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = (urls.len() > MOST_NAMED).then_some("…");
    let named: Vec<&str> = urls.take(MOST_NAMED).chain(more).collect();
    named.join(", ")
}
