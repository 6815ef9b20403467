//! Fleet runs: every tenant is migrated once, in waves, and each row says what became of it.

use tenantry::{
    actions,
    fleet::{self, NewRun, Portion, RunState, TargetState},
    tenants,
};

use crate::support::{
    Deployment, Fleet,
    app::{operator, wait_until},
    cluster::{ask, execute, hold},
    fleet::{ADDITIVE, NEXT, all, in_waves},
};

#[tokio::test(flavor = "multi_thread")]
async fn every_tenant_is_brought_to_the_new_version_and_its_row_says_so() {
    let fleet = Fleet::of(3).await;
    let suspended = fleet.tenant(&fleet.orgs[0]).await;
    let suspend = async |tx: &mut _| actions::suspend_tenant(tx, &suspended, &operator()).await;
    fleet.app.replica.db.transaction(suspend).await.unwrap();

    let run = fleet.migrate(&all()).await;
    assert_eq!((run.state, &run.failure), (RunState::Done, &None));
    assert_eq!((run.counts.done, run.counts.total()), (3, 3));
    for org in &fleet.orgs {
        let (tenant, target) = (fleet.tenant(org).await, fleet.target(&run, org).await);
        assert_eq!(tenant.alembic_version, "0002_tags");
        assert_eq!(tenant.blueprint_hash, run.blueprint_hash);
        assert_eq!(target.from_version, "0001_notes");
        assert_eq!(target.to_version.as_deref(), Some("0002_tags"));
        assert_eq!((target.applied, target.attempt), (Some(1), 1));
    }
    fleet.every_row_is_true().await;

    // nothing is left to do, and nothing is done
    let again = fleet.migrate(&all()).await;
    assert_eq!((again.state, again.counts.done), (RunState::Done, 3));
    let applied = fleet
        .targets(&again)
        .await
        .into_iter()
        .map(|target| target.applied);
    assert!(applied.into_iter().all(|applied| applied == Some(0)));
    // who comes now comes with the new version
    let (_, new) = fleet.app.new_tenant("New").await;
    assert_eq!(new.alembic_version, "0002_tags");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tenants_is_success() {
    let fleet = Fleet::of(0).await;
    let run = fleet.migrate(&all()).await;
    assert_eq!((run.state, run.counts.total()), (RunState::Done, 0));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blueprint_that_does_not_build_touches_no_tenant() {
    let fleet = Fleet::of(2).await;
    fleet
        .blueprint
        .write(NEXT, "create table tags (id int); select 1 / 0");
    let run = fleet.migrate(&all()).await;
    let failure = run.failure.clone().unwrap();
    assert_eq!(
        (run.state, run.counts.total(), &*failure.code),
        (RunState::Failed, 0, "migration_failed")
    );
    assert!(failure.cause.contains("division by zero"), "{failure:?}");
    // no tenant is what is to be tried again
    let resume = format!("; then: tenantry fleet resume {}", run.id);
    assert!(failure.fix.ends_with(&resume), "{failure:?}");
    assert!(!failure.fix.contains("<tenant>"), "{failure:?}");
    fleet.every_row_is_true().await;

    fleet.blueprint.write(NEXT, ADDITIVE);
    fleet.resume(&run).await;
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 2));
    fleet.every_row_is_true().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_stops_the_run_and_a_retry_goes_on() {
    let fleet = Fleet::of(4).await;
    let canary = &fleet.orgs[0];
    fleet
        .sql(canary, "create table public.tags (by_hand int)")
        .await;

    let run = fleet.migrate(&in_waves("1,50%")).await;
    let code = run.failure.clone().unwrap().code;
    assert_eq!((run.state, &*code), (RunState::Failed, "fleet_wave_failed"));
    assert_eq!((run.counts.failed, run.counts.pending), (1, 3));
    let failed = fleet.target(&run, canary).await;
    assert_eq!(failed.error_code.as_deref(), Some("migration_failed"));
    assert!(
        failed
            .fix
            .unwrap()
            .contains("tenantry fleet retry --failed")
    );
    fleet.every_row_is_true().await;
    assert_eq!(failed.state, TargetState::Failed);

    fleet.sql(canary, "drop table public.tags").await;
    fleet.retry(&run).await;
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 4));
    let in_waves = fleet.targets(&run).await;
    let in_waves: Vec<i32> = in_waves.iter().map(|target| target.wave).collect();
    assert_eq!(in_waves, [1, 2, 3, 3]);
    fleet.every_row_is_true().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_holds_up_no_other_and_only_it_is_retried() {
    let fleet = Fleet::of(3).await;
    let broken = &fleet.orgs[1];
    fleet
        .sql(broken, "create table public.tags (by_hand int)")
        .await;
    let run = fleet.migrate(&all()).await;
    let code = run.failure.clone().unwrap().code;
    assert_eq!(
        (run.state, &*code),
        (RunState::Failed, "fleet_targets_failed")
    );
    assert_eq!((run.counts.done, run.counts.failed), (2, 1));
    fleet.every_row_is_true().await;

    fleet.sql(broken, "drop table public.tags").await;
    let before = fleet.target(&run, &fleet.orgs[0]).await;
    fleet.retry(&run).await;
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 3));
    let after = fleet.target(&run, &fleet.orgs[0]).await;
    assert_eq!(before.finished_at, after.finished_at, "it was done already");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_on_the_way_is_on_record_where_it_stands() {
    let fleet = Fleet::of(2).await;
    let third = "create table public.labels (name text primary key);";
    fleet.blueprint.write("migrations/0003_labels.sql", third);
    let broken = &fleet.orgs[1];
    fleet
        .sql(broken, "create table public.labels (by_hand int)")
        .await;
    let run = fleet.migrate(&all()).await;
    assert_eq!((run.counts.done, run.counts.failed), (1, 1));
    let target = fleet.target(&run, broken).await;
    assert_eq!(target.to_version.as_deref(), Some("0002_tags"));
    let tenant = fleet.tenant(broken).await;
    assert_eq!(tenant.alembic_version, "0002_tags");
    assert_ne!(
        tenant.blueprint_hash,
        fleet.tenant(&fleet.orgs[0]).await.blueprint_hash,
        "it is not what the blueprint makes"
    );

    fleet.sql(broken, "drop table public.labels").await;
    fleet.retry(&run).await;
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 2));
    assert_eq!(fleet.tenant(broken).await.alembic_version, "0003_labels");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_failures_stop_the_run() {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__FLEET__CONCURRENCY", "1");
    let fleet = Fleet::on(deployment, 4).await;
    for org in &fleet.orgs {
        fleet
            .sql(org, "create table public.tags (by_hand int)")
            .await;
    }
    let new = NewRun {
        max_failures: Some(Portion::Count(1)),
        concurrency: 1,
        ..all()
    };
    let run = fleet.migrate(&new).await;
    let code = run.failure.clone().unwrap().code;
    assert_eq!(
        (run.state, &*code),
        (RunState::Failed, "fleet_too_many_failed")
    );
    assert_eq!((run.counts.failed, run.counts.pending), (2, 2));
    // what was known when it was resumed stops it no more: as many may fail once more
    fleet.resume(&run).await;
    let run = fleet.is_over(&run).await;
    assert_eq!((run.counts.failed, run.counts.pending), (4, 0));
    for org in &fleet.orgs {
        fleet.sql(org, "drop table public.tags").await;
    }
    fleet.retry(&run).await;
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 4));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_begins_nothing_until_it_is_resumed() {
    let point = fleet::FAULT_POINTS[0];
    let deployment = Deployment::new().await.with_fault(&format!("{point}=hold"));
    let fleet = Fleet::on(deployment, 2).await;
    let run = fleet.begin(&all()).await;
    let faults = &fleet.app.replica.provisioner.faults;
    wait_until("it is about to begin", async || faults.was_hit(point)).await;
    let run = fleet.pause(&run).await;
    assert_eq!(run.state, RunState::Paused);
    faults.release(point);
    fleet.app.is_idle().await;
    let run = fleet.find(&run).await;
    assert_eq!((run.state, run.counts.running), (RunState::Paused, 0));
    for org in &fleet.orgs {
        assert_eq!(fleet.applied(org).await, 0);
        assert_eq!(fleet.tenant(org).await.alembic_version, "0001_notes");
    }
    let other = fleet.try_begin(&all()).await.unwrap_err();
    assert_eq!(other.code(), "fleet_run_active");
    assert!(other.to_string().contains(&run.id.to_string()));

    fleet.resume(&run).await;
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 2));
    let actions =
        "select count(*) from audit_log where target_kind = 'fleet_run' and actor = 'ops'";
    let actions: i64 = fleet.app.ask(actions).await;
    assert_eq!(actions, 3, "begun, paused, resumed");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_noticed_between_two_targets_that_were_taken_together() {
    let fleet = Fleet::of(4).await;
    // longer than anybody waits here
    let patient =
        "lock_timeout_ms = 600000\nstatement_timeout_ms = 600000\nmigrate_timeout_ms = 600000\n";
    fleet.blueprint.write("blueprint.toml", patient);
    // what was recorded a moment ago is not recorded at once
    let slow = format!("lock table notes; {ADDITIVE}; select pg_sleep(0.3)");
    fleet.blueprint.write(NEXT, &slow);
    let url = fleet.url(&fleet.orgs[0]).await;
    let mut holder = hold(&url, "lock table notes in share mode").await;
    let one_by_one = NewRun {
        concurrency: 1,
        ..all()
    };
    let run = fleet.begin(&one_by_one).await;
    let waits = "select exists (select from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock')";
    wait_until("the first one waits", async || ask(&url, waits).await).await;
    assert_eq!(fleet.find(&run).await.counts.running, 2);
    fleet.pause(&run).await;
    holder.release().await;

    fleet.nothing_is_under_way(&run).await;
    let targets = fleet.targets(&run).await;
    let ended = targets.iter().map(|target| (target.state, target.attempt));
    let waits = (TargetState::Pending, 0);
    assert_eq!(
        ended.collect::<Vec<_>>(),
        [(TargetState::Done, 1), waits, waits, waits]
    );
    fleet.resume(&run).await;
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 4));
    fleet.every_row_is_true().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_run_skips_what_waits() {
    let fleet = Fleet::of(3).await;
    for org in &fleet.orgs {
        fleet
            .sql(org, "create table public.tags (by_hand int)")
            .await;
    }
    let run = fleet.migrate(&in_waves("1")).await;
    let run = fleet.abort(&run).await;
    assert_eq!(run.state, RunState::Aborted);
    assert_eq!((run.counts.failed, run.counts.skipped), (1, 2));
    let refused = fleet.try_resume(&run).await.unwrap_err();
    assert_eq!(refused.code(), "fleet_run_wrong_state");
    for org in &fleet.orgs {
        fleet.sql(org, "drop table public.tags").await;
    }
    // another run may begin
    let run = fleet.migrate(&all()).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 3));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_fails_and_that_of_an_archived_tenant_is_skipped() {
    let fleet = Fleet::of(3).await;
    let control = &fleet.app.deployment.control_url;
    for (org, state) in [(&fleet.orgs[0], "ready"), (&fleet.orgs[1], "archived")] {
        let tenant = fleet.tenant(org).await;
        execute(
            control,
            &format!("drop database {} with (force)", tenant.database),
        )
        .await;
        // archived after the targets were set
        let sql = format!(
            "create function archive_{state}() returns trigger language plpgsql as $$
             begin
                 update tenants set state = '{state}' where id = '{}';
                 return null;
             end $$;
             create trigger archive_{state} after insert on fleet_targets
             for each statement execute function archive_{state}()",
            tenant.id
        );
        execute(control, &sql).await;
    }
    let run = fleet.migrate(&all()).await;
    let gone = fleet.target(&run, &fleet.orgs[0]).await;
    assert_eq!(
        (gone.state, gone.error_code.as_deref()),
        (TargetState::Failed, Some("database_gone"))
    );
    let archived = fleet.target(&run, &fleet.orgs[1]).await;
    assert_eq!(
        (archived.state, archived.error_code.as_deref()),
        (TargetState::Skipped, Some("not_kept_up"))
    );
    assert_eq!(run.counts.done, 1);
    fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_tenant_is_no_target() {
    let fleet = Fleet::of(2).await;
    let archived = fleet.tenant(&fleet.orgs[0]).await.id;
    let archive = format!("update tenants set state = 'archived' where id = '{archived}'");
    execute(&fleet.app.deployment.control_url, &archive).await;
    let run = fleet.migrate(&all()).await;
    let ended = (run.state, run.counts.done, run.counts.total());
    assert_eq!(ended, (RunState::Done, 1, 1));
    assert_eq!(fleet.applied(&fleet.orgs[0]).await, 0);
    fleet.every_row_is_true().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_selected_tenants_are_migrated() {
    let fleet = Fleet::of(3).await;
    let control = &fleet.app.deployment.control_url;
    let free = fleet.tenant(&fleet.orgs[0]).await;
    let label = format!(
        "update tenants set labels = '{{\"tier\": \"free\", \"at\": \"eu\"}}' where id = '{}'",
        free.id
    );
    execute(control, &label).await;
    let mut new = all();
    new.selection
        .labels
        .insert("tier".to_owned(), "free".to_owned());
    let run = fleet.migrate(&new).await;
    assert_eq!((run.counts.done, run.counts.total()), (1, 1));
    assert_eq!(fleet.applied(&fleet.orgs[0]).await, 1);
    let mut new = all();
    new.selection.tenants = vec![fleet.tenant(&fleet.orgs[1]).await.id];
    let run = fleet.migrate(&new).await;
    assert_eq!((run.counts.done, run.counts.total()), (1, 1));
    fleet.every_row_is_true().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_may_stop_at_an_older_version_and_leaves_who_is_further() {
    let fleet = Fleet::of(2).await;
    let mut first = all();
    first.selection.tenants = vec![fleet.tenant(&fleet.orgs[0]).await.id];
    fleet
        .blueprint
        .write("migrations/0003_more.sql", "create table more (id int)");
    fleet.migrate(&first).await;
    assert_eq!(
        fleet.tenant(&fleet.orgs[0]).await.alembic_version,
        "0003_more"
    );
    let new = NewRun {
        wanted_version: Some("0002_tags".to_owned()),
        ..all()
    };
    let dry = NewRun {
        is_dry: true,
        ..new.clone()
    };
    let run = fleet.migrate(&dry).await;
    assert_eq!((run.state, run.rehearsals.len()), (RunState::Done, 1));
    // nor is the database of one that was chosen copied
    let chosen = NewRun {
        clones: first.selection.tenants.clone(),
        ..dry
    };
    let run = fleet.migrate(&chosen).await;
    assert_eq!(run.failure.unwrap().code, "ahead_of_version");
    let run = fleet.migrate(&new).await;
    assert_eq!(
        (run.state, run.version.as_deref()),
        (RunState::Done, Some("0002_tags")),
        "{:?}",
        run.failure
    );
    assert_eq!((run.counts.done, run.counts.skipped), (1, 1));
    assert_eq!(
        fleet.tenant(&fleet.orgs[1]).await.alembic_version,
        "0002_tags"
    );
    let new = NewRun {
        wanted_version: Some("0009_never".to_owned()),
        ..all()
    };
    let run = fleet.migrate(&new).await;
    assert_eq!(run.failure.unwrap().code, "blueprint_version_unknown");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_touches_throw_away_clones_only() {
    let fleet = Fleet::of(2).await;
    let dry = NewRun {
        is_dry: true,
        ..all()
    };
    let run = fleet.migrate(&dry).await;
    assert_eq!((run.state, run.counts.total()), (RunState::Done, 0));
    let rehearsal = &run.rehearsals[0];
    assert_eq!(
        (
            &*rehearsal.from_version,
            rehearsal.tenants,
            rehearsal.applied
        ),
        ("0001_notes", 2, 1)
    );
    for org in &fleet.orgs {
        assert_eq!(fleet.applied(org).await, 0);
    }
    fleet.every_row_is_true().await;
    assert_eq!(
        fleet.app.deployment.tenant_databases().await,
        2,
        "the clone is gone"
    );
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_somebody_else_is_not_touched() {
    let fleet = Fleet::of(1).await;
    let tenant = fleet.tenant(&fleet.orgs[0]).await;
    let foreign = format!(
        "comment on database {} is 'somebody else''s'",
        tenant.database
    );
    execute(&fleet.app.deployment.control_url, &foreign).await;
    let run = fleet.migrate(&all()).await;
    let target = fleet.target(&run, &fleet.orgs[0]).await;
    assert_eq!(
        (target.state, target.error_code.as_deref()),
        (TargetState::Failed, Some("foreign_database"))
    );
    assert_eq!(fleet.applied(&fleet.orgs[0]).await, 0);
    let find = async |connection: &mut _| tenants::find(connection, tenant.id).await;
    let tenant = fleet.app.replica.db.run(find).await.unwrap().unwrap();
    assert_eq!(tenant.alembic_version, "0001_notes");
    wait_until("the run is over", async || {
        fleet.find(&run).await.state.is_over()
    })
    .await;
    fleet.app.stop().await;
}
