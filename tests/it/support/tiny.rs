//! The smallest blueprint that shows every effect: one table, one row that counts the seedings.

use std::fs;

use tempfile::TempDir;
use tenantry::provisioning::BlueprintSource;

pub const MIGRATION: &str = "migrations/0001_notes.sql";
pub const SEED: &str = "seed/tenant/01_note.sql";
pub const VERIFY: &str = "verify/01_notes.sql";

/// A blueprint in a directory of its own, to be edited.
pub struct TinyBlueprint {
    directory: TempDir,
}

impl TinyBlueprint {
    pub fn new() -> Self {
        let this = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        this.write("blueprint.toml", "");
        this.write(
            MIGRATION,
            "create table notes (id bigint generated always as identity primary key, body text not null)",
        );
        // not idempotent on purpose: a second seeding would be a second row
        this.write(
            SEED,
            "insert into notes (body) values (current_setting('tenantry.organization_name'))",
        );
        this.write(
            VERIFY,
            "select 'there are ' || count(*) || ' notes' as problem from notes having count(*) <> 1",
        );
        this
    }

    pub fn write(&self, file: &str, text: &str) {
        let path = self.directory.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn remove(&self, file: &str) {
        fs::remove_file(self.directory.path().join(file)).unwrap();
    }

    pub fn source(&self) -> BlueprintSource {
        BlueprintSource::Directory(self.directory.path().to_owned())
    }
}
