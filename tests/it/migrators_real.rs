//! Alembic and dbmate as they are, with the examples' own files.
//!
//! They need what `.ci/run migrators` installs: `TENANTRY_TEST_ALEMBIC` is the directory of the Python packages,
//! `TENANTRY_TEST_DBMATE` the program. Where they are not there it says so.

use std::{fs, path::Path};

use tempfile::TempDir;
use tenantry::provisioning::BlueprintSource;

use crate::support::{Migrations, cluster::hold, migrations::copy};

/// A copy of an example, whose program is the one that is installed.
struct Example(TempDir);

impl Example {
    /// `None` where the program is not installed.
    fn of(name: &str, variable: &str, from: &str, to: impl Fn(&str) -> String) -> Option<Self> {
        let installed = std::env::var_os(variable).and_then(|value| value.into_string().ok());
        let Some(installed) = installed else {
            println!("skipped: {variable} is not set");
            return None;
        };
        let this = Self(tempfile::tempdir().unwrap());
        copy(&Path::new("examples").join(name), this.0.path());
        this.replace("blueprint.toml", from, &to(&installed));
        Some(this)
    }

    fn alembic() -> Option<Self> {
        Self::of(
            "alembic",
            "TENANTRY_TEST_ALEMBIC",
            "[\"python3\"]",
            |packages| format!("[\"/usr/bin/env\", \"PYTHONPATH={packages}\", \"python3\"]"),
        )
    }

    fn dbmate() -> Option<Self> {
        Self::of("dbmate", "TENANTRY_TEST_DBMATE", "[\"dbmate\"", |program| {
            format!("[\"{program}\"")
        })
    }

