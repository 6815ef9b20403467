//! A fleet: ready tenants of a small blueprint, and what an operator does to the runs that migrate them.

use sqlx::PgConnection;
use tenantry::{
    fleet::{self, NewRun, Run, Target, TargetFilter, TargetState},
    page::Asked,
    tenants::Tenant,
};

use super::{
    App, Deployment, TinyBlueprint,
    app::{new_org, operator, wait_for, wait_until},
    cluster::{ask, execute},
    events,
};

/// A migration that the tenants have not.
pub const NEXT: &str = "migrations/0002_tags.sql";
pub const ADDITIVE: &str = "create table tags (id int)";

/// All tenants, in one wave, whatever fails.
pub fn all() -> NewRun {
    NewRun {
        concurrency: 8,
        ..NewRun::default()
    }
}

/// All tenants, wave after wave: how far each one goes, as an operator types it.
pub fn in_waves(portions: &str) -> NewRun {
    let portions = portions.split(',').map(|portion| portion.parse().unwrap());
    NewRun {
        waves: portions.collect(),
        ..all()
    }
}

/// Ready tenants of a blueprint that may grow.
pub struct Fleet {
    pub app: App,
    pub blueprint: TinyBlueprint,
    /// In the order in which the tenants are migrated.
    pub orgs: Vec<String>,
}

/// What it is made of.
impl Fleet {
    /// Tenants whose blueprint has a migration that they have not.
    pub async fn of(tenants: usize) -> Self {
        let mut deployment = Deployment::new().await;
        deployment.set("TENANTRY__FLEET__CONCURRENCY", "2");
        Self::on(deployment, tenants).await
    }

    /// The same in this deployment.
    pub async fn on(deployment: Deployment, tenants: usize) -> Self {
        let fleet = Self::made_from(TinyBlueprint::new(), deployment, tenants).await;
        fleet.blueprint.write(NEXT, ADDITIVE);
        fleet
    }

    /// Tenants whose replicas are processes; the app in this one only looks.
    pub async fn watched(tenants: usize) -> Self {
        let blueprint = TinyBlueprint::new();
        blueprint.write("blueprint.toml", "lock_timeout_ms = 300\n");
        let mut deployment = Deployment::new().await;
        deployment.set("TENANTRY__FLEET__CONCURRENCY", "2");
        deployment.set("TENANTRY__FLEET__MAX_ATTEMPTS", "100");
        deployment.set("TENANTRY__QUEUE__LEASE_MS", "600");
        let fleet = Self::made_from(blueprint, deployment, tenants).await;
        fleet.without_workers().await
    }

    /// Tenants that have all of their blueprint.
    pub async fn made_from(
        blueprint: TinyBlueprint,
        mut deployment: Deployment,
        tenants: usize,
    ) -> Self {
        // commands, and replicas that are processes, read where it is
        deployment.set_blueprint(blueprint.path());
        let app = App::of(deployment, blueprint.source()).await;
        let asked: Vec<String> = (0..tenants).map(|_| new_org()).collect();
        for org in &asked {
            app.accepts(&[&events::created(org, "Acme")]).await;
        }
        let mut made = Vec::new();
        for org in asked {
            let tenant = app.tenant(&org).is_ready().await;
            made.push((tenant.id.0, org));
        }
        made.sort();
        app.is_idle().await;
        Self {
            app,
            blueprint,
            orgs: made.into_iter().map(|(_, org)| org).collect(),
        }
    }

    /// The same fleet with nobody working on its jobs.
    pub async fn without_workers(self) -> Self {
        let app = self.app.without_workers(self.blueprint.source()).await;
        Self { app, ..self }
    }

    /// The blueprint gets a migration. It takes a moment, so that a kill falls into it, and leaves a row each
    /// time that it is applied.
    pub fn grow(&self, version: &str) {
        let sql = format!(
            "create table t{version} (id int); select pg_sleep(0.05); insert into notes (body) values ('{version}')"
        );
        let file = format!("migrations/{version}.sql");
        self.blueprint.write(&file, &sql);
    }

    pub async fn stop(self) {
        self.app.is_idle().await;
        self.app.stop().await;
    }

    /// Whatever is left of it goes, open jobs as well.
    pub async fn end(self) {
        let deployment = self.app.deployment.clone();
        self.app.stop().await;
        deployment.discard().await;
    }
}

/// Its tenants.
impl Fleet {
    pub async fn tenant(&self, org: &str) -> Tenant {
        self.app.tenant(org).find().await.unwrap()
    }

    /// All of them, as many as they are, in the order in which they are migrated.
    pub async fn tenants<const COUNT: usize>(&self) -> [Tenant; COUNT] {
        let mut tenants = Vec::new();
        for org in &self.orgs {
            tenants.push(self.tenant(org).await);
        }
        tenants.try_into().unwrap()
    }

    /// The tenant's database, as superuser.
    pub async fn url(&self, org: &str) -> String {
        let tenant = self.tenant(org).await;
        self.app.deployment.url(&tenant.database)
    }

    /// Somebody is at the tenant's database by hand.
    pub async fn sql(&self, org: &str, sql: &str) {
        execute(&self.url(org).await, sql).await;
    }

