//! Fleet runs while replicas die or stand still: every tenant is migrated exactly once, and the rows are true.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tenantry::fleet::{self, NewRun, Run, RunState, TargetState};

use crate::support::{
    App, Fleet,
    app::{FENCED, metric, wait_for, wait_until},
    cluster::{ask, execute, hold},
    dice::{number, seed},
    fleet::{all, in_waves},
    process::Process,
};

/// What is done to a fleet whose replicas are processes.
impl Fleet {
    /// Everything that a run writes.
    async fn written(&self) -> String {
        let rows =
            "select md5((select string_agg(t::text, '' order by run, tenant) from fleet_targets t)
                             || (select string_agg(t::text, '' order by id) from tenants t)
                             || (select string_agg(r::text, '' order by id) from fleet_runs r))";
        self.app.ask(rows).await
    }

    /// Keeps a replica at work; kills it when the run has gone on with it, and starts another one. The last one,
    /// when enough were killed or the run is over.
    async fn kill(&self, run: &Run, (kills, enough): (&AtomicUsize, usize), pause: u64) -> Process {
        let mut rng = StdRng::seed_from_u64(seed());
        loop {
            let mut replica = Process::with_roles(&self.app.deployment, "worker").await;
            let begun = self.find(run).await.counts.settled();
            let now = wait_for("the run goes on", async || {
                let now = self.find(run).await;
                (now.state.is_over() || now.counts.settled() > begun).then_some(now)
            })
            .await;
            if now.state.is_over() || kills.load(Ordering::SeqCst) >= enough {
                return replica;
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..pause))).await;
            replica.kill();
            kills.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_every_tenant_is_migrated_exactly_once() {
    let (tenants, enough, pause) = match number("TENANTRY_TEST_FLEET", 0) {
        0 => (16, 4, 150),
        tenants => (usize::try_from(tenants).unwrap(), usize::MAX, 2000),
    };
    let fleet = Fleet::watched(tenants).await;
    fleet.grow("0002_tags");
    let (broken, locked, dropped) = (&fleet.orgs[0], &fleet.orgs[1], &fleet.orgs[tenants - 1]);
    let by_hand = "create table public.t0002_tags (by_hand int)";
    fleet.sql(broken, by_hand).await;
    let lock = "lock table notes in exclusive mode";
    let mut holder = hold(&fleet.url(locked).await, lock).await;

    let run = fleet.begin(&in_waves("3")).await;
    let kills = AtomicUsize::new(0);
    let meanwhile = async {
        wait_until("the lock is met", async || {
            let target = fleet.find_target(&run, locked).await;
            target.is_some_and(|target| target.error_code.as_deref() == Some("lock_timeout"))
        })
        .await;
        // it is in the second wave, which has not begun
        let database = fleet.tenant(dropped).await.database;
        let drop = format!("drop database {database} with (force)");
        execute(&fleet.app.deployment.control_url, &drop).await;
        holder.release().await;
    };
    let (one, other, ()) = tokio::join!(
        Box::pin(fleet.kill(&run, (&kills, enough), pause)),
        Box::pin(fleet.kill(&run, (&kills, enough), pause)),
        Box::pin(meanwhile),
    );
    let run = fleet.is_over(&run).await;
    let lost = "select count(*) from jobs join job_attempts on job_id = id where kind = 'migrate_fleet' and outcome = 'lost'";
    let lost: i64 = fleet.app.ask(lost).await;
    let kills = kills.into_inner();
    println!("{tenants} tenants, {kills} replicas killed, {lost} attempts lost");
    assert!(lost > 0, "nobody died in the middle of anything");

    assert_eq!(run.state, RunState::Failed, "{:?}", run.failure);
    let counts = run.counts;
    assert_eq!((counts.done as usize, counts.failed), (tenants - 2, 2));
    let target = fleet.target(&run, broken).await;
    let told = (target.state, target.error_code.as_deref());
    assert_eq!(told, (TargetState::Failed, Some("migration_failed")));
    assert_eq!(fleet.tenant(broken).await.alembic_version, "0001_notes");
    let target = fleet.target(&run, dropped).await;
    let told = (target.state, target.error_code.as_deref());
    assert_eq!(told, (TargetState::Failed, Some("database_gone")));
    for org in &fleet.orgs[1..tenants - 1] {
        fleet.is_migrated_once(&run, org).await;
    }

    Box::pin(what_failed_is_tried_again_and_nothing_else(&fleet, &run)).await;
    drop((one, other));
    fleet.end().await;
}

