//! `tenantry fleet …`: the databases of all tenants.

mod drift;
mod exec;
mod progress;
mod select;

use super::{Failure, Globals, access};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Find tenants whose database is not what their blueprint makes, and what is different
    Drift(drift::Options),
    /// Run statements in the databases of many tenants; only looking, unless it is said
    Exec(exec::Options),
}

pub(super) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let access = access::open(globals)?;
    match command {
        Command::Drift(options) => drift::run(globals, &access, options).await,
        Command::Exec(options) => exec::run(globals, &access, options).await,
    }
}
