//! Fleet runs: every tenant is migrated once, in waves, and each row says what became of it.

use tenantry::{
    fleet::{self, NewRun, Portion, Run, RunState, Target, TargetFilter, TargetState},
    jobs,
    page::Asked,
    tenants::{self, Selection, Tenant},
};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{new_org, operator, wait_for, wait_until},
    cluster::{ask, execute, hold},
    events,
};

const NEXT: &str = "migrations/0002_tags.sql";
const ADDITIVE: &str = "create table tags (id int)";

/// Some ready tenants whose blueprint has a migration that they have not.
pub struct Fleet {
    pub app: App,
    pub blueprint: TinyBlueprint,
    pub orgs: Vec<String>,
}

impl Fleet {
    async fn of(tenants: usize) -> Self {
        let mut deployment = Deployment::new().await;
        deployment.set("TENANTRY__FLEET__CONCURRENCY", "2");
        Self::on(deployment, tenants).await
    }

    async fn on(deployment: Deployment, tenants: usize) -> Self {
        let fleet = Self::made_from(TinyBlueprint::new(), deployment, tenants).await;
        fleet.blueprint.write(NEXT, ADDITIVE);
        fleet
    }

    pub async fn made_from(
        blueprint: TinyBlueprint,
        deployment: Deployment,
        tenants: usize,
    ) -> Self {
        let app = App::of(deployment, blueprint.source()).await;
        let mut orgs = Vec::new();
        for _ in 0..tenants {
            let org = new_org();
            app.accepts(&[&events::created(&org, "Acme")]).await;
            orgs.push(org);
        }
        for org in &orgs {
            app.tenant(org).is_ready().await;
        }
        app.is_idle().await;
        Self {
            app,
            blueprint,
            orgs,
        }
    }

    pub async fn begin(&self, new: &NewRun) -> Result<Run, fleet::Error> {
        let create = async |tx: &mut _| fleet::create(tx, new, &operator()).await;
        let run = self.app.replica.db.transaction(create).await;
        self.app.replica.waker.wake();
        run
    }

    /// Begins a run and waits until it is over.
    pub async fn migrate(&self, new: &NewRun) -> Run {
        let run = self.begin(new).await.unwrap();
        self.is_over(&run).await
    }

    pub async fn find(&self, run: &Run) -> Run {
        let find = async |connection: &mut _| fleet::find(connection, run.id).await;
        self.app.replica.db.run(find).await.unwrap().unwrap()
    }

    pub async fn is_over(&self, run: &Run) -> Run {
        wait_for("the run is over", async || {
            let run = self.find(run).await;
            (run.state.is_over() && run.counts.running == 0).then_some(run)
        })
        .await
    }

    async fn change(
        &self,
        change: impl AsyncFnOnce(&mut sqlx::PgConnection) -> Result<Run, fleet::Error>,
    ) -> Result<Run, fleet::Error> {
        let run = self.app.replica.db.transaction(change).await;
        self.app.replica.waker.wake();
        run
    }

    pub async fn retry(&self, run: &Run) -> Run {
        let retry = async |tx: &mut _| fleet::retry(tx, run.id, &operator()).await;
        self.change(retry).await.unwrap()
    }

    async fn resume(&self, run: &Run) -> Run {
        let resume = async |tx: &mut _| fleet::resume(tx, run.id, &operator()).await;
        self.change(resume).await.unwrap()
    }

    async fn targets(&self, run: &Run) -> Vec<Target> {
        let (filter, asked) = (TargetFilter::default(), Asked::first(1000));
        let list = async |connection: &mut _| {
            fleet::list_targets(connection, run.id, &filter, &asked).await
        };
        self.app.replica.db.run(list).await.unwrap().data
    }

    pub async fn target(&self, run: &Run, org: &str) -> Target {
        let tenant = self.tenant(org).await;
        let mut targets = self.targets(run).await.into_iter();
        targets.find(|target| target.tenant == tenant.id).unwrap()
    }

    pub async fn tenant(&self, org: &str) -> Tenant {
        self.app.tenant(org).find().await.unwrap()
    }

