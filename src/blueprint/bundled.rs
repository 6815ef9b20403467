//! The blueprints that are compiled in: the worked one, and the one `tenantry init` starts from.
//!
//! The tables list every file of `examples/crm` and `examples/starter`; a test compares them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Error;
use super::load::{RawFile, SETTINGS};

/// (path inside the blueprint, content)
pub(super) type Files = &'static [(&'static str, &'static str)];

macro_rules! file {
    ($blueprint:literal, $name:literal) => {
        (
            $name,
            include_str!(concat!("../../examples/", $blueprint, "/", $name)),
        )
    };
}

/// `examples/crm`.
pub(super) const CRM: Files = &[
    file!("crm", "blueprint.toml"),
    file!("crm", "migrations/0001_users.sql"),
    file!("crm", "migrations/0002_roles.sql"),
    file!("crm", "migrations/0003_settings.sql"),
    file!("crm", "migrations/0004_companies.sql"),
    file!("crm", "migrations/0005_deals.sql"),
    file!("crm", "migrations/0006_activities.sql"),
    file!("crm", "migrations/0007_metadata.sql"),
    file!("crm", "migrations/0008_attachments.sql"),
    file!("crm", "seed/shared/01_roles.sql"),
    file!("crm", "seed/shared/02_pipelines.sql"),
    file!("crm", "seed/shared/03_settings.sql"),
    file!("crm", "seed/shared/04_metadata.sql"),
    file!("crm", "seed/tenant/01_workspace.sql"),
    file!("crm", "seed/tenant/02_onboarding.sql"),
    file!("crm", "sync/member.sql"),
    file!("crm", "sync/member_removed.sql"),
    file!("crm", "sync/roles.sql"),
    file!("crm", "verify/01_roles.sql"),
    file!("crm", "verify/02_pipelines.sql"),
    file!("crm", "verify/03_settings.sql"),
    file!("crm", "verify/04_onboarding.sql"),
    file!("crm", "verify/05_metadata.sql"),
    file!("crm", "verify/06_members.sql"),
];

/// `examples/starter`.
pub(super) const STARTER: Files = &[
    file!("starter", "blueprint.toml"),
    file!("starter", "migrations/0001_users.sql"),
    file!("starter", "migrations/0002_settings.sql"),
    file!("starter", "seed/shared/01_roles.sql"),
    file!("starter", "seed/tenant/01_settings.sql"),
    file!("starter", "sync/member.sql"),
    file!("starter", "sync/member_removed.sql"),
    file!("starter", "sync/roles.sql"),
    file!("starter", "verify/01_ready.sql"),
];

/// Parts the settings from the SQL files.
pub(super) fn split(files: Files) -> (RawFile, Vec<RawFile>) {
    let raw = |name: &str, content: &str| RawFile {
        name: name.to_owned(),
        bytes: content.as_bytes().to_vec(),
    };
    let (settings, sql): (Vec<_>, Vec<_>) = files
        .iter()
        .map(|(name, content)| raw(name, content))
        .partition(|file| file.name == SETTINGS);
    let settings = settings.into_iter().next();
    // No settings are the default settings.
    (settings.unwrap_or_else(|| raw(SETTINGS, "")), sql)
}

/// Writes a blueprint; refuses where any part of one exists.
pub(super) fn write(files: Files, dir: &Path) -> Result<Vec<PathBuf>, Error> {
    for (name, _) in files {
        let (top, _) = name.split_once('/').unwrap_or((name, ""));
        let path = dir.join(top);
        // A link that leads nowhere is something as well.
        if path.symlink_metadata().is_ok() {
            return Err(Error::Exists { path });
        }
    }
    let mut written = Vec::new();
    for (name, content) in files {
        let path = dir.join(name);
        if let Err(source) = write_new(&path, content) {
            return Err(Error::Unwritable { path, source });
        }
        written.push(path);
    }
    Ok(written)
}

fn write_new(path: &Path, content: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(content.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every file below a directory, as the tables name them.
    fn list(root: &Path, dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                list(root, &path, found);
            } else {
                let name = path.strip_prefix(root).unwrap();
                found.push(name.to_str().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn the_tables_list_exactly_the_files_of_the_directories() {
        for (example, files) in [("crm", CRM), ("starter", STARTER)] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("examples")
                .join(example);
            let mut found = Vec::new();
            list(&root, &root, &mut found);
            found.sort();
            let listed: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
            assert_eq!(listed, found, "examples/{example}");
        }
    }
}
