//! `/v1/fleet-runs`: a run as a client with an API key begins, follows and stops it.

use regex::Regex;
use serde_json::{Value, json};
use tenantry::{api_keys::Scope, tenants::Tenant};

use crate::support::{
    Api, Deployment, Fleet, TinyBlueprint,
    app::{bytes, exchange, wait_for, wait_until},
    cluster::{execute, hold},
    fleet::NEXT,
};

/// A client with a key for runs, and three tenants whose blueprint has grown.
struct Client {
    fleet: Fleet,
    key: String,
}

impl Client {
    async fn new() -> Self {
        let fleet = Fleet::made_from(TinyBlueprint::new(), Deployment::new().await, 3).await;
        let next = "alter table notes add column tags text";
        fleet.blueprint.write(NEXT, next);
        let key = fleet.app.key(&[Scope::FleetRead, Scope::FleetWrite]).await;
        Self { fleet, key }
    }

    fn api(&self) -> Api {
        self.fleet.app.as_bearer(&self.key)
    }

    async fn begin(&self, body: &Value) -> String {
        let run = self.api().post("/v1/fleet-runs", body).await;
        assert_eq!(run.status, 201, "{}", run.body);
        let path = format!("/v1/fleet-runs/{}", run.body["id"].as_str().unwrap());
        assert_eq!(run.header("location"), Some(&*path));
        path
    }

    /// Waits until the run is in a state, with nothing under way.
    async fn is(&self, path: &str, state: &str) -> Value {
        wait_for(&format!("the run is {state}"), async || {
            let run = self.api().get(path).await.body;
            (run["state"] == state && run["counts"]["running"] == 0).then_some(run)
        })
        .await
    }

    /// The first tenant is one whose migration fails: the column is there already.
    async fn breaks_the_first(&self) -> Tenant {
        let broken = &self.fleet.orgs[0];
        let forget = format!("delete from tenantry.migrations where name = '{NEXT}'");
        self.fleet.sql(broken, &forget).await;
        let tenant = self.fleet.tenant(broken).await;
        let sql = format!(
            "update tenants set alembic_version = '0001_notes', blueprint_hash = 'old' where id = '{}'",
            tenant.id
        );
        execute(&self.fleet.app.deployment.control_url, &sql).await;
        tenant
    }

    /// The gauges of the run that has not ended come to be these; the others are 0.
    async fn gauges_say(&self, expected: &str) {
        let told = format!("the gauges say {expected:?}");
        wait_until(&told, async || self.gauges().await == expected).await;
    }

    /// Those that are not 0.
    async fn gauges(&self) -> String {
        let metrics = self.fleet.app.get("/metrics").await.text;
        let gauge = |line: &str| {
            let rest = line.strip_prefix("tenantry_fleet_run_targets{state=\"")?;
            Some(rest.replace("\"}", ""))
        };
        let mut gauges: Vec<String> = metrics.lines().filter_map(gauge).collect();
        assert_eq!(gauges.len(), 5, "{metrics}");
        gauges.retain(|gauge| !gauge.ends_with(" 0"));
        gauges.sort_unstable();
        gauges.join(", ")
    }

    async fn act(&self, path: &str, verb: &str) -> Value {
        let done = self.api().post(&format!("{path}/{verb}"), &json!({})).await;
        assert_eq!(done.status, 200, "{verb}: {}", done.body);
        done.body
    }

