//! Two clusters: each has its share of the tenants, a template and a pool of its own, and what one that is away
//! costs is its own tenants'.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tenantry::{
    fleet::{self, RunState, TargetState},
    private_postgres::PrivatePostgres,
    tenants::Tenant,
};

use crate::{
    cli_operator::run as command,
    support::{
        Deployment, Fleet, TinyBlueprint,
        app::{new_org, wait_until},
        cluster::{self, ask, execute, shared},
        events,
        fleet::{ADDITIVE, NEXT, all},
    },
};

/// A fleet whose tenants live on `east`, the control database's server, and on `west`, one that may go away.
struct TwoClusters {
    fleet: Fleet,
    west: PrivatePostgres,
    _directory: tempfile::TempDir,
}

impl TwoClusters {
    /// So many tenants, a half of them on each.
    async fn of(tenants: usize, settings: &[(&str, &str)]) -> Self {
        let west = PrivatePostgres::start(&cluster::settings(), |_| {})
            .await
            .unwrap();
        let mut deployment = Deployment::new().await;
        for (name, value) in settings {
            deployment.set(name, value);
        }
        let directory = tempfile::tempdir().unwrap();
        let clusters = [
            ("east", shared().url("postgres")),
            ("west", west.url("postgres")),
        ];
        deployment.live_on(directory.path(), &clusters).await;
        let fleet = Fleet::made_from(TinyBlueprint::new(), deployment, tenants).await;
        Self {
            fleet,
            west,
            _directory: directory,
        }
    }

    fn url(&self, cluster: &str, database: &str) -> String {
        match cluster {
            "east" => shared().url(database),
            "west" => self.west.url(database),
            other => panic!("there is no cluster {other}"),
        }
    }

    fn url_of(&self, tenant: &Tenant) -> String {
        self.url(tenant.cluster.as_deref().unwrap(), &tenant.database)
    }

    /// The organizations whose tenants are there.
    async fn orgs_on(&self, cluster: &str) -> Vec<String> {
        let mut there = Vec::new();
        for org in &self.fleet.orgs {
            if self.fleet.tenant(org).await.cluster.as_deref() == Some(cluster) {
                there.push(org.clone());
            }
        }
        there
    }

    async fn has_tags(&self, org: &str) -> bool {
        let tenant = self.fleet.tenant(org).await;
        let sql = "select to_regclass('public.tags') is not null";
        ask(&self.url_of(&tenant), sql).await
    }

    async fn count_databases(&self, cluster: &str, beginning: &str) -> i64 {
        let sql = format!(
            "select count(*) from pg_database where starts_with(datname, '{}{beginning}')",
            self.fleet.app.deployment.prefix
        );
        ask(&self.url(cluster, "postgres"), &sql).await
    }

    async fn stop(self) {
        self.fleet.app.stop().await;
        self.west.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cluster_has_its_share_of_the_tenants_a_template_and_a_pool() {
    let two = TwoClusters::of(4, &[("TENANTRY__POOL__SIZE", "1")]).await;
    let fleet = &two.fleet;
    for cluster in ["east", "west"] {
        assert_eq!(two.orgs_on(cluster).await.len(), 2, "{cluster}");
        assert_eq!(two.count_databases(cluster, "template_").await, 1);
        wait_until("its pool is full", async || {
            two.count_databases(cluster, "pool_").await == 1
        })
        .await;
    }

    fleet.blueprint.write(NEXT, ADDITIVE);
    let run = fleet.migrate(&all()).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 4));
    for org in &fleet.orgs {
        assert!(two.has_tags(org).await);
    }
    // who comes now has the new version from the pool of their cluster, and no cluster is fuller than the other one
    let later: Vec<String> = (0..2).map(|_| new_org()).collect();
    for org in &later {
        fleet.app.accepts(&[&events::created(org, "Late")]).await;
    }
    let mut clusters = Vec::new();
    for org in &later {
        let tenant = fleet.app.tenant(org).is_ready().await;
        assert_eq!(tenant.alembic_version, "0002_tags");
        clusters.extend(tenant.cluster);
    }
    clusters.sort();
    assert_eq!(clusters, ["east", "west"]);

