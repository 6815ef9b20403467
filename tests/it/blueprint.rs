//! Blueprints on disk: what loads, what is refused and how, what names the template.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tenantry::blueprint::{Blueprint, Error, Migrator, Settings};

/// A small valid blueprint in a directory of its own.
struct Sample {
    dir: TempDir,
}

impl Sample {
    fn new() -> Self {
        let sample = Self {
            dir: TempDir::new().unwrap(),
        };
        sample
            .put("blueprint.toml", "migrator = \"sql\"\n")
            .put("migrations/0001_users.sql", "create table users (id int);")
            .put("migrations/0002_roles.sql", "create table roles (id int);")
            .put("seed/shared/01_roles.sql", "insert into roles values (1);")
            .put("seed/tenant/01_users.sql", "insert into users values (1);")
            .put("verify/01_users.sql", "select 'none' where false;");
        sample
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn remove(&self, name: &str) -> &Self {
        fs::remove_file(self.path(name)).unwrap();
        self
    }

    fn with_members(&self) -> &Self {
        self.put("sync/member.sql", "select 1")
            .put("sync/member_removed.sql", "select 2")
    }

    fn load(&self) -> Blueprint {
        Blueprint::load(self.dir.path()).unwrap()
    }

    /// Loads what must be refused; returns (code, message).
    fn refusal(&self) -> (&'static str, String) {
        told(&Blueprint::load(self.dir.path()).unwrap_err())
    }
}

/// Every refusal says what to do; returns (code, message).
fn told(error: &Error) -> (&'static str, String) {
    assert!(!error.fix().is_empty());
    (error.code(), error.to_string())
}

fn names(files: &[tenantry::blueprint::SqlFile]) -> Vec<&str> {
    files.iter().map(|file| file.name.as_str()).collect()
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name)
}

#[test]
fn the_bundled_blueprint_is_the_one_on_disk() {
    let bundled = Blueprint::bundled().unwrap();
    assert_eq!(bundled, Blueprint::load(&example("crm")).unwrap());
    assert_eq!(bundled.migrations.len(), 8);
    assert_eq!(bundled.version().unwrap(), "0008_attachments");
    assert_eq!(bundled.settings, Settings::default());
}

#[test]
fn a_blueprint_has_every_file_in_order() {
    let sample = Sample::new();
    sample
        .put("migrations/10000_late.sql", "select 1")
        .put("migrations/9999_early.sql", "select 1")
        .put("migrations/00003_gap.sql", "select 1")
        .put("seed/shared/00_first.sql", "select 1; select 2")
        .put("README.md", "about")
        .put("migrations/README.md", "about")
        .put("migrations/.0001_users.sql.swp", "editor");
    let blueprint = sample.load();
    assert_eq!(blueprint.settings.migrator, Migrator::Sql);
    assert_eq!(
        names(&blueprint.migrations),
        [
            "migrations/0001_users.sql",
            "migrations/0002_roles.sql",
            "migrations/00003_gap.sql",
            "migrations/9999_early.sql",
            "migrations/10000_late.sql",
        ]
    );
    assert_eq!(
        names(&blueprint.shared_seed),
        ["seed/shared/00_first.sql", "seed/shared/01_roles.sql"]
    );
    assert_eq!(names(&blueprint.tenant_seed), ["seed/tenant/01_users.sql"]);
    assert_eq!(names(&blueprint.verify), ["verify/01_users.sql"]);
    assert_eq!(blueprint.version().unwrap(), "10000_late");
}

#[test]
fn only_settings_and_one_migration_are_needed() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("blueprint.toml"), "").unwrap();
    fs::create_dir(dir.path().join("migrations")).unwrap();
    fs::write(dir.path().join("migrations/0001_a.sql"), "select 1").unwrap();
    assert!(Blueprint::load(dir.path()).is_ok());
}

