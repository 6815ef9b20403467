//! `tenantry fleet plan|migrate|status|targets|runs|pause|resume|first|retry|abort`, as an operator types them.

use std::{process::Stdio, time::Duration};

use chrono::DateTime;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tenantry::fleet::{FAULT_POINTS, RunState};

use crate::{
    cli_operator::run,
    support::{
        Deployment, Fleet, TinyBlueprint,
        app::wait_until,
        cluster::{execute, hold},
        fleet::{ADDITIVE, NEXT, all},
        process::{Process, tenantry},
    },
};

impl Fleet {
    /// Runs `tenantry fleet …`: exit code, standard output, standard error.
    async fn cli(&self, arguments: &[&str]) -> (i32, String, String) {
        run(&self.app, &[&["fleet"], arguments].concat()).await
    }

    /// What it prints with `--json`, and its exit code.
    async fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let (code, stdout, stderr) = self.cli(&[arguments, &["--json"]].concat()).await;
        let printed = serde_json::from_str(&stdout);
        (
            code,
            printed.unwrap_or_else(|_| panic!("{stdout} {stderr}")),
        )
    }

    /// It is refused with this code.
    async fn is_refused(&self, arguments: &[&str], code: &str) {
        let (exit, _, stderr) = self.cli(arguments).await;
        assert_eq!(exit, 1, "{arguments:?}: {stderr}");
        assert!(
            stderr.contains(&format!("[{code}]")),
            "{arguments:?}: {stderr}"
        );
    }
}

async fn empty() -> Fleet {
    Fleet::made_from(TinyBlueprint::new(), Deployment::new().await, 0).await
}

