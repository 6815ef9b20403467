//! Fleet runs that stop at a version, where only the migrator knows what comes before and after it.

use tenantry::fleet::{NewRun, RunState};

use crate::support::{Deployment, Fleet, TinyBlueprint, fleet::all, tiny::MIGRATION};

const COMMAND: &str = "migrator = \"command\"
[command]
argv = [\"/bin/sh\", \"db/migrate.sh\"]
files = [\"db\"]
version_query = \"select max(version) from public.versions\"";

/// Called as Alembic is: `-m alembic -c <ini> upgrade <target>`.
const ALEMBIC: &str = "migrator = \"alembic\"
[alembic]
python = [\"/bin/sh\", \"db/migrate.sh\"]
ini = \"db/alembic.ini\"
directory = \"db\"";

/// A small migrator: a line of `db/versions` is a version and its statement.
const SCRIPT: &str = r#"
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin | tr ' ' :)
run() { psql --quiet --tuples-only --no-align --no-psqlrc --set ON_ERROR_STOP=1 --command "$1"; }
run 'set client_min_messages = warning; create table if not exists public.versions (version text)' || exit
while read -r version statement; do
    if [ -z "$(run "select version from public.versions where version = '$version'" </dev/null)" ]; then
        run "begin; $statement; insert into public.versions values ('$version'); commit" </dev/null || exit
    fi
    if [ "$version" = "$TENANTRY_TARGET" ]; then break; fi
done < db/versions
"#;

/// The same where Alembic's table is looked at.
const AS_ALEMBIC: &str = r"
run 'create table if not exists public.alembic_version (version_num text)
    ; delete from public.alembic_version
    ; insert into public.alembic_version select max(version) from public.versions'
";

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

fn as_alembic() -> TinyBlueprint {
    let blueprint = scripted();
    let script = SCRIPT.replace("$TENANTRY_TARGET", "$6");
    blueprint.write("blueprint.toml", ALEMBIC);
    blueprint.write("db/alembic.ini", "");
    blueprint.write("db/migrate.sh", &format!("{HISTORY}{script}{AS_ALEMBIC}"));
    blueprint
}

/// What comes after a version, by the order of the file: `--rev-range=<after>:<up to>`.
const HISTORY: &str = r#"
if [ "$5" = history ]; then
    range=${6#--rev-range=}
    cut -d' ' -f1 db/versions | sed -n "/^${range%:*}$/,/^${range#*:}$/p"
    exit
fi
"#;

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

/// A tenant that a run is about, alone.
async fn only(fleet: &Fleet, org: &str, new: NewRun) -> NewRun {
    let mut new = new;
    new.selection.tenants = vec![fleet.tenant(org).await.id];
    new
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_all_of_a_programs_blueprint_is_further_than_a_part_of_it() {
    let fleet = Fleet::made_from(scripted(), Deployment::new().await, 3).await;
    fleet.blueprint.write("db/versions", &versions(3));
    let [ahead, behind, late] = [0, 1, 2].map(|at| &*fleet.orgs[at]);
    for org in [ahead, late] {
        let run = fleet.migrate(&only(&fleet, org, all()).await).await;
        assert_eq!(run.state, RunState::Done, "{:?}", run.failure);
    }
    // as one that is made from all of the blueprint while the run goes on
    fleet.is_ready_once_the_run_goes_on(late).await;

    let dry = NewRun {
        is_dry: true,
        ..to("v2")
    };
    let run = fleet.migrate(&dry).await;
    let tried: Vec<&str> = run.rehearsals.iter().map(|of| &*of.from_version).collect();
    assert_eq!((run.state, tried), (RunState::Done, vec!["v1"]));

    let run = fleet.migrate(&to("v2")).await;
    let counts = (run.counts.done, run.counts.skipped, run.counts.total());
    assert_eq!((run.state, counts), (RunState::Done, (1, 1, 2)));
    let target = fleet.target(&run, ahead).await;
    assert_eq!(target.error_code.as_deref(), Some("ahead_of_version"));
    let mut found = Vec::new();
    for org in [ahead, behind, late] {
        found.push(fleet.tenant(org).await.alembic_version);
    }
    assert_eq!(found, ["v3", "v2", "v3"]);

    // who is at the version is not further than it
    let run = fleet.migrate(&to("v3")).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 3));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alembic_tells_who_is_between_the_version_and_the_head() {
    let fleet = Fleet::made_from(as_alembic(), Deployment::new().await, 2).await;
    fleet.blueprint.write("db/versions", &versions(4));
    let [between, behind] = [0, 1].map(|at| &*fleet.orgs[at]);
    let run = fleet.migrate(&only(&fleet, between, to("v3")).await).await;
    assert_eq!(run.state, RunState::Done, "{:?}", run.failure);

    let dry = NewRun {
        is_dry: true,
        ..to("v2")
    };
    let run = fleet.migrate(&dry).await;
    let tried: Vec<&str> = run.rehearsals.iter().map(|of| &*of.from_version).collect();
    assert_eq!((run.state, tried), (RunState::Done, vec!["v1"]));

    let run = fleet.migrate(&to("v2")).await;
    let counts = (run.counts.done, run.counts.skipped);
    assert_eq!((run.state, counts), (RunState::Done, (1, 1)));
    let target = fleet.target(&run, between).await;
    assert_eq!(target.error_code.as_deref(), Some("ahead_of_version"));
    assert_eq!(fleet.tenant(between).await.alembic_version, "v3");
    assert_eq!(fleet.tenant(behind).await.alembic_version, "v2");

    // to have done nothing is not to be further
    fleet.blueprint.write("db/versions", &versions(5));
    let lazy = "[ \"$TENANTRY_TENANT_ID\" ] && exit";
    let script = SCRIPT.replace("$TENANTRY_TARGET", "$6");
    let script = format!("{HISTORY}{lazy}\n{script}{AS_ALEMBIC}");
    fleet.blueprint.write("db/migrate.sh", &script);
    let new = only(&fleet, behind, to("v4")).await;
    let run = fleet.migrate(&new).await;
    let target = fleet.target(&run, behind).await;
    let code = target.error_code.as_deref();
    assert_eq!(code, Some("migrator_version_unreadable"));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_fails_on_its_way_says_how_far_it_came() {
    let fleet = Fleet::made_from(scripted(), Deployment::new().await, 1).await;
    // no transaction, and fails where there is a note
    let half =
        "v3 commit; create table half (id int); commit; select 1 / (1 - count(*)) from notes";
    let versions = format!("{}{half}\n", versions(2));
    fleet.blueprint.write("db/versions", &versions);
    let run = fleet.migrate(&all()).await;
    let target = fleet.target(&run, &fleet.orgs[0]).await;
    assert_eq!(target.error_code.as_deref(), Some("migrator_failed"));
    let (error, fix) = (target.error.unwrap(), target.fix.unwrap());
    assert!(error.contains("division by zero"), "{error}");
    assert!(error.contains("now at version \"v2\""), "{error}");
    assert!(error.contains("half applied"), "{error}");
    assert!(fix.contains("undo by hand"), "{fix}");

    // with nothing before it, it is known
    fleet.sql(&fleet.orgs[0], "drop table half").await;
    let run = fleet.retry(&run).await;
    let run = fleet.is_over(&run).await;
    let target = fleet.target(&run, &fleet.orgs[0]).await;
    assert_eq!(target.error_code.as_deref(), Some("migration_half_applied"));
    fleet.stop().await;
}

/// The next attempt changes nothing, and fails by what is there already.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_attempt_that_was_cut_off_left_is_told_from_a_failure_of_its_own() {
    let blueprint = scripted();
    let limited = format!("migrate_timeout_ms = 4000\n{COMMAND}");
    blueprint.write("blueprint.toml", &limited);
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__FLEET__MAX_ATTEMPTS", "1");
    let fleet = Fleet::made_from(blueprint, deployment, 1).await;
    let broken = &fleet.orgs[0];
    // no transaction, and takes for ever where there is a note
    let half = "v2 commit; create table public.half (id int); commit; select pg_sleep(60 * count(*)) from notes";
    let versions = format!("{}{half}\n", versions(1));
    fleet.blueprint.write("db/versions", &versions);
    let code = async |run, org: &str| fleet.target(run, org).await.error_code.unwrap();
    let run = fleet.migrate(&all()).await;
    assert_eq!(code(&run, broken).await, "migrator_timed_out");

    let run = fleet.retry(&run).await;
    let run = fleet.is_over(&run).await;
    assert_eq!(code(&run, broken).await, "migration_half_applied");
    let error = fleet.target(&run, broken).await.error.unwrap();
    assert!(error.contains("table half is there"), "{error}");
    assert!(error.contains("already exists"), "{error}");

    fleet.stop().await;
}
