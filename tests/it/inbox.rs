//! The inbox: every event once, whatever its sender does; nothing that is not signed.

use chrono::TimeDelta;
use futures_util::{future::join_all, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use serde_json::{Value, json};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{SECRET, bytes, deliver, exchange, new_org, now, post, signed},
    events,
};

const PATH: &str = "/webhooks/workos";

async fn app() -> (App, TinyBlueprint) {
    let blueprint = TinyBlueprint::new();
    (
        App::of(Deployment::new().await, blueprint.source()).await,
        blueprint,
    )
}

impl App {
    async fn events(&self) -> i64 {
        self.ask("select count(*) from webhook_events").await
    }

    async fn event(&self, column: &str, event: &Value) -> String {
        let id = event["id"].as_str().unwrap();
        let sql = format!("select {column}::text from webhook_events where event_id = '{id}'");
        self.ask(&sql).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_fifty_times_at_two_replicas_is_one_row_and_one_tenant() {
    let (app, blueprint) = app().await;
    let other = App::of(app.deployment.clone(), blueprint.source()).await;
    let org = new_org();
    let event = events::created(&org, "Acme");

    let deliveries = (0..50).map(|at| {
        let replica = if at % 2 == 0 { &app } else { &other };
        replica.deliver(&event)
    });
    let answers = join_all(deliveries).await;

    let statuses: Vec<_> = answers
        .iter()
        .map(|answer| answer.body["status"].as_str().unwrap())
        .collect();
    assert!(answers.iter().all(|answer| answer.status == 200));
    let accepted = statuses.iter().filter(|status| **status == "accepted");
    assert_eq!(accepted.count(), 1, "{statuses:?}");
    assert_eq!(app.events().await, 1);
    assert_eq!(app.event("deliveries", &event).await, "50");
    app.tenant(&org).is_ready().await;
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 1);
    assert_eq!(app.deployment.tenant_databases().await, 1);
    app.is_idle().await;
    app.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_events_at_two_replicas_in_any_order_are_each_recorded_once() {
    let (app, blueprint) = app().await;
    let other = App::of(app.deployment.clone(), blueprint.source()).await;
    let all: Vec<_> = (0..100)
        .map(|_| json!({"id": format!("event_{:x}", rand::random::<u64>()), "event": "x.y", "data": {}}))
        .collect();
    // the two replicas record the same groups from opposite ends: the worst case for locks
    let forward = all.iter().map(|event| app.deliver(event));
    let backward = all.iter().rev().map(|event| other.deliver(event));

    let (forward, backward) = tokio::join!(join_all(forward), join_all(backward));

    let answers = forward.iter().chain(&backward);
    assert!(answers.clone().all(|answer| answer.status == 200));
    let new = answers.filter(|answer| answer.body["status"] == "ignored");
    assert_eq!(new.count(), 100);
    assert_eq!(app.events().await, 100);
    let delivered = "select sum(deliveries) from webhook_events";
    assert_eq!(app.ask::<i64>(delivered).await, 200);
    app.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_body_under_a_known_id_is_kept_and_never_processed() {
    let (app, _blueprint) = app().await;
    let (org, forged) = (new_org(), new_org());
    let event = events::created(&org, "Acme");
    let mut other = events::created(&forged, "Mallory");
    other["id"] = event["id"].clone();

    app.accepts(&[&event]).await;
    for _ in 0..2 {
        let answer = app.deliver(&other).await;
        assert_eq!(
            (answer.status, &answer.body),
            (200, &json!({"status": "conflict"}))
        );
    }

    app.tenant(&org).is_ready().await;
    app.is_idle().await;
    let rows = "select string_agg(concat_ws(' ', state, deliveries, reason), '; ' order by id) from webhook_events";
    assert_eq!(
        app.ask::<String>(rows).await,
        "processed 1; conflict 2 this id was delivered before with another body"
    );
    assert!(app.tenant(&forged).find().await.is_none());
    let kept = "select convert_from(body, 'UTF8') from webhook_events where state = 'conflict'";
    assert_eq!(app.ask::<String>(kept).await, other.to_string());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bodies_of_one_id_at_once_are_one_event_and_one_conflict() {
    let (app, blueprint) = app().await;
    let other = App::of(app.deployment.clone(), blueprint.source()).await;
    for _ in 0..10 {
        let one = json!({"id": format!("event_{:x}", rand::random::<u64>()), "event": "x.y", "data": {"n": 1}});
        let mut two = one.clone();
        two["data"]["n"] = 2.into();
        let deliveries = [(&app, &one), (&other, &two), (&app, &two), (&other, &one)];
        let answers = join_all(deliveries.map(|(at, event)| at.deliver(event))).await;

        let mut statuses: Vec<_> = answers
            .iter()
            .map(|it| it.body["status"].as_str())
            .collect();
        statuses.sort_unstable();
        let expected = ["conflict", "conflict", "duplicate", "ignored"];
        assert_eq!(statuses, expected.map(Some));
    }
    app.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_without_a_meaning_is_kept_and_ignored() {
    let (app, _blueprint) = app().await;
    let org = new_org();
    let mut event = events::created(&org, "Acme");
    event["event"] = "organization.frobnicated".into();

    let answer = app.deliver(&event).await;

    assert_eq!(
        (answer.status, &answer.body),
        (200, &json!({"status": "ignored"}))
    );
    assert_eq!(app.event("state", &event).await, "ignored");
    assert_eq!(app.event("reason", &event).await, "no meaning for tenantry");
    assert!(app.tenant(&org).find().await.is_none());
    assert_eq!(app.ask::<i64>("select count(*) from jobs").await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_and_cannot_be_read_is_kept_with_the_reason() {
    let (app, _blueprint) = app().await;
    let with_id = |id: Value| {
        let mut event = events::created("org_1", "Acme");
        event["id"] = id;
        event.to_string().into_bytes()
    };
    let with_org = |id: Value| {
        let mut event = events::created("org_1", "Acme");
        event["data"]["id"] = id;
        event.to_string().into_bytes()
    };
    let unreadable = [
        (
            b"{\"id\":\"\xff\"}".to_vec(),
            "the body is not UTF-8 from byte 7 on",
        ),
        (
            b"hello".to_vec(),
            "the body is not usable JSON: expected value at line 1 column 1",
        ),
        (b"".to_vec(), "the body is empty"),
        (b"[]".to_vec(), "the body is an array, not an object"),
        (with_id(Value::Null), "the event id is missing"),
        (with_id("".into()), "the event id is empty"),
        (
            with_id("a\0b".into()),
            "the event id contains the control character U+0000",
        ),
        (with_org(Value::Null), "the organization id is missing"),
        (with_org("".into()), "the organization id is empty"),
        (
            with_org("x".repeat(10_240).into()),
            "the organization id is 10240 bytes long; at most 255 are accepted",
        ),
    ];
    for (body, reason) in &unreadable {
        // a sender that tries again gets the same answer and makes no second row
        for status in ["failed", "duplicate"] {
            let answer = app.deliver_bytes(body).await;
            assert_eq!(
                (answer.status, &answer.body["status"]),
                (200, &status.into()),
                "{reason}"
            );
        }
        let sql = format!(
            "select count(*) from webhook_events where state = 'failed' and deliveries = 2 and reason = '{reason}'"
        );
        assert_eq!(app.ask::<i64>(&sql).await, 1, "{reason}");
    }
    let rows = i64::try_from(unreadable.len()).unwrap();
    assert_eq!(app.events().await, rows);
    assert_eq!(app.ask::<i64>("select count(*) from jobs").await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_not_trusted_leaves_nothing_and_learns_nothing() {
    let (app, _blueprint) = app().await;
    let body = events::created(&new_org(), "Acme").to_string().into_bytes();
    let minutes = TimeDelta::minutes;
    let mut changed = body.clone();
    changed.push(b' ');
    let refused = [
        ("another secret", signed("whsec_other", now(), &body), &body),
        ("a changed body", signed(SECRET, now(), &body), &changed),
        ("too old", signed(SECRET, now() - minutes(6), &body), &body),
        ("too new", signed(SECRET, now() + minutes(6), &body), &body),
    ];
    let mut answers = Vec::new();
    for (what, headers, body) in refused {
        let answer = post(app.address, PATH, &headers, body.clone()).await;
        assert_eq!(answer.status, 401, "{what}");
        let mut body = answer.body;
        body["request_id"] = Value::Null;
        answers.push(body);
    }
    assert_eq!(answers[0]["code"], "signature_refused");
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "which of them it was is for our log: {answers:?}"
    );
    assert_eq!(app.events().await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_cannot_be_read_is_a_bad_request() {
    let (app, _blueprint) = app().await;
    let body = events::created(&new_org(), "Acme").to_string().into_bytes();
    let good = signed(SECRET, now(), &body)[0].1.clone();
    let header = |text: &str| vec![("workos-signature", text.to_owned())];
    let malformed = [
        (vec![], "signature_header_missing"),
        (header("nonsense"), "timestamp_missing"),
        (header("t=12"), "signature_missing"),
        (header("t=yesterday, v1=00"), "timestamp_invalid"),
        (
            [header(&good), header(&good)].concat(),
            "signature_header_repeated",
        ),
        (
            header(&format!("{good},{}", "x".repeat(1024))),
            "signature_header_too_long",
        ),
    ];
    for (headers, code) in malformed {
        let answer = post(app.address, PATH, &headers, body.clone()).await;
        assert_eq!((answer.status, &answer.body["code"]), (400, &code.into()));
    }
    assert_eq!(app.events().await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_one_mebibyte_is_too_large_whether_its_length_is_told_or_not() {
    let (app, _blueprint) = app().await;
    let body = |size: usize| {
        let mut event = events::created(&new_org(), "Acme").to_string().into_bytes();
        event.resize(size, b' ');
        event
    };
    let (fits, large) = (body(1 << 20), body((1 << 20) + 1));
    assert_eq!(app.deliver_bytes(&fits).await.status, 200);

    let headers = signed(SECRET, now(), &large);
    let chunks: Vec<_> = large
        .chunks(1 << 16)
        .map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk))))
        .collect();
    let chunked = StreamBody::new(stream::iter(chunks)).boxed();
    for body in [bytes(large), chunked] {
        let answer = exchange(app.address, "POST", PATH, &headers, body).await;
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (413, &"body_too_large".into())
        );
    }
    assert_eq!(app.events().await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_content_type_does_not_matter() {
    let (app, _blueprint) = app().await;
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/json; charset=utf-7"),
        Some("?"),
    ] {
        let body = json!({"id": format!("event_{content_type:?}"), "event": "x.y", "data": {}});
        let body = body.to_string().into_bytes();
        let mut headers = signed(SECRET, now(), &body);
        headers.extend(content_type.map(|value| ("content-type", value.to_owned())));
        assert_eq!(post(app.address, PATH, &headers, body).await.status, 200);
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_source_with_a_secret_is_routed() {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__SOURCES__BARE__KIND", "workos");
    deployment.set("TENANTRY__SOURCES__BLANK__KIND", "workos");
    deployment.set("TENANTRY__SOURCES__BLANK__SECRETS", "");
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment, blueprint.source()).await;
    let body = events::created(&new_org(), "Acme").to_string().into_bytes();
    for source in ["bare", "blank", "unknown", "workos/../workos", ""] {
        let headers = signed("", now(), &body);
        let path = format!("/webhooks/{source}");
        let answer = post(app.address, &path, &headers, body.clone()).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (404, &"not_found".into()),
            "{source}"
        );
    }
    assert_eq!(app.get(PATH).await.status, 405);
    assert_eq!(app.events().await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_secrets_rotate_both_sign() {
    let mut deployment = Deployment::new().await;
    deployment.set("WORKOS_WEBHOOK_SECRET", "whsec_new,whsec_old");
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment, blueprint.source()).await;
    for (secret, status) in [("whsec_old", 200), ("whsec_new", 200), ("whsec_older", 401)] {
        let body = events::created(&new_org(), secret).to_string().into_bytes();
        let headers = signed(secret, now(), &body);
        assert_eq!(
            post(app.address, PATH, &headers, body).await.status,
            status,
            "{secret}"
        );
    }
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_around_the_commit_loses_nothing() {
    let blueprint = TinyBlueprint::new();
    for point in ["inbox.before", "inbox.recorded"] {
        let deployment = Deployment::new()
            .await
            .with_fault(&format!("{point}=error"));
        let app = App::of(deployment, blueprint.source()).await;
        let org = new_org();
        let answer = deliver(app.address, &events::created(&org, "Acme")).await;
        assert_eq!(answer.status, 200, "{point}");
        assert!(app.replica.provisioner.faults.was_hit(point));
        app.tenant(&org).is_ready().await;
        assert_eq!(app.events().await, 1, "{point}");
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_that_never_end_keep_no_proper_delivery_out() {
    use tokio::io::AsyncWriteExt;
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let head = "POST /webhooks/workos HTTP/1.1\r\nhost: localhost\r\nworkos-signature: t=1, v1=aa\r\ncontent-length: 1000000\r\n\r\n";
    let mut unfinished = Vec::new();
    for _ in 0..40 {
        let mut stream = tokio::net::TcpStream::connect(app.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // more than is read of those that have to wait; the rest never comes
        let _ = stream.try_write(&vec![b'x'; 200_000]);
        unfinished.push(stream);
    }
    app.accepts(&[&events::created(&new_org(), "Acme")]).await;
    drop(unfinished);
    let mut large = events::created(&new_org(), "Large");
    large["data"]["metadata"]["note"] = "x".repeat(900_000).into();
    app.accepts(&[&large]).await;
    app.stop().await;
}