/// Three tenants that are one migration behind; the first one cannot have it.
async fn three_behind() -> Fleet {
    let fleet = Fleet::on(Deployment::new().await, 3).await;
    fleet
        .sql(&fleet.orgs[0], "create table public.tags (by_hand int)")
        .await;
    fleet
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_without_tenants_is_migrated_at_once() {
    let fleet = empty().await;
    let (code, _, stderr) = fleet.cli(&["status"]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("there is no fleet run yet"), "{stderr}");
    let (code, plan) = fleet.json(&["plan"]).await;
    assert_eq!((code, &plan["starts"]), (0, &Value::Array(Vec::new())));
    let (code, stdout, stderr) = fleet.cli(&["migrate"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("0 done, 0 failed"), "{stdout}");
    fleet.app.stop().await;
}

/// A replica that looks by itself once an hour has to be called.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_calls_the_workers() {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__QUEUE__POLL_INTERVAL_MS", "3600000");
    let fleet = Fleet::made_from(TinyBlueprint::new(), deployment, 0).await;
    fleet.app.new_tenant("Acme").await;
    fleet.blueprint.write(NEXT, ADDITIVE);
    let (code, _, stderr) = Box::pin(fleet.cli(&["migrate", "--no-wait"])).await;
    assert_eq!(code, 0, "{stderr}");
    // the next poll is in an hour
    wait_until("somebody was called", async || {
        let done = "select count(*) from fleet_runs where state = 'done'";
        fleet.app.ask::<i64>(done).await == 1
    })
    .await;
    fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_planned_tried_begun_stopped_repaired_and_ended() {
    let fleet = three_behind().await;
    Box::pin(what_would_run_is_planned(&fleet)).await;
    let (code, tried) = fleet.json(&["migrate", "--dry-run"]).await;
    assert_eq!((code, &tried["rehearsals"][0]["applied"]), (0, &1.into()));
    let (_, stdout, stderr) = fleet.cli(&["plan"]).await;
    assert!(stdout.contains("0002_tags"), "{stdout}");
    assert!(
        stderr.contains("3 tenants to bring to 0002_tags; about"),
        "{stderr}"
    );

    let one_by_one = ["migrate", "--wave", "1", "--concurrency", "1"];
    let (code, stopped) = fleet.json(&one_by_one).await;
    assert_eq!((code, &stopped["state"]), (1, &"failed".into()));
    assert_eq!(stopped["failure"]["code"], "fleet_wave_failed");
    let (code, shown) = fleet.json(&["status"]).await;
    assert_eq!(
        (code, &shown["id"]),
        (0, &stopped["id"]),
        "to look is no failure"
    );
    let (_, stdout, _) = fleet.cli(&["status"]).await;
    assert!(stdout.contains("[fleet_wave_failed]"), "{stdout}");
    let (_, failed) = fleet.json(&["targets", "--state", "failed"]).await;
    assert_eq!(failed.as_array().unwrap().len(), 1);
    assert_eq!(failed[0]["error_code"], "migration_failed");
    let (_, stdout, _) = fleet.cli(&["targets"]).await;
    assert_eq!(stdout.lines().count(), 4, "a header and three: {stdout}");

    // replicas are away
    let fleet = fleet.without_workers().await;
    let last = &fleet.orgs[2];
    fleet.is_refused(&["pause"], "fleet_run_wrong_state").await;
    fleet
        .is_refused(&["first", last], "fleet_run_wrong_state")
        .await;
    assert_eq!(fleet.cli(&["resume"]).await.0, 0);
    fleet.is_refused(&["migrate"], "fleet_run_active").await;
    let (code, run) = fleet.json(&["first", last]).await;
    assert_eq!((code, &run["id"]), (0, &stopped["id"]));
    let (code, stdout, stderr) = fleet.cli(&["pause"]).await;
    assert_eq!(
        (code, stdout.as_str()),
        (0, stopped["id"].as_str().unwrap())
    );
    assert!(stderr.contains("is paused now"), "{stderr}");
    let (code, paused) = fleet.json(&["status", "--wait"]).await;
    assert_eq!((code, &paused["state"]), (1, &"paused".into()));
    fleet.sql(&fleet.orgs[0], "drop table public.tags").await;
    assert_eq!(fleet.cli(&["retry"]).await.0, 64, "what is not said");
    let (code, run) = fleet.json(&["retry", "--failed"]).await;
    assert_eq!((code, &run["counts"]["pending"]), (0, &3.into()));
    let (_, waiting) = fleet.json(&["targets", "--state", "pending"]).await;
    let first = waiting.as_array().unwrap().iter();
    let first = first
        .max_by_key(|target| target["priority"].as_i64())
        .unwrap();
    let put = fleet.tenant(last).await.id.to_string();
    assert_eq!(first["tenant"], put);
    assert_eq!(fleet.cli(&["resume"]).await.0, 0);

    let _replica = Process::with_roles(&fleet.app.deployment, "worker").await;
    let (code, done) = fleet.json(&["status", "--wait"]).await;
    assert_eq!((code, &done["counts"]["done"]), (0, &3.into()));
    assert_eq!(finished_first(&fleet).await, put);
    fleet.is_refused(&["resume"], "fleet_run_wrong_state").await;
    Box::pin(what_is_aborted_stays_so(&fleet)).await;
    fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_names_the_tenants_and_does_not_count_those_that_are_further() {
    let fleet = empty().await;
    let (_, behind) = fleet.app.new_tenant("Behind").await;
    fleet.blueprint.write(NEXT, ADDITIVE);
    let colours = "create table colours ()";
    fleet
        .blueprint
        .write("migrations/0003_colours.sql", colours);
    let (_, further) = fleet.app.new_tenant("Further").await;
    let (_, plan) = fleet.json(&["plan", "--to", "2"]).await;
    let start = |at: usize| {
        let start = &plan["starts"][at];
        let which = &start["which"][0];
        (
            start["version"].as_str().unwrap(),
            (&start["is_ahead"], &start["migrations"]),
            (&which["id"], &which["url"]),
        )
    };
    let what = (&Value::from(false), &serde_json::json!(["0002_tags"]));
    let who = (&behind.id.to_string().into(), &behind.url.clone().into());
    assert_eq!(start(0), ("0001_notes", what, who), "{plan}");
    let what = (&Value::from(true), &serde_json::json!([]));
    let who = (&further.id.to_string().into(), &further.url.clone().into());
    assert_eq!(start(1), ("0003_colours", what, who), "{plan}");
    let (_, stdout, stderr) = fleet.cli(&["plan", "--to", "2"]).await;
    let said = "1 tenant to bring to 0002_tags, 1 ahead and skipped; ";
    assert!(stderr.contains(said), "{stderr}");
    let line = |url: &str| stdout.lines().find(|line| line.ends_with(url)).unwrap();
    assert!(line(&behind.url).contains("0002_tags"), "{stdout}");
    assert!(
        line(&further.url).contains("nothing: ahead, skipped"),
        "{stdout}"
    );

    // who was left at the version by a failure is not there yet
    let left =
        "update tenants set blueprint_hash = 'of before' where alembic_version = '0003_colours'";
    execute(&fleet.app.deployment.control_url, left).await;
    let (_, stdout, stderr) = fleet.cli(&["plan"]).await;
    assert!(
        stderr.contains("2 tenants to bring to 0003_colours"),
        "{stderr}"
    );
    let line = stdout.lines().find(|line| line.ends_with(&further.url));
    assert!(line.unwrap().contains("then compared"), "{stdout}");
    fleet.app.stop().await;
}

/// Nobody is there who would do anything about the run.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_a_run_is_printed_and_where_it_stands_has_a_hint() {
    let fleet = empty().await.without_workers().await;
    let (code, id, stderr) = fleet.cli(&["migrate", "--no-wait"]).await;
    assert_eq!(code, 0, "{stderr}");
    let waits = ["status", &id, "--wait"];
    let (code, paused) = fleet.json(&["pause"]).await;
    assert_eq!((code, &paused["state"]), (0, &"paused".into()));
    assert_eq!(paused["id"], id.as_str());
    let (code, _, stderr) = fleet.cli(&waits).await;
    let hint = format!("hint: let it go on: tenantry fleet resume {id}");
    assert!(code == 1 && stderr.contains(&hint), "{stderr}");
    let (code, resumed) = fleet.json(&["resume"]).await;
    assert_eq!((code, &resumed["state"]), (0, &"preparing".into()));
    let (code, aborted) = fleet.json(&["abort"]).await;
    assert_eq!((code, &aborted["state"]), (0, &"aborted".into()));
    let (code, _, stderr) = fleet.cli(&waits).await;
    let hint = "hint: begin another: tenantry fleet migrate";
    assert!(code == 1 && stderr.contains(hint), "{stderr}");
    fleet.app.stop().await;
}

/// The only replica dies in the middle, and another one comes after whoever watches has heard of it.
#[tokio::test(flavor = "multi_thread")]
async fn who_watches_hears_that_nothing_changes_in_what_is_under_way() {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__QUEUE__LEASE_MS", "2000");
    let fleet = Fleet::made_from(TinyBlueprint::new(), deployment, 1).await;
    let fleet = fleet.without_workers().await;
    fleet
        .blueprint
        .write(NEXT, "alter table notes add tags text");
    let url = fleet.url(&fleet.orgs[0]).await;
    let mut holder = hold(&url, "lock table notes").await;
    let mut replica = Process::with_roles(&fleet.app.deployment, "worker").await;
    let (code, id, stderr) = fleet.cli(&["migrate", "--no-wait"]).await;
    assert_eq!(code, 0, "{stderr}");
    wait_until("it is under way", async || {
        let running = "select count(*) from fleet_targets where state = 'running'";
        fleet.app.ask::<i64>(running).await == 1
    })
    .await;
    replica.kill();
    let waits = ["status", &id, "--wait"];
    let another = async {
        // twice as long as nothing has to happen before it is said: the command starts first
        tokio::time::sleep(Duration::from_secs(10)).await;
        holder.release().await;
        Process::with_roles(&fleet.app.deployment, "worker").await
    };
    let ((code, _, stderr), _replica) = tokio::join!(fleet.cli(&waits), another);
    assert_eq!(code, 0, "{stderr}");
    let said = "1 database under way, and nothing has changed for ";
    assert!(stderr.contains(said), "{stderr}");
    fleet.app.stop().await;
}

async fn what_would_run_is_planned(fleet: &Fleet) {
    let (_, plan) = fleet.json(&["plan"]).await;
    assert_eq!(plan["version"], "0002_tags");
    let start = &plan["starts"][0];
    assert_eq!(start["version"], "0001_notes");
    assert_eq!(start["migrations"], serde_json::json!(["0002_tags"]));
    assert_eq!(
        (&start["tenants"], &start["is_ahead"]),
        (&3.into(), &false.into())
    );
    assert_eq!(plan["estimated_s"], Value::Null);
    Box::pin(how_long_it_takes_is_measured(fleet, start)).await;
}

async fn how_long_it_takes_is_measured(fleet: &Fleet, start: &Value) {
    let (_, _, stderr) = fleet.cli(&["plan"]).await;
    assert!(stderr.contains("is not known; measure it"), "{stderr}");
    let (code, measured) = fleet.json(&["plan", "--measure"]).await;
    assert_eq!((code, &measured["starts"][0]), (0, start));
    assert!(measured["estimated_s"].is_f64(), "{measured}");
    let (_, other) = fleet.json(&["plan", "--to", "1"]).await;
    assert_eq!(other["estimated_s"], Value::Null, "to another version");
}

/// The tenant of the newest run that was ended before all others.
async fn finished_first(fleet: &Fleet) -> String {
    let (_, targets) = fleet.json(&["targets"]).await;
    let finished_at = |target: &&Value| {
        let at = target["finished_at"].as_str().unwrap();
        DateTime::parse_from_rfc3339(at).unwrap()
    };
    let first = targets.as_array().unwrap().iter().min_by_key(finished_at);
    first.unwrap()["tenant"].as_str().unwrap().to_owned()
}

async fn what_is_aborted_stays_so(fleet: &Fleet) {
    fleet
        .blueprint
        .write("migrations/0003_slow.sql", "select pg_sleep(1)");
    let (code, id, stderr) = fleet.cli(&["migrate", "--no-wait"]).await;
    assert_eq!(code, 0, "{stderr}");
    let (code, stdout, stderr) = fleet.cli(&["abort"]).await;
    assert_eq!((code, &stdout), (0, &id), "{stderr}");
    let (code, ended) = fleet.json(&["status", &id, "--wait"]).await;
    assert_eq!((code, &ended["state"]), (1, &"aborted".into()));
    fleet.is_refused(&["abort"], "fleet_run_wrong_state").await;
    fleet
        .is_refused(&["retry", "--failed"], "fleet_run_wrong_state")
        .await;
    let (_, runs) = fleet.json(&["runs"]).await;
    let states = runs.as_array().unwrap().iter();
    let states: Vec<&Value> = states.map(|run| &run["state"]).collect();
    assert_eq!(states, ["aborted", "done", "done", "done"], "newest first");
    let never = "00000000-0000-0000-0000-000000000000";
    fleet
        .is_refused(&["status", never], "fleet_run_unknown")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_watching_is_told_that_the_run_goes_on_and_it_does() {
    let point = FAULT_POINTS[1];
    let deployment = Deployment::new().await.with_fault(&format!("{point}=hold"));
    let fleet = Fleet::on(deployment, 1).await;

    let watcher = tenantry()
        .args(["fleet", "migrate"])
        .envs(fleet.app.deployment.variables.iter().cloned())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let faults = &fleet.app.replica.provisioner.faults;
    wait_until("its tenant is taken", async || faults.was_hit(point)).await;
    kill_process(Pid::from_child(&watcher), Signal::INT).unwrap();
    let output = tokio::task::spawn_blocking(move || watcher.wait_with_output().unwrap());
    let output = output.await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("goes on without you"), "{said}");
    assert!(said.contains("tenantry fleet pause"), "{said}");

    faults.release(point);
    let (code, run) = fleet.json(&["status", "--wait"]).await;
    assert_eq!((code, &run["state"]), (0, &"done".into()), "{run}");
    let tenant = fleet.app.tenant(&fleet.orgs[0]).is_ready().await;
    assert_eq!(tenant.alembic_version, "0002_tags");
    fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_id_it_is_the_run_that_goes_on_and_not_a_newer_one_that_was_only_tried() {
    let fleet = three_behind().await;
    let slow = format!("{ADDITIVE}; alter table notes add column more int");
    fleet.blueprint.write(NEXT, &slow);
    let (code, failed) = fleet.json(&["migrate", "--wave", "1,100%"]).await;
    assert_eq!((code, &failed["state"]), (1, &"failed".into()), "{failed}");
    let (code, _, stderr) = fleet.cli(&["migrate", "--dry-run"]).await;
    assert_eq!(code, 0, "{stderr}");
    let (_, tried) = fleet.json(&["status"]).await;
    assert_ne!(tried["id"], failed["id"], "none goes on: the newest");

    let mut holder = hold(&fleet.url(&fleet.orgs[1]).await, "lock table notes").await;
    let id = failed["id"].as_str().unwrap();
    let (code, _, stderr) = fleet.cli(&["resume", id]).await;
    assert_eq!(code, 0, "{stderr}");
    let (_, paused) = fleet.json(&["pause"]).await;
    assert_eq!(
        (&paused["id"], &paused["state"]),
        (&failed["id"], &"paused".into())
    );
    holder.release().await;
    fleet.app.is_idle().await;
    fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_tries_the_failed_ones_again_means_the_run_that_failed_and_not_one_that_was_only_tried()
{
    let fleet = Fleet::of(1).await;
    fleet.sql(&fleet.orgs[0], ADDITIVE).await;
    let failed = fleet.migrate(&all()).await;
    assert_eq!(failed.state, RunState::Failed);
    let (code, dry, _) = fleet.cli(&["migrate", "--dry-run"]).await;
    assert_eq!(code, 0, "{dry}");
    let (_, runs, _) = fleet.cli(&["runs"]).await;
    assert!(runs.contains("done (dry run)"), "{runs}");

    fleet.sql(&fleet.orgs[0], "drop table tags").await;
    let (code, _, stderr) = fleet.cli(&["retry", "--failed"]).await;
    assert_eq!(code, 0, "{stderr}");
    let retried = fleet.is_over(&failed).await;
    assert_eq!((retried.state, retried.counts.done), (RunState::Done, 1));
    fleet.stop().await;
}
