//! Outgoing notifications: who is told what, in which order, and what happens when nobody answers.

use std::time::Duration;

use serde_json::{Value, json};
use tenantry::{
    actions, api_keys::Scope, audit::Actor, config::Config, members, notifications,
    provisioning::BlueprintSource, tenants::Tenant,
};

use crate::support::{
    App, Deployment, Sink, TinyBlueprint,
    app::{new_org, operator, wait_until},
    cluster::{ask, execute},
    events,
    people::{self, Belongs, new_id},
    process::tenantry,
    sink::{AN_HOUR, Answer, SECRETS, TIMEOUT, Told},
    team::Team,
};

impl App {
    async fn suspends(&self, tenant: &Tenant) {
        let db = &self.replica.db;
        let suspend = async |tx: &mut _| actions::suspend_tenant(tx, tenant, &operator()).await;
        db.transaction(suspend).await.unwrap();
        self.replica.waker.wake();
    }

    async fn resumes(&self, tenant: &Tenant) {
        let resume = async |tx: &mut _| actions::resume_tenant(tx, tenant, 25, &operator()).await;
        self.replica.db.transaction(resume).await.unwrap();
        self.replica.waker.wake();
    }

    /// A ready tenant of a new organization.
    async fn has_tenant(&self) -> Tenant {
        let org = new_org();
        self.accepts(&[&events::created(&org, "Acme")]).await;
        self.tenant(&org).is_ready().await
    }

    /// Code and status of every attempt, in order.
    async fn attempts(&self) -> Vec<String> {
        let attempts: Value = self
            .ask(
                "select coalesce(jsonb_agg(coalesce(error_code, 'ok') || ' ' || coalesce(status::text, '-') order by number, attempt), '[]')
                 from notification_attempts",
            )
            .await;
        serde_json::from_value(attempts).unwrap()
    }

    /// Waits until deliveries are in this state.
    async fn has_deliveries(&self, count: i64, state: &str) {
        let sql = format!("select count(*) from notification_deliveries where state = '{state}'");
        let what = format!("{count} deliveries are {state}");
        wait_until(&what, async || self.ask::<i64>(&sql).await == count).await;
    }

    async fn is_disabled(&self) -> bool {
        self.ask("select disabled_at is not null from notification_endpoints where name = 'app'")
            .await
    }
}

/// The crm example takes seconds to clone; these tests are not about databases.
async fn app_of(deployment: Deployment) -> (App, TinyBlueprint) {
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment, blueprint.source()).await;
    (app, blueprint)
}

