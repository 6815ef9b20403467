//! `tenantry fleet …`: the databases of all tenants.

mod command;
mod drift;
mod exec;
mod plan;
mod progress;
mod runs;
mod select;
mod watch;

use runs::Change;

use super::{Failure, Globals, access};

/// So many tenants of a group are named in a table; `--json` names all.
const MOST_NAMED: usize = 5;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show what each tenant is on, and what would run
    Plan(plan::Options),
    /// Bring every tenant's database to the blueprint's version; replicas do it, this watches
    Migrate(runs::Migrate),
    /// Show how far a run is
    Status(runs::Status),
    /// List runs, newest first
    Runs(runs::Listed),
    /// List what became of each tenant in a run
    Targets(runs::Targets),
    /// Begin nothing new in a run; what is under way ends
    Pause(runs::Act),
    /// Let a run go on that was paused, or stopped by failures
    Resume(runs::Act),
    /// Try the failed tenants of a run again; what waits goes on as well, if the run is not paused
    Retry(runs::Retry),
    /// End a run; what waits is skipped
    Abort(runs::Act),
    /// Let a tenant that waits in a run go before all others
    First(runs::First),
    /// Find tenants whose database is not what their blueprint makes, and what is different
    Drift(drift::Options),
    /// Run statements, or a command, for many tenants; only looking, unless it is said
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
