//! Notifications and crashes: whatever dies, each is told at least once, of one tenant in order, none is lost.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tenantry::{actions, provisioning::BlueprintSource, tenants::Tenant};

use crate::support::{
    App, Deployment, Sink,
    app::{new_org, operator, wait_until},
    events,
    process::Process,
    sink::Told,
};

/// Number of every notification in the outbox by its id.
async fn outbox(app: &App) -> BTreeMap<String, i64> {
    let sql = "select coalesce(jsonb_object_agg(id, number), '{}') from notifications";
    let outbox: Value = app.ask(sql).await;
    serde_json::from_value(outbox).unwrap()
}

/// What must hold of what a sink took.
async fn nothing_is_lost_or_out_of_order(app: &App, told: &[Told]) {
    let outbox = outbox(app).await;
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for told in told {
        let number = outbox[&told.id()];
        let before = last.insert(told.tenant(), number).unwrap_or(0);
        assert!(
            before < number,
            "{number} of {} came after {before}",
            told.tenant()
        );
    }
    assert_eq!(told.len(), outbox.len(), "each of the outbox");
}

async fn toggle(app: &App, tenant: &Tenant, suspend: bool) {
    let change = async |tx: &mut _| {
        if suspend {
            actions::suspend_tenant(tx, tenant, &operator()).await
        } else {
            actions::resume_tenant(tx, tenant, 25, &operator()).await
        }
    };
    app.replica.db.transaction(change).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_killed_between_sending_and_recording_has_it_sent_again() {
    for point in ["notification.sending", "notification.sent"] {
        let sink = Sink::start().await;
        let deployment = Deployment::that_tells(&sink, &[0, 0]).await;
        let app = App::of(deployment.clone(), BlueprintSource::Bundled).await;
        let tenant = app.tenant_ready_and_told(&sink).await;

        // from here on others work
        app.stop().await;
        let app = App::listening(deployment.clone(), BlueprintSource::Bundled).await;
        toggle(&app, &tenant, true).await;
        toggle(&app, &tenant, false).await;
        let mut first = Process::start(&deployment, &format!("{point}=kill")).await;
        first.is_killed().await;
        let _second = Process::start(&deployment, "").await;
        let told = sink.has_taken(3).await;
        nothing_is_lost_or_out_of_order(&app, &told).await;
        let of_the_killed = sink
            .told()
            .iter()
            .filter(|it| it.id() == told[1].id())
            .count();
        let expected = if point == "notification.sent" { 2 } else { 1 };
        assert_eq!(of_the_killed, expected, "{point}");
        app.stop().await;
    }
}

impl App {
    async fn tenant_ready_and_told(&self, sink: &Sink) -> Tenant {
        let org = new_org();
        self.accepts(&[&events::created(&org, "Acme")]).await;
        let tenant = self.tenant(&org).is_ready().await;
        sink.has_taken(1).await;
        self.is_idle().await;
        tenant
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_storm_of_kills_and_failures_each_is_told_in_order() {
    const TENANTS: usize = 4;
    const CHANGES: usize = 12;
    let mut sink = Sink::start().await;
    let mut deployment = Deployment::that_tells(&sink, &[1; 50]).await;
    deployment.set("TENANTRY__QUEUE__LEASE_MS", "600");
    let app = App::of(deployment.clone(), BlueprintSource::Bundled).await;
    let mut tenants = Vec::new();
    for _ in 0..TENANTS {
        let org = new_org();
        app.accepts(&[&events::created(&org, "Acme")]).await;
        tenants.push(app.tenant(&org).is_ready().await);
    }
    app.stop().await;
    // this one only changes things; processes tell of them
    let app = App::listening(deployment.clone(), BlueprintSource::Bundled).await;
    sink.fails_one_in(3);
    let changes = async {
        for change in 0..CHANGES {
            for tenant in &tenants {
                toggle(&app, tenant, change % 2 == 0).await;
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    };
    let kills = async {
        for _ in 0..4 {
            let mut process = Process::with_roles(&deployment, "worker").await;
            tokio::time::sleep(Duration::from_millis(700)).await;
            process.kill();
        }
    };
    let steady = Process::with_roles(&deployment, "worker").await;
    tokio::join!(changes, kills);
    // the sink goes as well, and comes back
    sink.dies().await;
    toggle(&app, &tenants[0], true).await;
    let failed = "select count(*) > 0 from notification_attempts where error_code = 'notification_unreachable'";
    wait_until("it is not reached", async || app.ask::<bool>(failed).await).await;
    sink.comes_back().await;
    sink.fails_one_in(0);
    let expected = TENANTS * (1 + CHANGES) + 1;
    let told = sink.has_taken(expected).await;
    nothing_is_lost_or_out_of_order(&app, &told).await;
    let open = "select count(*) from notification_deliveries where state <> 'delivered'";
    wait_until("all is recorded", async || app.ask::<i64>(open).await == 0).await;
    drop(steady);
    app.stop().await;
}