fn kinds(told: &[Told]) -> Vec<String> {
    told.iter().map(Told::kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_a_tenant_and_its_members_is_told_once_each_and_in_order() {
    let sink = Sink::start().await;
    let team = Team::of(Deployment::that_tells(&sink, &AN_HOUR).await).await;
    let ada = team.has("Ada", "admin").await;
    let bob = team.has("Bob", "member").await;
    team.remove(&bob, &ada).await.unwrap();
    team.restore(&bob, &ada).await.unwrap();
    // what changes no standing is not told
    let renamed = people::user("updated", &bob, "bob@acme.example", ("Robert", "Doe"), 3);
    team.app.accepts(&[&renamed]).await;
    team.app.is_idle().await;
    let tenant = team.app.tenant(&team.org).is_ready().await;
    team.app.suspends(&tenant).await;
    team.app.resumes(&tenant).await;
    let told = sink.has_taken(7).await;
    assert_eq!(
        kinds(&told),
        [
            "tenant.ready",
            "member.added",
            "member.added",
            "member.removed",
            "member.restored",
            "tenant.suspended",
            "tenant.resumed",
        ]
    );
    for told in &told {
        for secret in SECRETS {
            assert_eq!(told.verify(secret), Ok(()), "{secret}");
        }
        assert!(
            told.verify("whsec_bm90IHRoZSBzZWNyZXQgb2YgYW55Ym9keQ==")
                .is_err()
        );
        assert_eq!(told.header("content-type"), "application/json");
        let body = told.body();
        let of_tenant = &body["data"]["tenant"];
        assert_eq!(of_tenant["id"], tenant.id.to_string());
        assert_eq!(of_tenant["org_id"], team.org.as_str());
        assert_eq!(of_tenant["source"], "workos");
        assert_eq!(of_tenant["url"], tenant.url.as_str());
        let keys: Vec<&String> = of_tenant.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            ["failure", "id", "name", "org_id", "source", "state", "url"]
        );
    }
    let times: Vec<String> = told
        .iter()
        .map(|told| told.body()["timestamp"].as_str().unwrap().to_owned())
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(
        told[3].body()["data"]["member"],
        json!({
            "user_id": bob,
            "email": "bob@acme.example",
            "role": "member",
            "status": "removed",
            "organization": { "source": "workos", "org_id": team.org },
        })
    );
    let states = told
        .iter()
        .map(|told| told.body()["data"]["tenant"]["state"].clone());
    assert_eq!(states.skip(5).collect::<Vec<_>>(), ["suspended", "ready"]);
    assert_eq!(sink.told().len(), 7, "each was sent once");
    team.app.is_idle().await;
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_organization_ends_its_members_and_a_failed_tenant_says_why() {
    let sink = Sink::start().await;
    let team = Team::of(Deployment::that_tells(&sink, &AN_HOUR).await).await;
    team.has("Ada", "admin").await;
    let deleted = events::deleted(&team.org, "Acme", 30);
    team.app.accepts(&[&deleted]).await;
    let told = sink.has_taken(4).await;
    let mut last = kinds(&told[2..]);
    last.sort();
    assert_eq!(last, ["member.removed", "tenant.suspended"]);
    team.app.is_idle().await;
    team.app.stop().await;

    let sink = Sink::start().await;
    let blueprint = TinyBlueprint::new();
    blueprint.write("seed/tenant/01_note.sql", "select 1 / 0");
    let mut deployment = Deployment::that_tells(&sink, &AN_HOUR).await;
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let app = App::of(deployment, blueprint.source()).await;
    app.accepts(&[&events::created(&new_org(), "Acme")]).await;
    let told = sink.has_taken(1).await;
    assert_eq!(told[0].kind(), "tenant.failed");
    let failure = told[0].body()["data"]["tenant"]["failure"].clone();
    assert_eq!(failure["step"], "seed", "{failure}");
    assert!(
        failure["code"].is_string() && failure.get("cause").is_none(),
        "{failure}"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_is_not_told() {
    let sink = Sink::start().await;
    let team = Team::of(Deployment::that_tells(&sink, &AN_HOUR).await).await;
    let ada = team.has("Ada", "admin").await;
    let bob = team.has("Bob", "member").await;
    sink.has_taken(3).await;
    let (of, actor) = (team.organization(), Actor::User(ada));
    let tenant = team.app.tenant(&team.org).is_ready().await;
    let change_and_fail = async |tx: &mut _| {
        team.desk.remove(tx, of, &bob, &actor).await?;
        actions::suspend_tenant(tx, &tenant, &operator())
            .await
            .unwrap();
        Err::<(), _>(members::Error::Yourself(bob.clone()))
    };
    team.app
        .replica
        .db
        .transaction(change_and_fail)
        .await
        .unwrap_err();
    let outbox = "select count(*) from notifications";
    assert_eq!(team.app.ask::<i64>(outbox).await, 3);
    let known = "select count(*) from announced_members where status = 'active'";
    assert_eq!(team.app.ask::<i64>(known).await, 2);
    team.app.suspends(&tenant).await;
    assert_eq!(sink.has_taken(4).await[3].kind(), "tenant.suspended");
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_hangs_or_redirects_is_tried_again_and_what_comes_after_it_waits() {
    let (sink, elsewhere) = (Sink::start().await, Sink::start().await);
    let redirect = Answer::With(307, vec![("location", elsewhere.url())]);
    sink.answers([
        Answer::Status(500),
        Answer::Hang,
        redirect,
        Answer::Status(404),
    ]);
    let (app, _blueprint) = app_of(Deployment::that_tells(&sink, &[0, 0, 0, 0, 0]).await).await;
    let tenant = app.has_tenant().await;
    app.suspends(&tenant).await;
    assert_eq!(
        kinds(&sink.has_taken(2).await),
        ["tenant.ready", "tenant.suspended"]
    );
    let told = sink.told();
    assert_eq!(told.len(), 6);
    for again in &told[1..5] {
        assert_eq!(again.id(), told[0].id());
        assert_eq!(again.bytes, told[0].bytes, "the same bytes");
        assert_eq!(again.verify(SECRETS[0]), Ok(()), "signed anew");
    }
    assert!(told[2].at - told[1].at >= TIMEOUT);
    assert_eq!(elsewhere.connections(), 0, "a redirect is not followed");
    app.has_deliveries(2, "delivered").await;
    assert_eq!(
        app.attempts().await,
        [
            "notification_refused 500",
            "notification_timeout -",
            "notification_redirected 307",
            "notification_refused 404",
            "ok 204",
            "ok 204",
        ]
    );
    let answer: String = app
        .ask("select answer from notification_attempts where attempt = 1 and status = 500")
        .await;
    assert_eq!(answer, "not now", "one short line of it");
    let metrics = crate::support::app::get(app.address, "/metrics").await;
    for line in [
        "tenantry_notification_attempts_total{endpoint=\"app\",outcome=\"failed\"} 4",
        "tenantry_notification_attempts_total{endpoint=\"app\",outcome=\"delivered\"} 2",
        "tenantry_notifications_pending{endpoint=\"app\"} 0",
        "tenantry_notification_endpoints_disabled{} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_waits_for_its_head_until_that_is_given_up() {
    let sink = Sink::start().await;
    sink.always(Answer::Status(500));
    let (app, _blueprint) = app_of(Deployment::that_tells(&sink, &AN_HOUR).await).await;
    let (tenant, other) = (app.has_tenant().await, app.has_tenant().await);
    sink.was_told(2).await;
    app.has_deliveries(2, "pending").await;
    let recorded = async || app.attempts().await.len() == 2;
    wait_until("both attempts are recorded", recorded).await;
    sink.always(Answer::Status(204));
    app.suspends(&tenant).await;
    // a job for the new one would come before this one: the other tenant's line does not wait for it
    let due = format!(
        "update notification_deliveries set run_at = now() where tenant_id = '{}'",
        other.id
    );
    execute(&app.deployment.control_url, &due).await;
    let other_id = other.id.to_string();
    execute(
        &app.deployment.control_url,
        &format!("select rouse_delivery('app', '{other_id}', true)"),
    )
    .await;
    let told = sink.has_taken(1).await;
    assert_eq!(
        (told[0].kind(), told[0].tenant()),
        ("tenant.ready".to_owned(), other_id)
    );
    assert_eq!(
        sink.told().len(),
        3,
        "tenant.suspended waits for tenant.ready"
    );

    // its last attempt: it is given up, and the next one follows
    sink.answers([Answer::Status(500)]);
    let spent = format!(
        "update notification_deliveries set tries = 1, run_at = now() where tenant_id = '{}' and attempts = 1",
        tenant.id
    );
    execute(&app.deployment.control_url, &spent).await;
    let rouse = format!("select rouse_delivery('app', '{}', true)", tenant.id);
    execute(&app.deployment.control_url, &rouse).await;
    app.has_deliveries(1, "failed").await;
    assert_eq!(kinds(&sink.has_taken(2).await)[1], "tenant.suspended");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_endpoint_is_left_alone_for_as_long_as_it_asks() {
    let sink = Sink::start().await;
    let wait = |status| Answer::With(status, vec![("retry-after", "2".to_owned())]);
    sink.answers([wait(429), wait(503)]);
    let (app, _blueprint) = app_of(Deployment::that_tells(&sink, &[0, 0]).await).await;
    app.has_tenant().await;
    let told = sink.was_told(3).await;
    for pair in told.windows(2) {
        let apart = pair[1].at - pair[0].at;
        assert!(apart >= Duration::from_secs(2), "{apart:?}");
    }
    app.has_deliveries(1, "delivered").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_is_told_nothing_until_it_is_enabled() {
    let sink = Sink::start().await;
    sink.answers([Answer::Status(410)]);
    let mut deployment = Deployment::that_tells(&sink, &[0, 0]).await;
    let (app, blueprint) = app_of(deployment.clone()).await;
    let tenant = app.has_tenant().await;
    sink.was_told(1).await;
    wait_until("it is disabled", async || app.is_disabled().await).await;
    app.suspends(&tenant).await;
    app.is_idle().await;
    app.has_deliveries(2, "pending").await;
    assert_eq!(sink.told().len(), 1);
    app.stop().await;

    // not by a restart
    let app = App::of(deployment.clone(), blueprint.source()).await;
    app.resumes(&tenant).await;
    app.is_idle().await;
    assert!(app.is_disabled().await);
    let enabled = notifications::enable(&app.replica.db, "app", &operator()).await;
    assert!(enabled.unwrap());
    let told = sink.has_taken(3).await;
    assert_eq!(
        kinds(&told),
        ["tenant.ready", "tenant.suspended", "tenant.resumed"]
    );
    assert_eq!(app.attempts().await[0], "notification_endpoint_gone 410");
    let again = notifications::enable(&app.replica.db, "app", &operator()).await;
    assert!(!again.unwrap());
    let unknown = notifications::enable(&app.replica.db, "nobody", &operator()).await;
    assert_eq!(unknown.unwrap_err().code(), "notification_endpoint_unknown");

    // another URL is another endpoint
    sink.answers([Answer::Status(410)]);
    app.suspends(&tenant).await;
    wait_until("it is disabled again", async || app.is_disabled().await).await;
    app.is_idle().await;
    app.stop().await;
    deployment.tells("APP", &format!("{}/2", sink.url()), &[0, 0]);
    let app = App::of(deployment, blueprint.source()).await;
    assert!(!app.is_disabled().await);
    app.replica.tidy();
    assert_eq!(kinds(&sink.has_taken(4).await)[3], "tenant.suspended");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_public_is_not_connected_to() {
    let sink = Sink::start().await;
    let mut deployment = Deployment::that_tells(&sink, &[0]).await;
    let by_name = format!("https://localhost:{}/", sink.address.port());
    deployment.tells("APP", &by_name, &[0]);
    deployment.set(
        "TENANTRY__NOTIFICATIONS__APP__ALLOW_PRIVATE_ADDRESSES",
        "false",
    );
    let (app, _blueprint) = app_of(deployment.clone()).await;
    app.has_tenant().await;
    app.has_deliveries(1, "failed").await;
    let refused = "notification_address_refused -";
    assert_eq!(app.attempts().await, [refused, refused]);
    assert_eq!(sink.connections(), 0);
    app.stop().await;

    // allowed, it is connected to: the name alone was not the reason
    deployment.set(
        "TENANTRY__NOTIFICATIONS__APP__ALLOW_PRIVATE_ADDRESSES",
        "true",
    );
    let (app, _blueprint) = app_of(deployment.clone()).await;
    app.has_tenant().await;
    wait_until("it is connected to", async || sink.connections() > 0).await;
    app.stop().await;

    // as an address it is refused before anything starts
    deployment.set(
        "TENANTRY__NOTIFICATIONS__APP__URL",
        "https://[::ffff:127.0.0.1]/",
    );
    deployment.set(
        "TENANTRY__NOTIFICATIONS__APP__ALLOW_PRIVATE_ADDRESSES",
        "false",
    );
    let environment = deployment.variables.iter().cloned().collect();
    let refused = Config::load(None, &environment).unwrap_err().to_string();
    assert!(refused.contains("no public address"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_died_is_told_everything_when_it_is_back() {
    let mut sink = Sink::start().await;
    let (app, _blueprint) = app_of(Deployment::that_tells(&sink, &[1; 30]).await).await;
    let tenant = app.has_tenant().await;
    sink.has_taken(1).await;
    sink.dies().await;
    app.suspends(&tenant).await;
    app.resumes(&tenant).await;
    let failed =
        "select count(*) from notification_attempts where error_code = 'notification_unreachable'";
    wait_until("it is not reached", async || {
        app.ask::<i64>(failed).await > 0
    })
    .await;
    sink.comes_back().await;
    let told = sink.has_taken(3).await;
    assert_eq!(
        kinds(&told),
        ["tenant.ready", "tenant.suspended", "tenant.resumed"]
    );
    app.has_deliveries(3, "delivered").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_holds_up_neither_tenants_nor_other_endpoints() {
    let (hanging, sink) = (Sink::start().await, Sink::start().await);
    hanging.always(Answer::Hang);
    let mut deployment = Deployment::that_tells(&sink, &AN_HOUR).await;
    deployment.tells("HANGING", &hanging.url(), &AN_HOUR);
    deployment.set("TENANTRY__NOTIFICATIONS__HANGING__TIMEOUT_S", "60");
    deployment.set("TENANTRY__QUEUE__CONCURRENCY", "1");
    // as many as may hang, and one
    deployment.set("TENANTRY__QUEUE__NOTIFICATION_CONCURRENCY", "9");
    let (app, _blueprint) = app_of(deployment).await;
    for _ in 0..24 {
        app.has_tenant().await;
    }
    sink.has_taken(24).await;
    assert!(hanging.told().len() <= 8, "{} hang", hanging.told().len());
    app.vanish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_a_member_before_anybody_listened_is_not_told_as_added() {
    let blueprint = TinyBlueprint::with_people();
    let mut deployment = Deployment::new().await;
    let app = App::of(deployment.clone(), blueprint.source()).await;
    let org = new_org();
    let (ada, bob, eve) = (new_id("user"), new_id("user"), new_id("user"));
    let of = |user: &str| (format!("om_{user}"), user.to_owned());
    let membership = |kind: &str, (id, user): &(String, String), status: &str, minute: u32| {
        let belongs = Belongs {
            id,
            org: &org,
            user,
            role: "member",
        };
        people::membership(kind, belongs, status, minute)
    };
    app.accepts(&[
        &events::created(&org, "Acme"),
        &people::user("created", &ada, "ada@acme.example", ("Ada", "Doe"), 1),
        &people::user("created", &bob, "bob@acme.example", ("Bob", "Doe"), 1),
        &people::user("created", &eve, "eve@acme.example", ("Eve", "Doe"), 1),
        &membership("created", &of(&ada), "active", 1),
        &membership("created", &of(&bob), "inactive", 1),
    ])
    .await;
    app.tenant(&org).is_ready().await;
    app.is_idle().await;
    let nothing =
        "select (select count(*) from notifications) + (select count(*) from announced_members)";
    assert_eq!(
        app.ask::<i64>(nothing).await,
        0,
        "nobody listens, nothing is kept"
    );
    app.stop().await;

    let sink = Sink::start().await;
    deployment.tells("APP", &sink.url(), &AN_HOUR);
    deployment.set(
        "TENANTRY__NOTIFICATIONS__APP__TYPES",
        "member.added,member.removed,member.restored",
    );
    let app = App::of(deployment.clone(), blueprint.source()).await;
    app.accepts(&[
        &membership("updated", &of(&ada), "inactive", 2),
        &membership("created", &of(&eve), "pending", 2),
    ])
    .await;
    app.is_idle().await;
    app.accepts(&[&membership("updated", &of(&bob), "active", 3)])
        .await;
    app.is_idle().await;
    // heard twice, and invited before
    let joined = membership("updated", &of(&eve), "active", 4);
    app.accepts(&[&joined]).await;
    app.is_idle().await;
    app.deliver(&joined).await;
    let tenant = app.tenant(&org).is_ready().await;
    app.suspends(&tenant).await;
    let told = sink.has_taken(3).await;
    assert_eq!(
        kinds(&told),
        ["member.removed", "member.restored", "member.added"]
    );
    assert_eq!(told[2].body()["data"]["member"]["user_id"], eve.as_str());
    app.is_idle().await;
    app.stop().await;

    nobody_listens_any_more(deployment, &blueprint).await;
}

/// Then nothing is kept.
async fn nobody_listens_any_more(mut deployment: Deployment, blueprint: &TinyBlueprint) {
    deployment
        .variables
        .retain(|(name, _)| !name.starts_with("TENANTRY__NOTIFICATIONS"));
    let app = App::of(deployment, blueprint.source()).await;
    let known = "select count(*) from announced_members";
    assert_eq!(app.ask::<i64>(known).await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_come_before_their_organization_are_told_with_its_tenant() {
    let sink = Sink::start().await;
    let blueprint = TinyBlueprint::with_people();
    let app = App::of(
        Deployment::that_tells(&sink, &AN_HOUR).await,
        blueprint.source(),
    )
    .await;
    let org = new_org();
    app.accepts(&[
        &events::user("user_1", ("Ada", "Lovelace")),
        &events::member(&org, "user_1", "admin", 0),
    ])
    .await;
    app.is_idle().await;
    assert_eq!(sink.told().len(), 0);
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let told = sink.has_taken(2).await;
    assert_eq!(kinds(&told), ["member.added", "tenant.ready"]);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_told_when_its_tenant_is_ready() {
    let sink = Sink::start().await;
    let (app, _blueprint) = app_of(Deployment::that_tells(&sink, &AN_HOUR).await).await;
    let tenant = app.has_tenant().await;
    sink.has_taken(1).await;
    let control = &app.deployment.control_url;
    // a table as registrations are kept in, with the trigger that they have
    for sql in [
        "create table signups (id uuid primary key, external_id text, tenant_id uuid, state text)"
            .to_owned(),
        "create constraint trigger notify_of_registration after update of state on signups
         deferrable initially deferred
         for each row when (old.state is distinct from new.state and new.state = 'ready')
         execute function notify_of_registration()"
            .to_owned(),
        format!(
            "insert into signups values (gen_random_uuid(), 'ext_1', '{}', 'accepted')",
            tenant.id
        ),
        "update signups set state = 'provisioning'".to_owned(),
        "update signups set state = 'ready'".to_owned(),
        "update signups set state = 'ready'".to_owned(),
    ] {
        execute(control, &sql).await;
    }
    let told = sink.has_taken(2).await;
    assert_eq!(told[1].kind(), "registration.completed");
    let registration = &told[1].body()["data"]["registration"];
    let id: String = ask(control, "select id::text from signups").await;
    assert_eq!(
        *registration,
        json!({ "id": id, "external_id": "ext_1", "state": "ready" })
    );
    assert_eq!(told[1].tenant(), tenant.id.to_string());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_is_told_once_more_or_all_that_were_given_up() {
    let sink = Sink::start().await;
    let (app, _blueprint) = app_of(Deployment::that_tells(&sink, &[]).await).await;
    let tenant = app.has_tenant().await;
    let first = sink.has_taken(1).await.remove(0);
    sink.always(Answer::Status(500));
    app.suspends(&tenant).await;
    app.resumes(&tenant).await;
    app.has_deliveries(2, "failed").await;
    sink.always(Answer::Status(204));

    let key = app.key(&[Scope::EventsRead, Scope::EventsWrite]).await;
    let api = app.as_bearer(&key);
    let listed = api.get("/v1/notifications?state=failed&endpoint=app").await;
    let types: Vec<&str> = listed.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["type"].as_str().unwrap())
        .collect();
    assert_eq!(types, ["tenant.resumed", "tenant.suspended"]);
    let path = format!("/v1/notifications/{}", first.id());
    let replay = format!("{path}/replay");
    let keyed = api.clone().header("idempotency-key", "replay-1");
    let replayed = keyed.post(&replay, &json!({})).await;
    assert_eq!(replayed.status, 200, "{:?}", replayed.body);
    assert_eq!(replayed.body["deliveries"][0]["state"], "pending");
    wait_until("it came once more", async || sink.told().len() == 4).await;
    let again = &sink.told()[3];
    assert_eq!((again.id(), &again.bytes), (first.id(), &first.bytes));
    assert_eq!(keyed.post(&replay, &json!({})).await.status, 200);
    app.has_deliveries(1, "delivered").await;
    let found = api.get(&path).await;
    let attempts = found.body["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "the key was used: {attempts:?}");
    assert_eq!(
        (
            attempts[1]["attempt"].clone(),
            attempts[1]["status"].clone()
        ),
        (json!(2), json!(204))
    );
    let elsewhere = api.post(&replay, &json!({ "endpoint": "nobody" })).await;
    assert_eq!(elsewhere.refusal(), (404, "notification_endpoint_unknown"));
    let unknown = format!("/v1/notifications/{}", uuid::Uuid::now_v7());
    assert_eq!(
        api.get(&unknown).await.refusal(),
        (404, "notification_unknown")
    );

    all_that_were_given_up_are_told_once_more(&app, &sink).await;
    app.stop().await;
}

/// The second half of it: two were given up, one was replayed over HTTP.
async fn all_that_were_given_up_are_told_once_more(app: &App, sink: &Sink) {
    let (code, stdout, stderr) = command(
        app,
        &["replay", "--failed-since", "1h", "--endpoint", "app"],
    )
    .await;
    assert_eq!((code, stdout.as_str()), (0, "2"), "{stderr}");
    app.has_deliveries(3, "delivered").await;
    assert_eq!(
        kinds(&sink.told()[4..]),
        ["tenant.suspended", "tenant.resumed"]
    );
    let (_, listed, _) = command(app, &["ls", "--type", "tenant.resumed", "--json"]).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["deliveries"][0]["attempts"], 2);
    let id = listed[0]["id"].as_str().unwrap();
    let (_, shown, _) = command(app, &["get", id]).await;
    assert!(
        shown.contains("[notification_refused]: not now") && !shown.contains("s3cr3t"),
        "{shown}"
    );
    let (_, endpoints, _) = command(app, &["endpoints"]).await;
    assert!(
        endpoints.contains("enabled") && !endpoints.contains("s3cr3t"),
        "{endpoints}"
    );
    let noted = "select count(*) from audit_log where action = 'notification.replayed'";
    assert_eq!(app.ask::<i64>(noted).await, 3);
    let (code, _, stderr) = command(app, &["replay", "--failed-since", "soon"]).await;
    assert_eq!(code, 64, "{stderr}");
}

/// `tenantry notifications …`: exit code, standard output, standard error.
async fn command(app: &App, arguments: &[&str]) -> (i32, String, String) {
    let mut command = tenantry();
    command
        .arg("notifications")
        .args(arguments)
        .envs(app.deployment.variables.iter().cloned());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_cancelled_is_begun_anew() {
    let sink = Sink::start().await;
    sink.answers([Answer::Status(500)]);
    let (app, _blueprint) = app_of(Deployment::that_tells(&sink, &[1, 1, 1]).await).await;
    app.has_tenant().await;
    sink.was_told(1).await;
    let cancelled = "with cancelled as (
            update jobs set state = 'cancelled', finished_at = now()
            where kind = 'deliver_notifications' and state = 'available'
            returning 1
        )
        select count(*) from cancelled";
    wait_until("it is cancelled", async || {
        app.ask::<i64>(cancelled).await == 1
    })
    .await;
    app.replica.tidy();
    sink.has_taken(1).await;
    app.stop().await;
}

/// Only so that the worked example is told of as well as the small ones.
#[tokio::test(flavor = "multi_thread")]
async fn the_worked_example_tells_like_any_other() {
    let sink = Sink::start().await;
    let deployment = Deployment::that_tells(&sink, &AN_HOUR).await;
    let app = App::of(deployment, BlueprintSource::Bundled).await;
    app.has_tenant().await;
    assert_eq!(kinds(&sink.has_taken(1).await), ["tenant.ready"]);
    app.stop().await;
}