    /// The events of a run until its stream ends: ids, names and data.
    async fn follow(&self, path: &str, last: Option<&str>) -> (u16, Vec<(String, String, Value)>) {
        let mut headers = vec![("authorization", format!("Bearer {}", self.key))];
        headers.extend(last.map(|last| ("last-event-id", last.to_owned())));
        let path = format!("{path}/events");
        let answer = exchange(
            self.fleet.app.address,
            "GET",
            &path,
            &headers,
            bytes(Vec::new()),
        )
        .await;
        let answer = answer.unwrap();
        let event = |block: &str| {
            let field = |name: &str| {
                let mut lines = block.lines();
                lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
            };
            let data = serde_json::from_str(&field("data")?).unwrap();
            Some((field("id")?, field("event")?, data))
        };
        (
            answer.status,
            answer.text.split("\n\n").filter_map(event).collect(),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_begun_once_followed_to_its_end_and_listed_with_its_targets() {
    let client = Client::new().await;
    let keyed = client.api().header("idempotency-key", "\"run-1\"");
    let wanted = json!({ "waves": ["1"], "concurrency": 2 });
    let first = keyed.post("/v1/fleet-runs", &wanted).await;
    assert_eq!(
        (first.status, &first.body["state"]),
        (201, &json!("preparing"))
    );
    let again = keyed.post("/v1/fleet-runs", &wanted).await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    let path = first.header("location").unwrap().to_owned();

    let (status, seen) = client.follow(&path, None).await;
    assert_eq!(status, 200);
    let (last, name, data) = seen.last().unwrap();
    assert_eq!((name.as_str(), &data["state"]), ("done", &json!("done")));
    assert_eq!(data["counts"]["done"], 3);
    assert_eq!(data["version"], "0002_tags");
    assert!(data["per_second"].as_f64().unwrap() > 0.0, "{data}");
    // who has seen the end hears that there is no more; who has seen something else hears the end
    assert_eq!(client.follow(&path, Some(last)).await, (204, Vec::new()));
    for other in ["running-1-3-0-0-0-0", "from nowhere"] {
        let (status, seen) = client.follow(&path, Some(other)).await;
        assert_eq!((status, seen.len()), (200, 1), "{other}");
        assert_eq!(&seen[0].0, last);
    }

    let listed = client.api().get("/v1/fleet-runs?state=done").await;
    assert_eq!(listed.body["data"][0]["id"], first.body["id"]);
    let none = client.api().get("/v1/fleet-runs?state=failed").await;
    assert_eq!(none.body["data"], json!([]));
    let mut page = client
        .api()
        .get(&format!("{path}/targets?state=done&limit=2"))
        .await
        .body;
    assert_eq!(page["data"].as_array().unwrap().len(), 2);
    assert_eq!(page["data"][0]["from_version"], "0001_notes");
    assert_eq!(page["data"][0]["to_version"], "0002_tags");
    let cursor = page["next_cursor"].take();
    let rest = format!(
        "{path}/targets?state=done&limit=2&cursor={}",
        cursor.as_str().unwrap()
    );
    let rest = client.api().get(&rest).await.body;
    assert_eq!(rest["data"].as_array().unwrap().len(), 1);
    assert_eq!(rest["next_cursor"], Value::Null);
    client.fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_paused_resumed_retried_and_aborted() {
    let client = Client::new().await;
    let url = client.fleet.url(&client.fleet.orgs[0]).await;
    // the first wave waits for a lock until it is let go
    let mut holder = hold(&url, "lock table notes").await;
    let only = json!({ "waves": ["1"], "concurrency": 1, "max_failures": "0" });
    let path = client.begin(&only).await;
    let refused = client.api().post("/v1/fleet-runs", &only).await;
    assert_eq!(refused.refusal(), (409, "fleet_run_active"));
    let early = client
        .api()
        .post(&format!("{path}/resume"), &json!({}))
        .await;
    assert_eq!(early.refusal(), (409, "fleet_run_wrong_state"));

    assert_eq!(client.act(&path, "pause").await["state"], "paused");
    let again = client
        .api()
        .post(&format!("{path}/pause"), &json!({}))
        .await;
    assert_eq!(again.refusal(), (409, "fleet_run_wrong_state"));
    holder.release().await;
    client.is(&path, "paused").await;
    client.act(&path, "resume").await;
    client.is(&path, "done").await;

    let blocked = client.breaks_the_first().await;
    let failing = json!({ "selection": { "tenants": [blocked.id] } });
    let path = client.begin(&failing).await;
    let failed = client.is(&path, "failed").await;
    assert_eq!(failed["counts"]["failed"], 1, "{failed}");
    let target = client
        .api()
        .get(&format!("{path}/targets?state=failed"))
        .await
        .body;
    assert_eq!(
        target["data"][0]["error_code"], "migration_failed",
        "{target}"
    );
    execute(&url, "alter table notes drop column tags").await;
    client.act(&path, "retry").await;
    let over = client.is(&path, "done").await;
    assert_eq!(over["counts"]["done"], 1, "{over}");
    let done = client.fleet.app.ask::<i64>("select count(*) from audit_log where target_kind = 'fleet_run' and actor_kind = 'key' and request_id is not null");
    assert!(done.await >= 5);
    client.fleet.app.stop().await;
}

/// One slot records the failure in the moment in which the others find nothing more to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_a_failed_target_never_ends_as_done() {
    let client = Client::new().await;
    let path = client.begin(&json!({})).await;
    client.is(&path, "done").await;
    let broken = client.breaks_the_first().await;
    let failing = json!({ "selection": { "tenants": [broken.id] } });
    let path = client.begin(&failing).await;
    for time in 0..20 {
        let over = wait_for("the run is over", async || {
            let run = client.api().get(&path).await.body;
            (!run["finished_at"].is_null()).then_some(run)
        })
        .await;
        assert_eq!(over["state"], "failed", "{time}: {over}");
        client.act(&path, "retry").await;
    }
    client.is(&path, "failed").await;
    client.fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_first_wave_failed_goes_on_without_it_when_it_is_resumed() {
    let client = Client::new().await;
    let by_hand = "alter table notes add column tags text";
    client.fleet.sql(&client.fleet.orgs[0], by_hand).await;
    let path = client.begin(&json!({ "waves": ["1"] })).await;
    let stopped = client.is(&path, "failed").await;
    assert_eq!(stopped["failure"]["code"], "fleet_wave_failed");
    assert_eq!(stopped["counts"]["pending"], 2);

    // a pause that came before the failure was counted is no word about it
    let paused = "update fleet_runs set state = 'paused', failure = null, finished_at = null";
    execute(&client.fleet.app.deployment.control_url, paused).await;
    client.act(&path, "resume").await;
    let stopped = client.is(&path, "failed").await;
    assert_eq!(stopped["failure"]["code"], "fleet_wave_failed");

    client.act(&path, "resume").await;
    let over = client.is(&path, "failed").await;
    assert_eq!(over["failure"]["code"], "fleet_targets_failed");
    assert_eq!(
        (&over["counts"]["done"], &over["counts"]["failed"]),
        (&json!(2), &json!(1))
    );
    client.fleet.app.stop().await;
}

/// What a slot gives back in the moment in which the run is aborted does not wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_in_an_aborted_run() {
    let client = Client::new().await;
    let path = client.begin(&json!({})).await;
    let over = client.is(&path, "done").await;
    let id = over["id"].as_str().unwrap();
    let control = &client.fleet.app.deployment.control_url;
    let given_back = format!(
        "update fleet_runs set state = 'aborted' where id = '{id}';
         update fleet_targets set state = 'pending', finished_at = null where run = '{id}';
         insert into jobs (kind, payload, unique_key, max_attempts)
         values ('migrate_fleet', '{{\"kind\": \"migrate_fleet\", \"run\": \"{id}\", \"slot\": 0}}', 'its slot', 5)"
    );
    execute(control, &given_back).await;
    wait_until("all are skipped", async || {
        let run = client.api().get(&path).await.body;
        run["counts"]["skipped"] == 3
    })
    .await;
    client.fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_a_run_is_put_first_and_nobody_else() {
    let client = Client::new().await;
    let [busy, next, asked] = client.fleet.tenants().await;
    let mut holder = hold(
        &client.fleet.app.deployment.url(&busy.database),
        "lock table notes",
    )
    .await;
    let path = client
        .begin(&json!({ "waves": ["1"], "concurrency": 1 }))
        .await;
    wait_for("the first one is under way", async || {
        let run = client.api().get(&path).await.body;
        (run["counts"]["running"] == 1).then_some(())
    })
    .await;
    client.gauges_say("pending 2, running 1").await;
    let first = format!("{path}/first");
    let put = client
        .api()
        .post(&first, &json!({ "tenant": asked.id }))
        .await;
    assert_eq!((put.status, &put.body["state"]), (200, &json!("running")));
    let refused = client
        .api()
        .post(&first, &json!({ "tenant": busy.id }))
        .await;
    assert_eq!(refused.refusal(), (409, "fleet_target_not_waiting"));
    for wrong in [
        json!({}),
        json!({ "tenant": "acme" }),
        json!({ "tenant": asked.id, "at": 1 }),
    ] {
        let refused = client.api().post(&first, &wrong).await;
        assert_eq!(refused.refusal(), (400, "parameter_invalid"), "{wrong}");
    }
    holder.release().await;
    client.is(&path, "done").await;
    // of the run that has not ended, and there is none
    client.gauges_say("").await;
    let began = async |tenant: &Tenant| {
        let sql = format!(
            "select extract(epoch from started_at)::float8 from fleet_targets where tenant = '{}'",
            tenant.id
        );
        client.fleet.app.ask::<f64>(&sql).await
    };
    assert!(began(&asked).await < began(&next).await);
    let late = client
        .api()
        .post(&first, &json!({ "tenant": asked.id }))
        .await;
    assert_eq!(late.refusal(), (409, "fleet_run_wrong_state"));
    let nobody = "/v1/fleet-runs/00000000-0000-0000-0000-000000000000/first";
    let unknown = client
        .api()
        .post(nobody, &json!({ "tenant": asked.id }))
        .await;
    assert_eq!(unknown.refusal(), (404, "fleet_run_unknown"));
    let noted = "select after ->> 'tenant' from audit_log where action = 'fleet_target.put_first' and actor_kind = 'key'";
    assert_eq!(
        client.fleet.app.ask::<String>(noted).await,
        asked.id.to_string()
    );
    client.fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_run_is_refused_and_nobody_begins_one_without_the_scope() {
    let client = Client::new().await;
    let read = client
        .fleet
        .app
        .as_bearer(&client.fleet.app.key(&[Scope::FleetRead]).await);
    let others = [Scope::TenantsWrite, Scope::EventsWrite, Scope::TenantsRead];
    let others = client
        .fleet
        .app
        .as_bearer(&client.fleet.app.key(&others).await);
    for other in [&read, &others] {
        let refused = other.post("/v1/fleet-runs", &json!({})).await;
        assert_eq!(refused.refusal(), (403, "scope_missing"));
    }
    let refused = others.get("/v1/fleet-runs").await;
    assert_eq!(refused.refusal(), (403, "scope_missing"));
    for wrong in [
        json!({ "concurrency": 0 }),
        json!({ "concurrency": 257 }),
        json!({ "waves": ["half"] }),
        json!({ "waves": vec!["1"; 101] }),
        json!({ "max_failures": "101%" }),
        json!({ "max_failures": 3 }),
        json!({ "to": "" }),
        json!({ "to": "a\u{0}" }),
        json!({ "selection": { "labels": { "k": "a\u{0}" } } }),
        json!({ "selection": { "labels": { "K": "v" } } }),
        json!({ "selection": { "tenants": ["acme"] } }),
        json!({ "select": {} }),
    ] {
        let refused = client.api().post("/v1/fleet-runs", &wrong).await;
        assert_eq!(refused.refusal(), (400, "parameter_invalid"), "{wrong}");
    }
    assert_eq!(
        client
            .fleet
            .app
            .ask::<i64>("select count(*) from fleet_runs")
            .await,
        0
    );

    let nobody = "/v1/fleet-runs/00000000-0000-0000-0000-000000000000";
    for rest in ["", "/targets", "/events"] {
        let refused = client.api().get(&format!("{nobody}{rest}")).await;
        assert_eq!(refused.refusal(), (404, "fleet_run_unknown"), "{rest}");
    }
    for verb in ["pause", "resume", "retry", "abort"] {
        let refused = client
            .api()
            .post(&format!("{nobody}/{verb}"), &json!({}))
            .await;
        assert_eq!(refused.refusal(), (404, "fleet_run_unknown"), "{verb}");
    }
    let labelled = json!({ "selection": { "labels": { "tier": "gold" } }, "dry_run": false });
    let path = client.begin(&labelled).await;
    let none = client.is(&path, "done").await;
    assert_eq!(none["counts"]["done"], 0, "zero tenants is success");
    let late = client
        .api()
        .post(&format!("{path}/abort"), &json!({}))
        .await;
    assert_eq!(late.refusal(), (409, "fleet_run_wrong_state"));
    client.fleet.app.stop().await;
}

/// Whether a text may be there, as the description says it.
fn described(part: &str) -> impl Fn(&str) -> bool + use<> {
    let document = serde_json::to_value(tenantry::http::document()).unwrap();
    let pointer = format!("/components/schemas/{part}");
    let mut schema = document.pointer(&pointer).unwrap();
    while let Some(reference) = schema["$ref"].as_str() {
        schema = document.pointer(&reference[1..]).unwrap();
    }
    let pattern = Regex::new(schema["pattern"].as_str().unwrap_or_default()).unwrap();
    let bound = |name: &str, otherwise| schema[name].as_u64().unwrap_or(otherwise);
    let lengths = bound("minLength", 0)..=bound("maxLength", u64::MAX);
    move |text| pattern.is_match(text) && lengths.contains(&(text.chars().count() as u64))
}

fn labelled(key: &str, value: &str) -> Value {
    json!({ "selection": { "labels": { "nobody": "has this", (key): value } } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_refused_where_its_description_says_so_and_nowhere_else() {
    let client = Client::new().await;
    let portions = "|%|0|5|007|10%|0%|00%|100%|099%|101%|999%|1000%|-1|+1| 1|1 |1 %|1%%|1.5|1\n|٣|999999999|99999999999";
    let portions: Vec<String> = portions.split('|').map(str::to_owned).collect();
    let texts = ["", "8", " ", "0008_a", "a\0", "a\n", "a\u{7f}", "a\u{85}"];
    let long = [255, 256].map(|count| "ä".repeat(count));
    let texts = [&texts.map(str::to_owned)[..], &long].concat();
    let keys = ["", "k", "K", "a_b.c-9", "ä", "a b", "k\n"];
    let long = [63, 64].map(|count| "a".repeat(count));
    let keys = [&keys.map(str::to_owned)[..], &long].concat();
    is_true(
        "NewFleetRun/properties/to",
        &client,
        &texts,
        |to| json!({ "to": to }),
    )
    .await;
    let waves = "NewFleetRun/properties/waves/items";
    is_true(waves, &client, &portions, |wave| json!({ "waves": [wave] })).await;
    let most = "NewFleetRun/properties/max_failures/oneOf/0";
    let body = |most: &str| json!({ "max_failures": most });
    is_true(most, &client, &portions, body).await;
    let key = "Selection/properties/labels/propertyNames";
    is_true(key, &client, &keys, |key| labelled(key, "")).await;
    let value = "Selection/properties/labels/additionalProperties";
    is_true(value, &client, &texts, |value| labelled("k", value)).await;
    client.fleet.app.stop().await;
}

/// A run with one of these texts is refused if and only if this part of the description says so.
async fn is_true(part: &str, client: &Client, texts: &[String], body: impl Fn(&str) -> Value) {
    let is_described = described(part);
    for text in texts {
        // one that is taken may be refused for the one before, which has not ended
        let answer = client.api().post("/v1/fleet-runs", &body(text)).await;
        let is_taken = answer.status != 400;
        assert_eq!(is_described(text), is_taken, "{part}: {text:?}");
    }
}
