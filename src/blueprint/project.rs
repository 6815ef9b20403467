//! The files of a migrator that is a program of its own: which they are, and what they were when read.
//!
//! Guarantees: everything that the migrator goes by lies inside the blueprint and is part of its hash; a
//! size is bounded before it is read. What an interpreter writes beside its sources (`__pycache__`,
//! `*.pyc`) and names that begin with a dot are neither read nor part of anything.

use std::path::PathBuf;

use super::{Error, LONGEST_VERSION, Migrator, Settings};

/// The largest number of files; a project of migrations has some hundred.
pub(super) const MOST_FILES: usize = 10_000;

/// The most that all of them may have together.
pub(super) const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// What a migrator of its own needs of the blueprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// The blueprint's directory, in which the migrator runs.
    pub root: PathBuf,
    /// Path and SHA-256 of each file, sorted by path.
    pub files: Vec<(String, String)>,
    /// The version to stop at; `None` for the newest.
    pub target: Option<String>,
}

impl Settings {
    /// The files and folders that the migrator goes by; none for `sql`.
    pub(super) fn project_paths(&self) -> Vec<&str> {
        match (self.migrator, &self.command) {
            (Migrator::Sql, _) => Vec::new(),
            (Migrator::Alembic, _) => {
                let own = [&self.alembic.ini, &self.alembic.directory];
                own.into_iter()
                    .chain(&self.alembic.files)
                    .map(String::as_str)
                    .collect()
            }
            (Migrator::Command, command) => {
                let files = command.iter().flat_map(|command| &command.files);
                files.map(String::as_str).collect()
            }
        }
    }

    /// What decides, beside the files, how the structure comes out. The program itself is not part of it:
    /// where it lies differs from machine to machine.
    pub(super) fn project_terms(&self) -> Vec<&str> {
        match (self.migrator, &self.command) {
            (Migrator::Sql, _) | (Migrator::Command, None) => Vec::new(),
            (Migrator::Alembic, _) => {
                let alembic = &self.alembic;
                vec![
                    &alembic.ini,
                    &alembic.version_schema,
                    &alembic.version_table,
                ]
            }
            (Migrator::Command, Some(command)) => {
                let arguments = command.argv.iter().skip(1);
                arguments
                    .chain([&command.version_query])
                    .map(String::as_str)
                    .collect()
            }
        }
    }
}

/// A version as a migrator may get it: it becomes an argument, so it must not look like an option.
pub(super) fn check_version(version: &str) -> Result<(), Error> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.@:+".contains(&byte);
    let begins = version
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if begins && version.len() <= LONGEST_VERSION && version.bytes().all(is_plain) {
        return Ok(());
    }
    Err(Error::VersionInvalid {
        version: version.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_no_option_and_no_shell() {
        for version in ["ae1027a6acf", "0008_attachments", "20260102030405", "head"] {
            check_version(version).unwrap();
        }
        for version in [
            "",
            "--sql",
            "-1",
            "a b",
            "a;b",
            "$(a)",
            "a\n",
            &"a".repeat(51),
        ] {
            assert!(check_version(version).is_err(), "{version:?}");
        }
    }
}
