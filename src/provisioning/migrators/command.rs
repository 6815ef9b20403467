//! The migrator `command`: any program that migrates the database that its environment names.

use crate::blueprint::Command;

/// The command line, as it is configured.
pub(super) fn argv(settings: Option<&Command>) -> Vec<String> {
    settings.map_or_else(Vec::new, |command| command.argv.clone())
}

/// The query of the version, as it is configured.
pub(super) fn version_sql(settings: Option<&Command>) -> Option<&str> {
    settings.map(|command| command.version_query.trim_end_matches([';', ' ', '\n']))
}
