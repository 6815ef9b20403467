//! `tenantry config check|print`.

use std::collections::BTreeMap;

use super::{Failure, Globals, access};
use crate::config::{Config, DEFAULT_TOML};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Say whether the configuration can be used
    Check,
    /// Print the effective configuration, without secrets
    Print {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Print the default file instead: every setting, explained
        #[arg(long, conflicts_with = "json")]
        default: bool,
    },
}

pub(super) fn run(globals: &Globals, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Check => {
            let config = Config::load(globals.config.clone(), &globals.environment)?;
            let sources = config.routed_sources().count();
            globals.printer.data(format!(
                "ok: {sources} source(s) routed, listening on {}",
                config.server.listen
            ));
            Ok(())
        }
        Command::Print { default: true, .. } => {
            globals.printer.data(DEFAULT_TOML.trim_end());
            Ok(())
        }
        Command::Print { json, .. } => {
            let config = access::config(globals)?;
            let lines = config.redacted();
            if *json {
                let lines: BTreeMap<_, _> = lines.iter().map(|(key, value)| (key, value)).collect();
                return globals.printer.json(&lines);
            }
            for (key, value) in lines {
                globals.printer.data(format!("{key} = {value}"));
            }
            Ok(())
        }
    }
}
