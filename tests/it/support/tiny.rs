//! The smallest blueprint that shows every effect: one table, one row that counts the seedings.

use std::fs;

use tempfile::TempDir;
use tenantry::provisioning::BlueprintSource;

pub const MIGRATION: &str = "migrations/0001_notes.sql";
pub const SEED: &str = "seed/tenant/01_note.sql";
pub const VERIFY: &str = "verify/01_notes.sql";
pub const MEMBER: &str = "sync/member.sql";

/// How a member gets into the table `people`, which notes every telling.
pub const TELL_MEMBER: &str = "
    insert into people (id, name, role, present)
    values (current_setting('tenantry.user_id'), current_setting('tenantry.display_name'), current_setting('tenantry.role'), true)
    on conflict (id) do update
    set name = excluded.name, role = excluded.role, present = true, tellings = people.tellings + 1";

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

    /// The same with a table of people.
    pub fn with_people() -> Self {
        let this = Self::new();
        this.write(
            "migrations/0002_people.sql",
            "create table people (id text primary key, name text, role text, present boolean, tellings integer default 1)",
        );
        this.write(MEMBER, TELL_MEMBER);
        this.write(
            "sync/member_removed.sql",
            "update people set present = false, tellings = tellings + 1 where id = current_setting('tenantry.user_id')",
        );
        this
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        self.directory.path()
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
