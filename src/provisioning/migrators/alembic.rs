//! The migrator `alembic`: the user's project, run by the user's Python.

use super::{Error, state::MOST_VERSIONS};
use crate::blueprint::{Alembic, Project};

/// The command line. It holds no secret.
///
/// A tenant's database goes to the revision of its template, whatever `head` has become meanwhile.
pub(super) fn argv(
    settings: &Alembic,
    project: &Project,
    of_template: Option<&str>,
) -> Vec<String> {
    let target = project.target.as_deref().or(of_template).unwrap_or("head");
    let ours = ["-m", "alembic", "-c", &settings.ini, "upgrade", target];
    let ours = ours.into_iter().map(str::to_owned);
    settings.python.iter().cloned().chain(ours).collect()
}

/// Lists the revisions after one and up to another; fails where the one does not come before the other.
pub(super) fn history_argv(settings: &Alembic, after: &str, up_to: &str) -> Vec<String> {
    let ours = ["-m", "alembic", "-c", &settings.ini, "history"];
    let ours = ours.into_iter().map(str::to_owned);
    let range = format!("--rev-range={after}:{up_to}");
    settings
        .python
        .iter()
        .cloned()
        .chain(ours)
        .chain([range])
        .collect()
}

/// The query of the current revisions, a few at most. The names are letters, digits and `_` only.
pub(super) fn version_sql(settings: &Alembic) -> String {
    format!(
        "select version_num from \"{}\".\"{}\" limit {MOST_VERSIONS}",
        settings.version_schema, settings.version_table
    )
}

/// What Alembic means, where it says so in its own words; they decide what is told and nothing else.
pub(super) fn explain(errors: &str, database: &str) -> Option<Error> {
    let line = |mark: &str| errors.lines().rfind(|line| line.contains(mark));
    if let Some(line) = line("Multiple head revisions are present") {
        let what = line.trim().to_owned();
        return Some(Error::SeveralHeads { what });
    }
    let line = line("Can't locate revision identified by")?;
    Some(Error::RevisionUnknown {
        database: database.to_owned(),
        told: line.trim().to_owned(),
    })
}