    let [east, west] = ["east", "west"].map(async |cluster| two.orgs_on(cluster).await[0].clone());
    let (east, west) = (east.await, west.await);
    for org in [&east, &west] {
        let tenant = fleet.tenant(org).await;
        execute(&two.url_of(&tenant), "drop table tags").await;
    }
    let (code, stdout, stderr) = command(&fleet.app, &["fleet", "drift", "--json"]).await;
    let drift: Value = serde_json::from_str(&stdout).unwrap();
    let groups = drift["drifted"].as_array().unwrap().iter();
    let groups: Vec<_> = groups
        .map(|group| {
            (
                &group["cluster"],
                &group["tenants"][0]["org_id"],
                &group["differences"][0],
            )
        })
        .map(|told| (told.0.as_str(), told.1.as_str(), told.2.as_str()))
        .collect();
    let missing = Some("table tags is missing");
    let told = [
        (Some("east"), Some(&*east), missing),
        (Some("west"), Some(&*west), missing),
    ];
    assert_eq!((code, &*groups), (1, &told[..]), "{stderr}");
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_away_fails_its_own_tenants_and_holds_up_no_others() {
    let point = fleet::FAULT_POINTS[0];
    let settings = [
        ("TENANTRY_FAULTS", &*format!("{point}=hold")),
        ("TENANTRY__FLEET__MAX_ATTEMPTS", "2"),
        ("TENANTRY__FLEET__CONCURRENCY", "2"),
    ];
    let mut two = TwoClusters::of(12, &settings).await;
    two.fleet.blueprint.write(NEXT, ADDITIVE);
    let run = two.fleet.begin(&all()).await;
    let faults = &two.fleet.app.replica.provisioner.faults;
    wait_until("it is prepared", async || faults.was_hit(point)).await;
    two.west.halt().await.unwrap();
    faults.release(point);

    let run = two.fleet.is_over(&run).await;
    assert_eq!(
        (run.state, run.counts.done, run.counts.failed),
        (RunState::Failed, 6, 6)
    );
    for org in two.orgs_on("east").await {
        assert!(two.has_tags(&org).await);
    }
    for org in two.orgs_on("west").await {
        let target = two.fleet.target(&run, &org).await;
        let code = target.error_code.as_deref();
        assert_eq!(
            (target.state, code),
            (TargetState::Failed, Some("cluster_unavailable"))
        );
    }

    two.west.restart().await.unwrap();
    two.fleet.retry(&run).await;
    let run = two.fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 12));
    for org in &two.fleet.orgs {
        assert!(two.has_tags(org).await);
    }
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_begins_without_a_cluster_that_stays_away() {
    let settings = [
        ("TENANTRY__POOL__SIZE", "1"),
        ("TENANTRY__FLEET__MAX_ATTEMPTS", "1"),
    ];
    let mut two = TwoClusters::of(4, &settings).await;
    two.fleet.blueprint.write(NEXT, ADDITIVE);
    two.west.halt().await.unwrap();

    let run = two.fleet.migrate(&all()).await;
    let ended = (run.state, run.counts.done, run.counts.failed);
    assert_eq!(ended, (RunState::Failed, 2, 2));
    let (code, stdout, stderr) = command(&two.fleet.app, &["pool", "fill"]).await;
    assert_eq!((code, &*stdout), (1, "east: 0 made, 1 ready"), "{stderr}");
    assert!(stderr.contains("west: "), "{stderr}");
    let (_, _, stderr) = command(&two.fleet.app, &["fleet", "drift"]).await;
    assert!(stderr.contains("[database_unreachable]"), "{stderr}");

    two.west.restart().await.unwrap();
    two.fleet.retry(&run).await;
    let run = two.fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 4));
    assert_eq!(two.count_databases("west", "template_").await, 2);
    two.stop().await;
}