async fn what_failed_is_tried_again_and_nothing_else(fleet: &Fleet, run: &Run) {
    let done = format!(
        "select string_agg(tenant || ' ' || finished_at, ',' order by tenant)
         from fleet_targets where tenant <> '{}' and state = 'done'",
        fleet.tenant(&fleet.orgs[0]).await.id
    );
    let before: String = fleet.app.ask(&done).await;
    fleet
        .sql(&fleet.orgs[0], "drop table public.t0002_tags")
        .await;
    fleet.retry(run).await;
    let run = fleet.is_over(run).await;
    let counts = run.counts;
    assert_eq!((counts.total() - counts.done, counts.failed), (1, 1));
    for org in &fleet.orgs[..fleet.orgs.len() - 1] {
        fleet.is_migrated_once(&run, org).await;
    }
    assert_eq!(fleet.app.ask::<String>(&done).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_killed_at_any_point_of_a_run_leaves_targets_that_the_next_one_ends() {
    let fleet = Fleet::watched(3).await;
    for (at, point) in fleet::FAULT_POINTS.iter().enumerate() {
        fleet.grow(&format!("{:04}_killed", at + 2));
        let mut first = Process::start(&fleet.app.deployment, &format!("{point}=kill")).await;
        let run = fleet.begin(&all()).await;
        first.is_killed().await;
        let _second = Process::start(&fleet.app.deployment, "").await;
        let run = fleet.is_over(&run).await;
        let ended = (run.state, run.counts.done, run.counts.total());
        assert_eq!(ended, (RunState::Done, 3, 3), "killed at {point}");
        for org in &fleet.orgs {
            fleet.is_migrated_once(&run, org).await;
        }
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stood_still_writes_nothing_of_a_run_that_others_ended() {
    let fleet = Fleet::watched(3).await;
    for (at, point) in ["fleet.taken", "fleet.recording"].iter().enumerate() {
        fleet.grow(&format!("{:04}_stopped", at + 2));
        let zombie = Process::start(&fleet.app.deployment, &format!("{point}=stop")).await;
        let run = fleet.begin(&all()).await;
        zombie.is_stopped().await;
        let second = Process::start(&fleet.app.deployment, "").await;
        let run = fleet.is_over(&run).await;
        // nobody else writes from now on
        drop(second);
        let before = fleet.written().await;
        zombie.resume();
        let fenced = async || metric(zombie.address, FENCED).await >= Some(1);
        wait_until(&format!("who stopped at {point} notices"), fenced).await;
        assert_eq!(fleet.written().await, before, "stopped at {point}");
        for org in &fleet.orgs {
            fleet.is_migrated_once(&run, org).await;
        }
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_of_a_replica_that_stands_still_in_a_migration_is_ended() {
    let fleet = Fleet::watched(1).await;
    // longer than anybody waits here
    let patient =
        "lock_timeout_ms = 600000\nstatement_timeout_ms = 600000\nmigrate_timeout_ms = 600000\n";
    fleet.blueprint.write("blueprint.toml", patient);
    fleet.blueprint.write(
        "migrations/0002_slow.sql",
        "lock table notes; insert into notes (body) values ('0002_slow')",
    );
    let url = fleet.url(&fleet.orgs[0]).await;
    let mut holder = hold(&url, "lock table notes in share mode").await;
    let zombie = Process::with_roles(&fleet.app.deployment, "worker").await;
    let run = fleet.begin(&all()).await;
    let waits = "select coalesce(max(pid), 0) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    let session = wait_for("it waits for the lock", async || {
        Some(ask::<i32>(&url, waits).await).filter(|pid| *pid > 0)
    })
    .await;
    zombie.stop();
    zombie.is_stopped().await;

    let _second = Process::with_roles(&fleet.app.deployment, "worker").await;
    let left = format!("select exists (select from pg_stat_activity where pid = {session})");
    wait_until("its session is ended", async || {
        !ask::<bool>(&url, &left).await
    })
    .await;
    holder.release().await;

    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 1));
    fleet.is_migrated_once(&run, &fleet.orgs[0]).await;
    drop(zombie);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_its_job_without_noticing_records_nothing() {
    let fleet = Fleet::watched(3).await;
    fleet.grow("0002_tags");
    // nobody looks whether the lease is still there
    let mut held = fleet.app.deployment.with_fault("fleet.recording=hold");
    held.set("TENANTRY__QUEUE__LEASE_MS", "120000");
    let app = App::of(held, fleet.blueprint.source()).await;
    let faults = app.replica.provisioner.faults.clone();
    let run = fleet.begin(&all()).await;
    wait_until("one is held, the others are done", async || {
        faults.was_hit("fleet.recording") && fleet.find(&run).await.counts.done == 2
    })
    .await;
    // whoever looks leaves it to the one that has its job
    wait_until("the others have nothing to do", async || {
        fleet.open_jobs().await == 1
    })
    .await;
    assert_eq!(fleet.find(&run).await.counts.done, 2);
    let taken_back = "update jobs set state = 'available', lease_expires_at = null, run_at = now()
                      where id = (select held_by from fleet_targets where state = 'running')";
    execute(&fleet.app.deployment.control_url, taken_back).await;
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 3));
    let before = fleet.written().await;

    faults.release("fleet.recording");
    it_notices(&app).await;
    assert_eq!(fleet.written().await, before);
    for org in &fleet.orgs {
        fleet.is_migrated_once(&run, org).await;
    }
    app.stop().await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_its_target_without_noticing_records_nothing() {
    let fleet = Fleet::watched(1).await;
    fleet.grow("0002_tags");
    let mut held = fleet.app.deployment.with_fault("fleet.recording=hold");
    held.set("TENANTRY__QUEUE__LEASE_MS", "10000");
    let app = App::of(held, fleet.blueprint.source()).await;
    let faults = app.replica.provisioner.faults.clone();
    let run = fleet.begin(&all()).await;
    let is_held = async || faults.was_hit("fleet.recording");
    wait_until("it is held", is_held).await;
    // another job has it, while this one has its own job still
    let other = "with other as (
            insert into jobs (kind, payload, state, attempt, max_attempts, lease_expires_at)
            values ('migrate_fleet', '{}', 'running', 1, 1, now() + interval '1 hour')
            returning id
        )
        update fleet_targets set held_by = other.id, held_attempt = 1 from other";
    let control = &fleet.app.deployment.control_url;
    execute(control, other).await;
    let before = fleet.written().await;

    faults.release("fleet.recording");
    it_notices(&app).await;
    assert_eq!(fleet.written().await, before);

    let ends = "update jobs set state = 'completed', lease_expires_at = null where payload = '{}'";
    execute(control, ends).await;
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 1));
    fleet.is_migrated_once(&run, &fleet.orgs[0]).await;
    app.stop().await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_jobs_are_gone_gets_others() {
    let fleet = Fleet::watched(1).await;
    fleet.grow("0002_tags");
    let run = fleet.begin(&all()).await;
    let gone = "delete from jobs where kind = 'migrate_fleet'";
    execute(&fleet.app.deployment.control_url, gone).await;
    let replica = Process::with_roles(&fleet.app.deployment, "worker").await;
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 1));
    fleet.is_migrated_once(&run, &fleet.orgs[0]).await;
    drop(replica);
    fleet.end().await;
}

/// Waits until a write of a lost attempt was refused.
async fn it_notices(app: &App) {
    let fenced = async || metric(app.address, FENCED).await >= Some(1);
    wait_until("it notices", fenced).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_still_stops_the_run_when_whoever_recorded_it_has_died() {
    let fleet = Fleet::watched(3).await;
    fleet.grow("0002_more");
    fleet
        .sql(&fleet.orgs[0], "create table t0002_more (id int)")
        .await;
    let careful = NewRun {
        concurrency: 1,
        max_failures: Some("0".parse().unwrap()),
        ..all()
    };
    let run = fleet.begin(&careful).await;
    let mut dying = Process::start(&fleet.app.deployment, "fleet.recorded=kill").await;
    dying.is_killed().await;
    let _next = Process::with_roles(&fleet.app.deployment, "worker").await;
    let over = fleet.is_over(&run).await;
    let code = over.failure.map(|failure| failure.code);
    assert_eq!(code.as_deref(), Some("fleet_too_many_failed"));
    let counts = over.counts;
    assert_eq!((counts.failed, counts.done, counts.pending), (1, 0, 2));
    fleet.app.stop().await;
}