    /// The tenant is no target when a run begins, and is ready when its first result is recorded.
    pub async fn is_ready_once_the_run_goes_on(&self, org: &str) {
        let id = self.tenant(org).await.id;
        let sql = format!(
            "update tenants set state = 'suspended', initialize = false where id = '{id}';
             create function come() returns trigger language plpgsql as $$
             begin
                 update tenants set state = 'ready', initialize = true where id = '{id}' and not initialize;
                 return null;
             end $$;
             create trigger come after update on fleet_targets for each statement execute function come()"
        );
        execute(&self.app.deployment.control_url, &sql).await;
    }

    /// How often the tenant's database has this migration, as the database itself says.
    async fn applied(&self, org: &str) -> i64 {
        let tenant = self.tenant(org).await;
        let url = self.app.deployment.url(&tenant.database);
        ask(
            &url,
            &format!("select count(*) from tenantry.migrations where name = '{NEXT}'"),
        )
        .await
    }

    pub async fn sql(&self, org: &str, sql: &str) {
        let tenant = self.tenant(org).await;
        execute(&self.app.deployment.url(&tenant.database), sql).await;
    }

    /// The row and the database of every tenant agree.
    async fn every_row_is_true(&self) {
        for org in &self.orgs {
            let is_new = self.tenant(org).await.alembic_version == "0002_tags";
            assert_eq!(i64::from(is_new), self.applied(org).await, "{org}");
        }
    }

    pub async fn stop(self) {
        self.app.is_idle().await;
        self.app.stop().await;
    }
}

/// All tenants, in one wave, whatever fails.
pub fn all() -> NewRun {
    NewRun {
        blueprint_hash: None,
        wanted_version: None,
        selection: Selection::default(),
        waves: Vec::new(),
        concurrency: 4,
        max_failures: None,
        is_dry: false,
        clones: Vec::new(),
    }
}