/// Whoever mends one name's pool leaves the other's alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_under_two_names_has_a_pool_under_each() {
    let directory = tempfile::tempdir().unwrap();
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__POOL__SIZE", "1");
    deployment.live_under(directory.path(), &["east", "west"]);
    let fleet = Fleet::made_from(TinyBlueprint::new(), deployment, 2).await;
    let ready = "select count(*) from pool_databases where state = 'ready'";
    wait_until("both pools are full", async || {
        fleet.app.ask::<i64>(ready).await == 2
    })
    .await;
    for _ in 0..2 {
        let (_, told, stderr) = command(&fleet.app, &["pool", "fill"]).await;
        let full = "east: 0 made, 1 ready\nwest: 0 made, 1 ready";
        assert_eq!(told, full, "{stderr}");
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_says_nothing_is_left_to_its_tenants() {
    let settings = [
        ("TENANTRY__FLEET__MAX_ATTEMPTS", "1"),
        ("TENANTRY__FLEET__CONCURRENCY", "1"),
    ];
    let two = TwoClusters::of(8, &settings).await;
    let silent = Silent::of(&two.west);
    let orgs: Vec<String> = (0..6).map(|_| new_org()).collect();
    for org in &orgs {
        let event = events::created(org, "Acme");
        two.fleet.app.accepts(&[&event]).await;
    }
    for org in &orgs {
        let tenant = two.fleet.app.tenant(org).is_ready().await;
        assert_eq!(tenant.cluster.as_deref(), Some("east"));
    }
    let (_, _, stderr) = command(&two.fleet.app, &["fleet", "drift"]).await;
    assert!(stderr.contains("4 of 14 tenants"), "{stderr}");
    two.fleet.blueprint.write(NEXT, ADDITIVE);
    let run = two.fleet.migrate(&all()).await;
    let ended = (run.state, run.counts.done, run.counts.failed);
    assert_eq!(ended, (RunState::Failed, 10, 4));
    drop(silent);
    two.fleet.retry(&run).await;
    let run = two.fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 14));
    two.stop().await;
}

/// All processes of a server stand still: its host answers, and nothing behind it.
struct Silent(Vec<Pid>);

impl Silent {
    fn of(server: &PrivatePostgres) -> Self {
        let status = std::fs::read_to_string(server.dir().join("data/postmaster.pid")).unwrap();
        let postmaster = status.lines().next().unwrap().to_owned();
        let children = format!("/proc/{postmaster}/task/{postmaster}/children");
        let children = std::fs::read_to_string(children).unwrap();
        let pids = children.split_whitespace().chain([&*postmaster]);
        let pids = pids.map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap());
        let silent = Self(pids.collect());
        silent.signal(Signal::STOP);
        silent
    }

    fn signal(&self, signal: Signal) {
        for pid in &self.0 {
            // one that has ended meanwhile says nothing either
            let _ = kill_process(*pid, signal);
        }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_tenants_go_where_somebody_answers() {
    let mut two = TwoClusters::of(2, &[]).await;
    two.west.halt().await.unwrap();
    let orgs: Vec<String> = (0..8).map(|_| new_org()).collect();
    for org in &orgs {
        two.fleet
            .app
            .accepts(&[&events::created(org, "Acme")])
            .await;
    }
    for org in &orgs {
        let tenant = two.fleet.app.tenant(org).is_ready().await;
        assert_eq!(tenant.cluster.as_deref(), Some("east"));
    }

    two.west.restart().await.unwrap();
    let (_, tenant) = two.fleet.app.new_tenant("Acme").await;
    assert_eq!(tenant.cluster.as_deref(), Some("west"));
    two.stop().await;
}