    /// How often the tenant's database has the next migration, as the database itself says.
    pub async fn applied(&self, org: &str) -> i64 {
        let sql = format!("select count(*) from tenantry.migrations where name = '{NEXT}'");
        ask(&self.url(org).await, &sql).await
    }

    /// The row and the database of every tenant agree.
    pub async fn every_row_is_true(&self) {
        for org in &self.orgs {
            let is_new = self.tenant(org).await.alembic_version == "0002_tags";
            assert_eq!(i64::from(is_new), self.applied(org).await, "{org}");
        }
    }

    /// The target, the tenant's row, its database and the database's ledger say the same.
    pub async fn is_migrated_once(&self, run: &Run, org: &str) {
        let version = run.version.clone().unwrap();
        let target = self.target(run, org).await;
        assert_eq!(target.state, TargetState::Done, "{org}");
        let tenant = self.tenant(org).await;
        assert_eq!(tenant.alembic_version, version, "{org}");
        assert_eq!(tenant.blueprint_hash, run.blueprint_hash, "{org}");
        let url = self.app.deployment.url(&tenant.database);
        let rows = format!("select count(*) from notes where body = '{version}'");
        let lines = format!(
            "select count(*) from tenantry.migrations where name = 'migrations/{version}.sql'"
        );
        let applied: (i64, i64) = (ask(&url, &rows).await, ask(&url, &lines).await);
        assert_eq!(applied, (1, 1), "rows and lines of the ledger: {org}");
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
}

/// Its runs.
impl Fleet {
    pub async fn begin(&self, new: &NewRun) -> Run {
        self.try_begin(new).await.unwrap()
    }

    /// Begins a run that may be refused.
    pub async fn try_begin(&self, new: &NewRun) -> Result<Run, fleet::Error> {
        // as whoever begins one does, whose blueprint is the replicas'
        let known = || self.known_hash(new.wanted_version.as_deref());
        let new = NewRun {
            blueprint_hash: new.blueprint_hash.clone().or_else(known),
            ..new.clone()
        };
        self.change(async |tx| fleet::create(tx, &new, &operator()).await)
            .await
    }

    /// Begins a run and waits until it is over.
    pub async fn migrate(&self, new: &NewRun) -> Run {
        let run = self.begin(new).await;
        self.is_over(&run).await
    }

    pub async fn pause(&self, run: &Run) -> Run {
        self.change(async |tx| fleet::pause(tx, run.id, &operator()).await)
            .await
            .unwrap()
    }

    pub async fn resume(&self, run: &Run) -> Run {
        self.try_resume(run).await.unwrap()
    }

    /// Resumes a run of which that may be refused.
    pub async fn try_resume(&self, run: &Run) -> Result<Run, fleet::Error> {
        let hash = self.known_hash(run.wanted_version.as_deref());
        self.resume_knowing(run, hash.as_deref()).await
    }

    /// Resumes a run where the blueprint has this hash, or nobody can tell.
    pub async fn resume_knowing(&self, run: &Run, hash: Option<&str>) -> Result<Run, fleet::Error> {
        self.change(async |tx| fleet::resume(tx, run.id, hash, &operator()).await)
            .await
    }

    fn known_hash(&self, to: Option<&str>) -> Option<String> {
        fleet::known_hash(&self.blueprint.source(), to)
    }

    pub async fn retry(&self, run: &Run) -> Run {
        self.change(async |tx| fleet::retry(tx, run.id, &operator()).await)
            .await
            .unwrap()
    }

    pub async fn abort(&self, run: &Run) -> Run {
        self.change(async |tx| fleet::abort(tx, run.id, &operator()).await)
            .await
            .unwrap()
    }

    async fn change(
        &self,
        change: impl AsyncFnOnce(&mut PgConnection) -> Result<Run, fleet::Error>,
    ) -> Result<Run, fleet::Error> {
        let run = self.app.replica.db.transaction(change).await;
        self.app.replica.waker.wake();
        run
    }

    /// The run as it is now.
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

    pub async fn nothing_is_under_way(&self, run: &Run) {
        wait_until("nothing is under way", async || {
            self.find(run).await.counts.running == 0
        })
        .await;
    }

    pub async fn targets(&self, run: &Run) -> Vec<Target> {
        let (filter, asked) = (TargetFilter::default(), Asked::first(1000));
        let list = async |connection: &mut _| {
            fleet::list_targets(connection, run.id, &filter, &asked).await
        };
        self.app.replica.db.run(list).await.unwrap().data
    }

    pub async fn target(&self, run: &Run, org: &str) -> Target {
        self.find_target(run, org).await.unwrap()
    }

    /// What became of the tenant in the run; nothing before the targets are set.
    pub async fn find_target(&self, run: &Run, org: &str) -> Option<Target> {
        let tenant = self.tenant(org).await.id;
        let find = async |connection: &mut PgConnection| {
            sqlx::query_as("select * from fleet_targets where run = $1 and tenant = $2")
                .bind(run.id)
                .bind(tenant)
                .fetch_optional(connection)
                .await
        };
        self.app.replica.db.run(find).await.unwrap()
    }

    /// How many jobs of runs are not ended.
    pub async fn open_jobs(&self) -> i64 {
        let open = "select count(*) from jobs where kind = 'migrate_fleet' and state in ('available', 'running')";
        self.app.ask(open).await
    }
}