fn waves(text: &str) -> Vec<Portion> {
    text.split(',').map(|part| part.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tenant_is_brought_to_the_new_version_and_its_row_says_so() {
    let fleet = Fleet::of(3).await;
    let suspended = fleet.tenant(&fleet.orgs[0]).await;
    let suspend = async |tx: &mut _| jobs::suspend_tenant(tx, &suspended, &operator()).await;
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
    let org = new_org();
    fleet.app.accepts(&[&events::created(&org, "New")]).await;
    let new = fleet.app.tenant(&org).is_ready().await;
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
    assert!(
        failure.fix.ends_with("; then: tenantry fleet resume"),
        "{failure:?}"
    );
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
    let mut ids = Vec::new();
    for org in &fleet.orgs {
        ids.push((fleet.tenant(org).await.id.0, org.clone()));
    }
    ids.sort();
    let canary = ids[0].1.clone();
    fleet
        .sql(&canary, "create table public.tags (by_hand int)")
        .await;

    let new = NewRun {
        waves: waves("1,50%"),
        ..all()
    };
    let run = fleet.migrate(&new).await;
    let code = run.failure.clone().unwrap().code;
    assert_eq!((run.state, &*code), (RunState::Failed, "fleet_wave_failed"));
    assert_eq!((run.counts.failed, run.counts.pending), (1, 3));
    let failed = fleet.target(&run, &canary).await;
    assert_eq!(failed.error_code.as_deref(), Some("migration_failed"));
    assert!(
        failed
            .fix
            .unwrap()
            .contains("tenantry fleet retry --failed")
    );
    fleet.every_row_is_true().await;
    assert_eq!(failed.state, TargetState::Failed);

    fleet.sql(&canary, "drop table public.tags").await;
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
    let fleet = Fleet::on(deployment.clone(), 2).await;
    let run = fleet.begin(&all()).await.unwrap();
    let faults = &fleet.app.replica.provisioner.faults;
    wait_until("it is about to begin", async || faults.was_hit(point)).await;
    let pause = async |tx: &mut _| fleet::pause(tx, run.id, &operator()).await;
    let run = fleet.change(pause).await.unwrap();
    assert_eq!(run.state, RunState::Paused);
    faults.release(point);
    fleet.app.is_idle().await;
    let run = fleet.find(&run).await;
    assert_eq!((run.state, run.counts.running), (RunState::Paused, 0));
    for org in &fleet.orgs {
        assert_eq!(fleet.applied(org).await, 0);
        assert_eq!(fleet.tenant(org).await.alembic_version, "0001_notes");
    }
    let other = fleet.begin(&all()).await.unwrap_err();
    assert_eq!(other.code(), "fleet_run_active");
    assert!(other.to_string().contains(&run.id.to_string()));

    fleet.resume(&run).await;
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 2));
    let actions: i64 = ask(
        &deployment.control_url,
        "select count(*) from audit_log where target_kind = 'fleet_run' and actor = 'ops'",
    )
    .await;
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
    let mut tenants = Vec::new();
    for org in &fleet.orgs {
        tenants.push(fleet.tenant(org).await);
    }
    tenants.sort_by_key(|tenant| tenant.id.0);
    let url = fleet.app.deployment.url(&tenants[0].database);
    let mut holder = hold(&url, "lock table notes in share mode").await;
    let one_by_one = NewRun {
        concurrency: 1,
        ..all()
    };
    let run = fleet.begin(&one_by_one).await.unwrap();
    let waits = "select exists (select from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock')";
    wait_until("the first one waits", async || ask(&url, waits).await).await;
    assert_eq!(fleet.find(&run).await.counts.running, 2);
    let pause = async |tx: &mut _| fleet::pause(tx, run.id, &operator()).await;
    fleet.change(pause).await.unwrap();
    holder.release().await;

    wait_until("nothing is under way", async || {
        fleet.find(&run).await.counts.running == 0
    })
    .await;
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
    let canary_fails = NewRun {
        waves: waves("1"),
        ..all()
    };
    for org in &fleet.orgs {
        fleet
            .sql(org, "create table public.tags (by_hand int)")
            .await;
    }
    let run = fleet.migrate(&canary_fails).await;
    let abort = async |tx: &mut _| fleet::abort(tx, run.id, &operator()).await;
    let run = fleet.change(abort).await.unwrap();
    assert_eq!(run.state, RunState::Aborted);
    assert_eq!((run.counts.failed, run.counts.skipped), (1, 2));
    let resume = async |tx: &mut _| fleet::resume(tx, run.id, &operator()).await;
    let refused = fleet.change(resume).await.unwrap_err();
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
async fn a_lock_that_is_not_had_is_tried_again_and_names_who_holds_it() {
    let fleet = Fleet::of(2).await;
    fleet
        .blueprint
        .write("blueprint.toml", "lock_timeout_ms = 200\n");
    fleet
        .blueprint
        .write(NEXT, "alter table notes add column tag text");
    let held = fleet.tenant(&fleet.orgs[0]).await;
    let url = fleet.app.deployment.url(&held.database);
    let mut holder = <sqlx::PgConnection as sqlx::Connection>::connect(&url)
        .await
        .unwrap();
    sqlx::raw_sql(
        "set application_name = 'a long report'; begin; lock table notes in access share mode",
    )
    .execute(&mut holder)
    .await
    .unwrap();
    let run = fleet.begin(&all()).await.unwrap();
    let blocked = wait_for("it met the lock", async || {
        let targets = fleet.targets(&run).await;
        let of = targets.into_iter().find(|target| target.tenant == held.id);
        of.filter(|target| target.error_code.is_some())
    })
    .await;
    assert_eq!(blocked.error_code.as_deref(), Some("lock_timeout"));
    assert_eq!(blocked.blocker.unwrap()["application"], "a long report");
    assert_eq!(blocked.state, TargetState::Pending);
    sqlx::raw_sql("rollback")
        .execute(&mut holder)
        .await
        .unwrap();
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 2));
    fleet.every_row_is_true().await;
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
async fn who_becomes_ready_with_the_old_version_meanwhile_is_migrated_as_well() {
    let fleet = Fleet::of(2).await;
    fleet.is_ready_once_the_run_goes_on(&fleet.orgs[0]).await;
    let run = fleet.migrate(&all()).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 2));
    fleet.every_row_is_true().await;
    fleet.stop().await;
}

/// A tenant whose making stands still at a point, where it has read the blueprint without the newest migration.
async fn half_made(point: &str) -> (Fleet, String) {
    let deployment = Deployment::new().await.with_fault(&format!("{point}=hold"));
    let fleet = Fleet::on(deployment, 0).await;
    fleet.blueprint.remove(NEXT);
    let org = new_org();
    fleet.app.accepts(&[&events::created(&org, "Acme")]).await;
    let faults = &fleet.app.replica.provisioner.faults;
    wait_until("it is being made", async || faults.was_hit(point)).await;
    fleet.blueprint.write(NEXT, ADDITIVE);
    (fleet, org)
}

