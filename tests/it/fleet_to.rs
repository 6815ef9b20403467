//! Fleet runs that stop at a version, where only the migrator knows what comes before and after it.

use tenantry::fleet::{NewRun, RunState};

use crate::{
    fleet::{Fleet, all},
    support::{Deployment, TinyBlueprint, tiny::MIGRATION},
};

const COMMAND: &str = "migrator = \"command\"
[command]
argv = [\"/bin/sh\", \"db/migrate.sh\"]
files = [\"db\"]
version_query = \"select max(version) from public.versions\"";

/// A small migrator: a line of `db/versions` is a version and its statement.
const SCRIPT: &str = r#"
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin | tr ' ' :)
run() { psql --quiet --tuples-only --no-align --no-psqlrc --set ON_ERROR_STOP=1 --command "$1"; }
run 'set client_min_messages = warning; create table if not exists public.versions (version text)' || exit
while read -r version statement; do
    if [ -z "$(run "select version from public.versions where version = '$version'" </dev/null)" ]; then
        run "begin; $statement; insert into public.versions values ('$version'); commit" </dev/null || exit
    fi
    [ "$version" = "$TENANTRY_TARGET" ] && exit
done < db/versions
exit 0
"#;

/// With one version, and the table that the blueprint's seed and verification are about.
fn scripted() -> TinyBlueprint {
    let blueprint = TinyBlueprint::new();
    blueprint.remove(MIGRATION);
    blueprint.write("blueprint.toml", COMMAND);
    blueprint.write("db/migrate.sh", SCRIPT);
    blueprint.write("db/versions", &versions(1));
    blueprint
}

fn versions(count: u32) -> String {
    let line = |number| match number {
        1 => "v1 create table notes (body text not null)\n".to_owned(),
        number => format!("v{number} create table t{number} (id int)\n"),
    };
    (1..=count).map(line).collect()
}

fn to(version: &str) -> NewRun {
    NewRun {
        wanted_version: Some(version.to_owned()),
        ..all()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_stop_where_it_was_to_touches_no_tenant() {
    let fleet = Fleet::made_from(scripted(), Deployment::new().await, 1).await;
    let org = &fleet.orgs[0];
    let deaf = SCRIPT.replace("$TENANTRY_TARGET", "never");
    fleet.blueprint.write("db/migrate.sh", &deaf);
    fleet.blueprint.write("db/versions", &versions(3));
    let run = fleet.migrate(&to("v2")).await;
    let failure = run.failure.unwrap();
    assert_eq!((run.state, run.counts.total()), (RunState::Failed, 0));
    assert_eq!(failure.code, "migrator_target_missed");
    assert!(
        failure.cause.contains("\"v3\" instead of \"v2\""),
        "{}",
        failure.cause
    );
    assert_eq!(fleet.tenant(org).await.alembic_version, "v1");

    fleet.blueprint.write("db/migrate.sh", SCRIPT);
    let run = fleet.migrate(&to("v2")).await;
    assert_eq!(
        (run.state, run.version.as_deref()),
        (RunState::Done, Some("v2")),
        "{:?}",
        run.failure
    );
    assert_eq!(fleet.tenant(org).await.alembic_version, "v2");
    fleet.stop().await;
}