    fn replace(&self, file: &str, from: &str, to: &str) {
        let path = self.0.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    fn put(&self, file: &str, text: &str) {
        fs::write(self.0.path().join(file), text).unwrap();
    }

    /// Takes a file away; it can be put back.
    fn take(&self, file: &str) -> String {
        let path = self.0.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(path).unwrap();
        text
    }

    fn source(&self) -> BlueprintSource {
        BlueprintSource::Directory(self.0.path().to_owned())
    }
}

fn revision(name: &str, before: &str, body: &str) -> String {
    format!(
        "from alembic import op\n\nrevision = \"{name}\"\ndown_revision = \"{before}\"\n\n\ndef upgrade() -> None:\n{body}\n"
    )
}

const NINTH: &str = "alembic/versions/0009_more.py";

#[tokio::test(flavor = "multi_thread")]
async fn alembic_migrates_the_template_once_and_a_tenant_when_it_goes_on() {
    let Some(example) = Example::alembic() else {
        return;
    };
    let acme = Migrations::of(example.source()).await;
    assert_eq!(acme.tenant().await.alembic_version, "0008_comments");
    example.put(
        NINTH,
        &revision(
            "0009_more",
            "0008_comments",
            "    op.execute(\"alter table comments add column edited_at timestamptz\")",
        ),
    );
    let done = acme.follow_the_template().await.unwrap();
    assert_eq!((&*done.from, &*done.to), ("0008_comments", "0009_more"));
    let owns = format!(
        "select tableowner = '{}owner' from pg_tables where tablename = 'comments'",
        acme.app.deployment.prefix
    );
    assert!(acme.ask::<bool>(&owns).await);

    // there already: no interpreter is started, so that one which cannot be started is not missed
    let built = example.source().load().unwrap();
    let there = acme.template_of(&built).await.unwrap();
    example.replace("blueprint.toml", "\"python3\"]", "\"no-such-python\"]");
    let current = example.source().load().unwrap();
    let done = acme.migrate_to(&current, Some(&there)).await.unwrap();
    assert_eq!((&*done.to, done.applied), ("0009_more", 0));
    let error = acme.migrate_to(&current, None).await.unwrap_err();
    assert_eq!(error.code(), "migrator_failed");
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alembic_goes_to_a_revision_and_from_there_to_the_head() {
    let Some(example) = Example::alembic() else {
        return;
    };
    let last = example.take("alembic/versions/0008_comments.py");
    let seventh = example.take("alembic/versions/0007_email_index.py");
    let acme = Migrations::of(example.source()).await;
    assert_eq!(acme.tenant().await.alembic_version, "0006_display_name");
    example.put("alembic/versions/0007_email_index.py", &seventh);
    example.put("alembic/versions/0008_comments.py", &last);
    let cut = example
        .source()
        .load()
        .unwrap()
        .up_to("0007_email_index")
        .unwrap();
    let wanted = acme.template_of(&cut).await.unwrap();
    assert_eq!(wanted.version, "0007_email_index");
    let done = acme.migrate_to(&cut, Some(&wanted)).await.unwrap();
    assert_eq!(done.to, "0007_email_index");
    let done = acme.follow_the_template().await.unwrap();
    assert_eq!(
        (&*done.from, &*done.to),
        ("0007_email_index", "0008_comments")
    );
    // that there is nothing to do says that the database is further
    let error = acme.migrate_to(&cut, Some(&wanted)).await.unwrap_err();
    assert_eq!(error.code(), "ahead_of_version");
    assert!(error.to_string().contains("0008_comments"), "{error}");
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_alembic_cannot_do_has_a_code_of_its_own() {
    let Some(example) = Example::alembic() else {
        return;
    };
    let acme = Migrations::of(example.source()).await;
    let pass = "    pass";
    example.put(NINTH, &revision("0009_more", "0008_comments", pass));
    let tenth = "alembic/versions/0009_other.py";
    example.put(tenth, &revision("0009_other", "0008_comments", pass));
    let error = acme.migrate().await.unwrap_err();
    assert_eq!(error.code(), "alembic_several_heads");
    example.take(tenth);

    acme.execute("update alembic_version set version_num = 'from_elsewhere'")
        .await;
    let error = acme.migrate().await.unwrap_err();
    assert_eq!(error.code(), "alembic_revision_unknown");
    assert!(error.to_string().contains("from_elsewhere"), "{error}");
    // the tenant's own role may write there, any number of rows
    acme.execute(
        "insert into alembic_version select md5(i::text) from generate_series(1, 20000) i",
    )
    .await;
    let error = acme.migrate().await.unwrap_err();
    assert_eq!(error.code(), "alembic_several_heads");
    assert!(error.to_string().len() < 300, "{error}");
    acme.execute("update alembic_version set version_num = '0008_comments' where version_num = 'from_elsewhere'")
        .await;
    acme.execute("delete from alembic_version where version_num <> '0008_comments'")
        .await;

    // not in a transaction: the first half stays
    let body = "    with op.get_context().autocommit_block():\n        op.execute(\"create table half (id int)\")\n        op.execute(\"select 1 / 0\")";
    example.put(NINTH, &revision("0009_more", "0008_comments", body));
    let error = acme.migrate().await.unwrap_err();
    assert_eq!(error.code(), "migration_half_applied");
    assert!(error.to_string().contains("division by zero"), "{error}");
    acme.execute("drop table half").await;
    let body = "    op.execute(\"create table half (id int)\")\n    op.execute(\"select 1 / 0\")";
    example.put(NINTH, &revision("0009_more", "0008_comments", body));
    assert_eq!(acme.migrate().await.unwrap_err().code(), "migrator_failed");
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_left_between_two_branches_goes_on_to_their_merge() {
    let Some(example) = Example::alembic() else {
        return;
    };
    let acme = Migrations::of(example.source()).await;
    let table = |name: &str| format!("    op.execute(\"create table {name} (id int)\")");
    let put = |name: &str, before: &str, body: &str| {
        let path = format!("alembic/versions/{name}.py");
        example.put(&path, &revision(name, before, body));
    };
    put("0009_left", "0008_comments", &table("a_left"));
    put("0010_left", "0009_left", &table("b_left"));
    put("0009_right", "0008_comments", &table("a_right"));
    put("0010_right", "0009_right", &table("b_right"));
    let merge = revision("0011_merge", "both", "    pass")
        .replace("\"both\"", "(\"0010_left\", \"0010_right\")");
    example.put("alembic/versions/0011_merge.py", &merge);
    // as an attempt leaves it that came through one branch and was broken off in the other
    acme.execute(
        "create table a_left (id int); create table b_left (id int); create table a_right (id int)",
    )
    .await;
    acme.execute("update alembic_version set version_num = '0010_left'")
        .await;
    acme.execute("insert into alembic_version values ('0009_right')")
        .await;
    let done = acme.migrate().await.unwrap();
    assert_eq!(
        (&*done.from, &*done.to),
        ("0010_left, 0009_right", "0011_merge")
    );
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_up_alembic_is_named() {
    let Some(example) = Example::alembic() else {
        return;
    };
    example.replace(
        "blueprint.toml",
        "migrator = ",
        "lock_timeout_ms = 500\nmigrator = ",
    );
    let acme = Migrations::of(example.source()).await;
    example.put(
        NINTH,
        &revision(
            "0009_more",
            "0008_comments",
            "    op.execute(\"alter table tasks add column due date\")",
        ),
    );
    let url = format!("{}?application_name=nightly%20report", acme.url().await);
    let mut holder = hold(&url, "lock table tasks in share mode").await;
    let error = acme.migrate().await.unwrap_err();
    assert_eq!(error.code(), "lock_timeout");
    assert_eq!(error.blocker().unwrap().application, "nightly report");
    holder.release().await;
    assert_eq!(acme.migrate().await.unwrap().to, "0009_more");
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dbmate_migrates_the_template_once_and_a_tenant_when_it_goes_on() {
    let Some(example) = Example::dbmate() else {
        return;
    };
    let third = "db/migrations/20260119090000_users_by_role.sql";
    let index = example.take(third);
    let acme = Migrations::of(example.source()).await;
    assert_eq!(acme.tenant().await.alembic_version, "20260112090000");
    example.put(third, &index);
    let done = acme.follow_the_template().await.unwrap();
    assert_eq!(
        (&*done.from, &*done.to),
        ("20260112090000", "20260119090000")
    );
    assert!(
        acme.ask::<bool>(
            "select indisvalid from pg_index where indexrelid = 'users_by_role'::regclass"
        )
        .await
    );

    example.put(
        "db/migrations/20260126090000_broken.sql",
        "-- migrate:up\nselect nothing_such;\n-- migrate:down\n",
    );
    let error = acme.migrate().await.unwrap_err();
    assert_eq!(error.code(), "migrator_failed");
    assert!(error.to_string().contains("nothing_such"), "{error}");
    acme.app.stop().await;
}