/// The run has nothing else to do and does not end; once the making goes on the tenant is one of its targets.
async fn it_is_waited_for(mut fleet: Fleet, org: String, point: &str) {
    let run = fleet.begin(&all()).await.unwrap();
    let looked =
        "select exists (select from job_attempts where error_code = 'fleet_target_not_due')";
    wait_until("the run has nothing else to do", async || {
        fleet.app.ask::<bool>(looked).await || fleet.find(&run).await.state.is_over()
    })
    .await;
    assert_eq!(fleet.find(&run).await.state, RunState::Running);
    fleet.app.replica.provisioner.faults.release(point);

    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 1));
    assert_eq!(fleet.tenant(&org).await.alembic_version, "0002_tags");
    let template = format!(
        "select count(*) from templates where hash = '{}'",
        run.blueprint_hash.unwrap()
    );
    let templates = fleet.app.ask::<i64>(&template).await;
    assert_eq!(templates, 1, "what it was compared with");
    fleet.orgs.push(org);
    fleet.every_row_is_true().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_who_is_just_being_made_from_another_blueprint_however_long_that_takes() {
    let point = "create_database.recorded";
    let (fleet, org) = half_made(point).await;
    let aged = "update tenants set updated_at = now() - interval '1 hour'";
    execute(&fleet.app.deployment.control_url, aged).await;
    it_is_waited_for(fleet, org, point).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_who_has_read_another_blueprint_and_has_no_database_yet() {
    let point = "create_database.before";
    let (fleet, org) = half_made(point).await;
    it_is_waited_for(fleet, org, point).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_meant_is_not_waited_for() {
    let point = "create_database.recorded";
    let (fleet, org) = half_made(point).await;
    let mut of_plan = all();
    let label = ("plan".to_owned(), "gold".to_owned());
    of_plan.selection.labels.extend([label]);
    let run = fleet.begin(&of_plan).await.unwrap();
    assert_eq!(fleet.is_over(&run).await.state, RunState::Done);
    fleet.app.replica.provisioner.faults.release(point);
    fleet.app.tenant(&org).is_ready().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_next_attempt_is_waited_for() {
    let point = "activate.before";
    let (fleet, org) = half_made(point).await;
    // the database says that it may have been opened: the next attempt goes on with it
    let opened = "insert into tenantry.seeds (name) values ('opened')";
    fleet.sql(&org, opened).await;
    let lost = "update jobs
        set state = 'available', lease_expires_at = null, run_at = now() + interval '5 s'
        where kind = 'provision_tenant'";
    execute(&fleet.app.deployment.control_url, lost).await;
    it_is_waited_for(fleet, org, point).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_while_somebody_is_always_just_beginning() {
    let (taken, beginning) = ("fleet.taken", "create_database.before");
    let plan = format!("{taken}=hold; {beginning}=hold");
    let fleet = Fleet::on(Deployment::new().await.with_fault(&plan), 0).await;
    let faults = fleet.app.replica.provisioner.faults.clone();
    // in one place, so that nobody else ends it
    let new = NewRun {
        concurrency: 1,
        ..all()
    };
    let run = fleet.begin(&new).await.unwrap();
    wait_until("the run goes on", async || faults.was_hit(taken)).await;
    let org = new_org();
    fleet.app.accepts(&[&events::created(&org, "Acme")]).await;
    wait_until("it is being made", async || faults.was_hit(beginning)).await;
    assert_eq!(fleet.find(&run).await.state, RunState::Running);
    faults.release(taken);
    assert_eq!(fleet.is_over(&run).await.state, RunState::Done);
    faults.release(beginning);
    let tenant = fleet.app.tenant(&org).is_ready().await;
    assert_eq!(tenant.alembic_version, "0002_tags");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_drains_while_the_pool_is_filled_leaves_the_run_to_be_prepared() {
    let Fleet {
        app,
        blueprint,
        orgs,
    } = Fleet::of(1).await;
    blueprint.remove(NEXT);
    let mut deployment = app.deployment.clone();
    app.stop().await;
    deployment.set("TENANTRY__POOL__SIZE", "2");
    // somebody else is at the pool
    let lock = format!(
        "select pg_advisory_xact_lock(hashtextextended('{}pool', 0))",
        deployment.prefix
    );
    let mut other = hold(&deployment.control_url, &lock).await;
    let app = App::of(deployment.clone(), blueprint.source()).await;
    let fleet = Fleet {
        app,
        blueprint,
        orgs,
    };
    fleet.blueprint.write(NEXT, ADDITIVE);
    let run = fleet.begin(&all()).await.unwrap();
    let built = "select exists (select from templates where version = '0002_tags')";
    wait_until("the template is there", async || fleet.app.ask(built).await).await;
    fleet.app.stop().await;
    let state: String = ask(&deployment.control_url, "select state from fleet_runs").await;
    assert_eq!(state, "preparing");

    other.release().await;
    let app = App::of(deployment, fleet.blueprint.source()).await;
    let fleet = Fleet { app, ..fleet };
    assert_eq!(fleet.is_over(&run).await.state, RunState::Done);
    assert_eq!(fleet.app.deployment.pool_databases().await.len(), 2);
    fleet.stop().await;
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

/// Live jobs of runs, by their places.
async fn places(fleet: &Fleet) -> String {
    fleet
        .app
        .ask(
            "select coalesce(string_agg(payload ->> 'slot', ' ' order by payload ->> 'slot'), '')
             from jobs
             where kind = 'migrate_fleet'
               and state in ('available', 'running')",
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_called_where_nothing_can_be_taken_and_somebody_works() {
    let Fleet {
        app,
        blueprint,
        orgs,
    } = Fleet::of(2).await;
    let deployment = app.deployment.clone();
    app.stop().await;
    // replicas are away, and so is whoever looks for missing jobs
    let app = App::listening(deployment, blueprint.source()).await;
    let fleet = Fleet {
        app,
        blueprint,
        orgs,
    };
    let run = fleet.begin(&all()).await.unwrap();
    let [long, other] = [0, 1].map(|at| fleet.tenant(&fleet.orgs[at]));
    let (long, other) = (long.await, other.await);
    let control = &fleet.app.deployment.control_url;
    // place 3 works on a long migration, and place 0 has found nothing to do
    let begun = format!(
        "update jobs
         set payload = jsonb_set(payload, '{{slot}}', '3'), unique_key = 'fleet:{run}:003', state = 'running',
             attempt = 1, lease_expires_at = now() + interval '1 hour'
         where kind = 'migrate_fleet';
         update fleet_runs set state = 'running', prepared_at = now(), version = '0002_tags', blueprint_hash = 'it';
         insert into fleet_targets (run, tenant, wave, from_version, state, attempt, held_by, held_attempt, started_at)
         select '{run}', '{long}', 1, '0001_notes', 'running', 1, id, 1, now() from jobs where kind = 'migrate_fleet' and state = 'running'",
        run = run.id,
        long = long.id
    );
    execute(control, &begun).await;
    let looks = async || fleet::enqueue_missing(&fleet.app.replica.db).await.unwrap();
    assert_eq!((looks().await, &*places(&fleet).await), (false, "3"));

    let waits = format!(
        "insert into fleet_targets (run, tenant, wave, from_version, state, run_at)
         values ('{}', '{}', 1, '0001_notes', 'pending', now() + interval '1 hour')",
        run.id, other.id
    );
    execute(control, &waits).await;
    assert_eq!((looks().await, &*places(&fleet).await), (false, "3"));
    execute(control, "update fleet_targets set run_at = now()").await;
    assert_eq!((looks().await, &*places(&fleet).await), (true, "0 1 3"));
    assert!(!looks().await, "once");

    // what was begun by one that is lost is taken over, also when nothing else is left
    let lost = "update jobs set state = 'completed', finished_at = now() where kind = 'migrate_fleet' and state = 'available';
                update fleet_targets set state = 'done', finished_at = now() where state = 'pending';
                update jobs set attempt = 2 where kind = 'migrate_fleet' and state = 'running'";
    execute(control, lost).await;
    assert_eq!((looks().await, &*places(&fleet).await), (true, "0 3"));
    // and where nobody works somebody is called
    let nobody = "update jobs set state = 'completed', finished_at = now(), lease_expires_at = null where kind = 'migrate_fleet';
                  update fleet_targets set state = 'done', finished_at = now(), held_by = null, held_attempt = null";
    execute(control, nobody).await;
    assert_eq!((looks().await, &*places(&fleet).await), (true, "0"));
    fleet.app.stop().await;
}