#[test]
fn a_missing_directory_is_named() {
    let sample = Sample::new();
    for name in ["nowhere", "blueprint.toml"] {
        let (code, message) = told(&Blueprint::load(&sample.path(name)).unwrap_err());
        assert_eq!(code, "blueprint_directory_missing");
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn missing_settings_are_told_before_anything_else() {
    let sample = Sample::new();
    sample.remove("blueprint.toml").put("src/main.rs", "");
    assert_eq!(sample.refusal().0, "blueprint_settings_missing");
}

#[test]
fn wrong_settings_show_line_and_caret() {
    let sample = Sample::new();
    sample.put("blueprint.toml", "migrator = \"sql\"\nlock_timeout = 1\n");
    let error = Blueprint::load(sample.dir.path()).unwrap_err();
    assert_eq!(error.code(), "blueprint_settings_invalid");
    insta::assert_snapshot!(error.source().unwrap(), @"
    TOML parse error at line 2, column 1
      |
    2 | lock_timeout = 1
      | ^^^^^^^^^^^^
    unknown field `lock_timeout`, expected one of `migrator`, `statement_timeout_ms`, `lock_timeout_ms`, `migrate_timeout_ms`, `seed_timeout_ms`, `verify_timeout_ms`, `alembic`, `command`, `members`, `roles`
    ");
}

#[test]
fn an_unknown_migrator_is_refused_by_name() {
    let sample = Sample::new();
    sample.put("blueprint.toml", "migrator = \"flyway\"");
    let (code, message) = sample.refusal();
    assert_eq!(code, "blueprint_migrator_unknown");
    assert!(message.contains("\"flyway\""), "{message}");
}

#[test]
fn the_files_of_a_program_stand_in_the_place_of_migrations() {
    let sample = Sample::new();
    fs::remove_dir_all(sample.path("migrations")).unwrap();
    sample
        .put("blueprint.toml", "migrator = \"alembic\"")
        .put("alembic.ini", "[alembic]")
        .put("alembic/env.py", "run()")
        .put("alembic/versions/a1.py", "revision = 'a1'");
    let blueprint = sample.load();
    assert_eq!(blueprint.version(), None);
    let hash = blueprint.hash();
    // what an interpreter writes is no part of it
    sample
        .put("alembic/__pycache__/env.cpython-311.pyc", "x")
        .put("alembic/versions/a1.pyc", "x")
        .put("alembic/.env", "x");
    assert_eq!(sample.load().hash(), hash);
    assert_ne!(blueprint.up_to("a1").unwrap().hash(), hash);
    sample.put("alembic/versions/a1.py", "revision = 'a2'");
    assert_ne!(sample.load().hash(), hash);

    // what belongs to nobody is still refused, and so is a second schema
    sample.put("migrations/0001_users.sql", "create table users (id int);");
    assert_eq!(sample.refusal().0, "blueprint_unexpected_file");
    fs::remove_dir_all(sample.path("migrations")).unwrap();
    fs::remove_dir_all(sample.path("alembic")).unwrap();
    assert_eq!(sample.refusal().0, "blueprint_project_missing");
    let outside = TempDir::new().unwrap();
    std::os::unix::fs::symlink(outside.path(), sample.path("alembic")).unwrap();
    assert_eq!(sample.refusal().0, "blueprint_link_outside");
}

#[test]
fn a_query_of_the_version_is_one_query() {
    for query in ["", "select 1; select 2", "commit", "select 'a"] {
        let sample = Sample::new();
        fs::remove_dir_all(sample.path("migrations")).unwrap();
        let settings = format!(
            "migrator = \"command\"\n[command]\nargv = [\"a\"]\nfiles = [\"db\"]\nversion_query = \"{query}\""
        );
        sample.put("blueprint.toml", settings).put("db/1.sql", "");
        assert_eq!(
            sample.refusal().0,
            "blueprint_version_query_invalid",
            "{query}"
        );
    }
}

#[test]
fn a_blueprint_is_cut_off_after_a_name_or_a_number() {
    let blueprint = Sample::new().load();
    for version in ["0001_users", "1", "0001"] {
        let cut = blueprint.up_to(version).unwrap();
        assert_eq!(cut.version().unwrap(), "0001_users");
        assert_ne!(cut.hash(), blueprint.hash());
    }
    assert_eq!(blueprint.up_to("2").unwrap(), blueprint);
    for version in ["3", "users", ""] {
        let (code, message) = told(&blueprint.up_to(version).unwrap_err());
        assert_eq!(code, "blueprint_version_unknown");
        assert!(message.contains("0002_roles"), "{message}");
    }
}

#[test]
fn a_mark_takes_a_migration_out_of_its_transaction_and_nothing_else() {
    let sample = Sample::new();
    let two = "create index concurrently a on users (id); -- a\ncreate index b on users (id)";
    sample.put(
        "migrations/0003_a.sql",
        format!("\n--  Tenantry: no transaction\n{two}"),
    );
    let blueprint = sample.load();
    let statements = blueprint.migrations[2].statements.as_ref().unwrap();
    assert_eq!(
        statements.as_slice(),
        [
            "create index concurrently a on users (id); -- a\n",
            "create index b on users (id)"
        ]
    );
    assert!(blueprint.migrations[1].statements.is_none());
    sample.put(
        "migrations/0003_a.sql",
        format!("{two}\n-- tenantry: no transaction"),
    );
    assert!(sample.load().migrations[2].statements.is_none());
    sample.put(
        "seed/shared/02_b.sql",
        "-- tenantry: no transaction\nselect 1",
    );
    assert_eq!(sample.refusal().0, "blueprint_mark_misplaced");
}

#[test]
fn wrong_files_are_refused_by_name() {
    let long = format!("migrations/0003_{}.sql", "a".repeat(46));
    let cases: [(&str, &[u8], &str); 19] = [
        ("seeds/01_a.sql", b"select 1", "unexpected_file"),
        ("seed/01_a.sql", b"select 1", "unexpected_file"),
        ("seed/other/01_a.sql", b"select 1", "unexpected_file"),
        ("migrations/old/0001_a.sql", b"select 1", "unexpected_file"),
        ("migrations/0003_a.sql~", b"select 1", "unexpected_file"),
        ("migrations/0003_a.SQL", b"select 1", "unexpected_file"),
        ("verify/notes.txt", b"select 1", "unexpected_file"),
        (
            "migrations/003_a.sql",
            b"select 1",
            "migration_name_invalid",
        ),
        ("migrations/a.sql", b"select 1", "migration_name_invalid"),
        (
            "migrations/0003_.sql",
            b"select 1",
            "migration_name_invalid",
        ),
        ("migrations/0003_a b.sql", b"select 1", "name_invalid"),
        ("seed/shared/ä.sql", b"select 1", "name_invalid"),
        ("migrations/00002_a.sql", b"select 1", "number_twice"),
        (&long, b"select 1", "version_too_long"),
        ("verify/a.sql", b" -- nothing", "no_statement"),
        ("verify/a.sql", b"select 1;\nselect 2", "many_queries"),
        ("seed/tenant/a.sql", b"select 1;\n\\i b", "psql_command"),
        ("seed/tenant/a.sql", b"select 1;\nselect 'b", "unterminated"),
        ("seed/tenant/a.sql", b"select 1;\nselect '\xff'", "not_utf8"),
    ];
    for (name, content, expected) in cases {
        let sample = Sample::new();
        sample.put(name, content);
        let (code, message) = sample.refusal();
        assert_eq!(code, format!("blueprint_{expected}"), "{name}: {message}");
        // A folder that does not belong is named itself.
        let (folder, _) = name.rsplit_once('/').unwrap();
        let named = message.contains(name) || message.starts_with(&format!("{folder} "));
        assert!(named, "{name}: {message}");
        if content.contains(&b'\n') {
            assert!(message.contains("line 2"), "{message}");
        }
    }
}

#[test]
fn text_that_postgres_cannot_take_is_refused() {
    let sample = Sample::new();
    sample.put("migrations/0002_roles.sql", "select 1;\n\n\0");
    let (code, message) = sample.refusal();
    assert_eq!(code, "blueprint_nul_byte");
    assert!(message.contains("0002_roles.sql line 3"), "{message}");

    let sample = Sample::new();
    sample.put("blueprint.toml", b"# \xfc\n");
    assert_eq!(sample.refusal().0, "blueprint_not_utf8");
}

#[test]
fn a_byte_order_mark_is_taken_off() {
    let sample = Sample::new();
    sample
        .put("blueprint.toml", "\u{feff}lock_timeout_ms = 7")
        .put(
            "migrations/0001_users.sql",
            "\u{feff}create table a (b int)",
        );
    let blueprint = sample.load();
    assert_eq!(blueprint.settings.lock_timeout_ms, 7);
    assert_eq!(blueprint.migrations[0].sql, "create table a (b int)");
}

#[test]
fn ten_mebibytes_are_enough() {
    let sample = Sample::new();
    let mut sql = b"select 1;".to_vec();
    sql.resize(10 * 1024 * 1024, b'\n');
    sample.put("seed/shared/big.sql", &sql).load();
    sql.push(b'\n');
    let (code, message) = sample.put("seed/shared/big.sql", &sql).refusal();
    assert_eq!(code, "blueprint_file_too_large");
    assert!(message.contains("seed/shared/big.sql"), "{message}");
}

#[test]
fn without_migrations_there_is_no_tenant() {
    let sample = Sample::new();
    sample
        .remove("migrations/0001_users.sql")
        .remove("migrations/0002_roles.sql");
    assert_eq!(sample.refusal().0, "blueprint_no_migrations");
    fs::remove_dir(sample.path("migrations")).unwrap();
    assert_eq!(sample.refusal().0, "blueprint_no_migrations");
}

#[test]
fn transaction_control_is_refused_with_its_line() {
    for name in ["migrations/0002_roles.sql", "seed/tenant/01_users.sql"] {
        let sample = Sample::new();
        sample.put(name, "-- begin;\nselect 'commit;';\n\nROLLBACK;\n");
        let (code, message) = sample.refusal();
        assert_eq!(code, "blueprint_transaction_control");
        let expected = format!("{name} line 4 controls the transaction: rollback");
        assert_eq!(message, expected);
    }
}

#[test]
fn a_change_of_role_is_refused_with_its_line() {
    for name in ["migrations/0002_roles.sql", "seed/tenant/01_users.sql"] {
        let sample = Sample::new();
        sample.put(name, "select 1;\nRESET role;\ncreate table t ();\n");
        let (code, message) = sample.refusal();
        assert_eq!(code, "blueprint_role_changed");
        let expected = format!("{name} line 2 changes the role that the file runs as: reset role");
        assert_eq!(message, expected);
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_inside_and_refused_outside() {
    use std::os::unix::fs::symlink;

    let sample = Sample::new();
    let inside = sample.path("migrations/0003_again.sql");
    symlink(sample.path("migrations/0001_users.sql"), &inside).unwrap();
    assert_eq!(sample.load().migrations.len(), 3);

    let outside = TempDir::new().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "select 1").unwrap();
    symlink(&secret, sample.path("seed/tenant/02_secret.sql")).unwrap();
    let (code, message) = sample.refusal();
    assert_eq!(code, "blueprint_link_outside");
    assert!(message.contains("seed/tenant/02_secret.sql"), "{message}");

    // A whole folder, the settings, and a link that leads nowhere.
    let sample = Sample::new();
    fs::remove_dir_all(sample.path("verify")).unwrap();
    symlink(outside.path(), sample.path("verify")).unwrap();
    assert_eq!(sample.refusal().0, "blueprint_link_outside");

    let sample = Sample::new();
    sample.remove("blueprint.toml");
    symlink(&secret, sample.path("blueprint.toml")).unwrap();
    assert_eq!(sample.refusal().0, "blueprint_link_outside");

    let sample = Sample::new();
    symlink("nowhere.sql", sample.path("verify/02_a.sql")).unwrap();
    let (code, message) = sample.refusal();
    assert_eq!(code, "blueprint_unreadable");
    assert!(message.contains("verify/02_a.sql"), "{message}");
}

#[test]
fn the_hash_is_that_of_the_template() {
    let sample = Sample::new();
    let hash = sample.load().hash();
    assert_eq!(hash.len(), 64);
    assert_eq!(hash, Sample::new().load().hash());

    // What concerns one tenant only does not change it.
    sample
        .put("seed/tenant/01_users.sql", "select 2")
        .put("seed/tenant/02_more.sql", "select 2")
        .put("verify/01_users.sql", "select 'b' where false")
        .put("blueprint.toml", "lock_timeout_ms = 1")
        .with_members();
    assert_eq!(sample.load().hash(), hash);
}

#[test]
fn scripts_for_members_come_together_or_not_at_all() {
    let sample = Sample::new();
    assert_eq!(sample.load().sync, None);
    fs::create_dir(sample.path("sync")).unwrap();
    assert_eq!(sample.load().sync, None, "an empty folder tells nobody");

    let scripts = sample.with_members().load().sync.unwrap();
    assert_eq!(scripts.member.name, "sync/member.sql");
    assert_eq!(scripts.removed.name, "sync/member_removed.sql");
    assert_eq!(scripts.roles, None);
    sample.put("sync/roles.sql", "select 'admin';");
    assert!(sample.load().sync.unwrap().roles.is_some());

    sample.remove("sync/member_removed.sql");
    let (code, message) = sample.refusal();
    assert_eq!(code, "blueprint_sync_incomplete");
    let expected = "sync/member.sql is there, but sync/member_removed.sql is not";
    assert_eq!(message, expected);
    sample.remove("sync/member.sql");
    assert_eq!(
        sample.refusal().1,
        "sync/roles.sql is there, but sync/member.sql is not"
    );
    sample.put("sync/member_removed.sql", "select 1");
    assert_eq!(sample.refusal().0, "blueprint_sync_incomplete");
}

#[test]
fn scripts_for_members_are_checked_like_seeds() {
    let refusal = |name, sql| Sample::new().with_members().put(name, sql).refusal();
    let (member, roles) = ("sync/member.sql", "sync/roles.sql");
    assert_eq!(
        refusal(member, "select 1;\ncommit").0,
        "blueprint_transaction_control"
    );
    assert_eq!(refusal(member, "\\i x").0, "blueprint_psql_command");
    assert_eq!(refusal(member, "-- later").0, "blueprint_no_statement");
    assert_eq!(
        refusal(roles, "select 'a';\nselect 'b'").0,
        "blueprint_many_queries"
    );
    for name in ["sync/users.sql", "sync/member.SQL", "sync/more/member.sql"] {
        assert_eq!(refusal(name, "select 1").0, "blueprint_unexpected_file");
    }
    // several statements are fine for a member
    let sample = Sample::new();
    sample.with_members().put(member, "select 1; select 2");
    assert!(sample.load().sync.is_some());
}

#[test]
fn the_hash_of_what_members_are_told_changes_with_every_byte_of_it() {
    assert_eq!(Sample::new().load().sync_hash(), None);
    let sample = Sample::new();
    let hash = |sample: &Sample| sample.load().sync_hash().unwrap();
    let mut hashes = vec![hash(sample.with_members())];
    assert_eq!(hashes[0].len(), 64);
    for (name, content) in [
        ("sync/member.sql", "select 1 "),
        ("sync/member_removed.sql", "select 1 "),
        ("sync/roles.sql", "select 'member'"),
        ("blueprint.toml", "[members]\ndefault_role = \"viewer\""),
    ] {
        sample.put(name, content);
        let hash = hash(&sample);
        assert!(!hashes.contains(&hash), "{name}");
        hashes.push(hash);
    }
    // how long it may take is no matter of what is told
    sample.put(
        "blueprint.toml",
        "[members]\ndefault_role = \"viewer\"\nsync_timeout_ms = 5",
    );
    assert_eq!(Some(&hash(&sample)), hashes.last());
}

#[test]
fn the_hash_changes_with_every_byte_of_the_template() {
    let users = "migrations/0001_users.sql";
    let roles = "migrations/0002_roles.sql";
    let changes: [&[(&str, &str)]; 6] = [
        &[(users, "create table users (id int); ")],
        &[(users, "create table users (id int);\r\n")],
        &[(users, "\u{feff}create table users (id int);")],
        &[("seed/shared/01_roles.sql", "insert into roles values (2);")],
        &[("migrations/0003_more.sql", "select 1")],
        // The same bytes one after the other, parted at another place.
        &[
            (users, "create table users (id int)"),
            (roles, ";create table roles (id int);"),
        ],
    ];
    let mut hashes = vec![Sample::new().load().hash()];
    for change in changes {
        let sample = Sample::new();
        for (name, content) in change {
            sample.put(name, content);
        }
        let hash = sample.load().hash();
        assert!(!hashes.contains(&hash), "{change:?}");
        hashes.push(hash);
    }
    let sample = Sample::new();
    let renamed = sample.path("migrations/0002_role.sql");
    fs::rename(sample.path(roles), renamed).unwrap();
    assert!(!hashes.contains(&sample.load().hash()));
}

#[test]
fn applied_migrations_stay_as_they_were() {
    let sample = Sample::new();
    let blueprint = sample.load();
    let applied: Vec<_> = blueprint
        .migrations
        .iter()
        .map(|file| (file.name.clone(), file.sha256.clone()))
        .collect();
    for count in 0..=applied.len() {
        blueprint.check_history(&applied[..count]).unwrap();
    }
    let refusal = |sample: &Sample| told(&sample.load().check_history(&applied).unwrap_err());

    sample.put("migrations/0003_new.sql", "select 1");
    sample.load().check_history(&applied).unwrap();

    sample.put("migrations/00001_late.sql", "select 1");
    assert_eq!(sample.refusal().0, "blueprint_number_twice");
    sample.remove("migrations/00001_late.sql");

    sample.put("migrations/0000_late.sql", "select 1");
    let (code, message) = refusal(&sample);
    assert_eq!(code, "blueprint_migration_late");
    assert!(message.contains("0000_late.sql is new"), "{message}");
    assert!(message.contains("0002_roles.sql"), "{message}");
    sample.remove("migrations/0000_late.sql");

    sample.put(
        "migrations/0001_users.sql",
        "create table users (id bigint);",
    );
    let (code, message) = refusal(&sample);
    assert_eq!(code, "blueprint_migration_edited");
    assert!(
        message.starts_with("migrations/0001_users.sql"),
        "{message}"
    );

    sample.remove("migrations/0001_users.sql");
    let (code, message) = refusal(&sample);
    assert_eq!(code, "blueprint_migration_removed");
    assert!(
        message.starts_with("migrations/0001_users.sql"),
        "{message}"
    );
}

#[test]
fn the_starter_is_a_blueprint() {
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("new/blueprint");
    let written = Blueprint::write_starter(&dir).unwrap();
    assert_eq!(written.len(), 9);
    let first = fs::read_to_string(dir.join("sync/member.sql")).unwrap();
    assert!(first.contains("on conflict"), "{first}");
    assert!(written.iter().all(|path| path.is_file()));
    let starter = Blueprint::load(&dir).unwrap();
    assert_eq!(starter, Blueprint::load(&example("starter")).unwrap());
    assert_eq!(starter.settings, Settings::default());
}

#[test]
fn the_starter_overwrites_nothing() {
    for name in ["blueprint.toml", "migrations/0007_mine.sql", "verify/.keep"] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine").unwrap();
        let error = Blueprint::write_starter(dir.path()).unwrap_err();
        assert_eq!(told(&error).0, "blueprint_exists");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
    // Other things in the directory are not in the way.
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("README.md"), "mine").unwrap();
    Blueprint::write_starter(dir.path()).unwrap();
}
