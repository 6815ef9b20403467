//! Idempotency keys: one effect and one answer, whatever is sent how often.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgConnection;
use tenantry::{
    faults::Faults,
    idempotency::{self, Begun, Error},
    provisioning::BlueprintSource,
    retention::{self, Due, Kind},
};

use crate::support::{App, Deployment, cluster::execute};

async fn quiet() -> App {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__DATABASE__MAX_CONNECTIONS", "40");
    let app = App::listening(deployment, BlueprintSource::Bundled).await;
    app.replica.migrate().await.unwrap();
    let table = "create table effects (id bigint generated always as identity, made_by text)";
    let make = async |connection: &mut PgConnection| sqlx::raw_sql(table).execute(connection).await;
    app.replica.db.run(make).await.unwrap();
    app
}

/// A request of `principal` that leaves one row and answers with its number.
async fn request(
    app: &App,
    (principal, key): (&str, &str),
    body: &Value,
) -> Result<(u16, Value), Error> {
    let fingerprint = idempotency::fingerprint("POST", "/v1/things", body);
    let work = async |tx: &mut PgConnection| {
        if let Begun::Replay { status, body } =
            idempotency::begin(tx, principal, key, &fingerprint).await?
        {
            return Ok((status, body));
        }
        let insert = "insert into effects (made_by) values ($1) returning id";
        let id: i64 = sqlx::query_scalar(insert)
            .bind(principal)
            .fetch_one(&mut *tx)
            .await?;
        // long enough that the others come meanwhile
        tokio::time::sleep(Duration::from_millis(100)).await;
        if body["fails"] == true {
            return Err(Error::Sql(sqlx::Error::RowNotFound));
        }
        let answer = json!({ "id": id, "of": principal, "text": "zoë \"x\" 1.50" });
        idempotency::finish(tx, principal, key, 201, &answer).await?;
        Ok((201, answer))
    };
    app.replica.db.transaction(work).await
}

async fn effects(app: &App) -> i64 {
    app.ask("select count(*) from effects").await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_32_requests_in_one_instant_one_is_done_and_all_are_answered_alike() {
    let app = quiet().await;
    let body = json!({ "name": "Acme" });
    let requests = (0..32).map(|_| request(&app, ("key:1", "k"), &body));
    let answers = futures_util::future::join_all(requests).await;
    let first = answers[0].as_ref().unwrap();
    for answer in &answers {
        assert_eq!(answer.as_ref().unwrap(), first);
    }
    assert_eq!(effects(&app).await, 1);
    // another principal's key of the same name is another key
    request(&app, ("key:2", "k"), &body).await.unwrap();
    assert_eq!(effects(&app).await, 2);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_for_something_else_is_refused_also_in_the_same_instant() {
    let app = quiet().await;
    let (one, other) = (json!({ "name": "Acme" }), json!({ "name": "Bolt" }));
    let (first, second) = tokio::join!(
        request(&app, ("p", "k"), &one),
        request(&app, ("p", "k"), &other)
    );
    let refused = [first, second].into_iter().filter_map(Result::err);
    let codes: Vec<_> = refused.map(|error| error.code()).collect();
    assert_eq!(codes, ["idempotency_key_reused"]);
    assert_eq!(effects(&app).await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_failed_leaves_no_key_behind() {
    let app = quiet().await;
    let failed = request(&app, ("p", "k"), &json!({ "fails": true })).await;
    assert!(matches!(failed, Err(Error::Sql(_))));
    let (status, _) = request(&app, ("p", "k"), &json!({ "fails": false }))
        .await
        .unwrap();
    assert_eq!((status, effects(&app).await), (201, 1));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_too_long_for_the_first_request_is_told_so() {
    let app = quiet().await;
    let db = &app.replica.db;
    let (begun, ended) = tokio::sync::oneshot::channel::<()>();
    let first = db.transaction(async |tx| {
        idempotency::begin(tx, "p", "k", &[1; 32]).await?;
        let limit: String = sqlx::query_scalar("show lock_timeout")
            .fetch_one(&mut *tx)
            .await?;
        assert_eq!(limit, "10s", "the limit was for the key alone");
        begun.send(()).unwrap();
        tokio::time::sleep(Duration::from_secs(6)).await;
        idempotency::finish(tx, "p", "k", 200, &json!({})).await?;
        Ok::<_, Error>(())
    });
    let second = async {
        ended.await.unwrap();
        db.transaction(async |tx| idempotency::begin(tx, "p", "k", &[1; 32]).await)
            .await
    };
    let (first, second) = tokio::join!(first, second);
    first.unwrap();
    assert_eq!(second.unwrap_err().code(), "idempotency_key_in_use");
    let third = db
        .transaction(async |tx| idempotency::begin(tx, "p", "k", &[1; 32]).await)
        .await;
    assert_eq!(
        third.unwrap(),
        Begun::Replay {
            status: 200,
            body: json!({})
        }
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_deleted_when_its_time_is_over_and_not_before() {
    let app = quiet().await;
    let body = json!({ "name": "Acme" });
    for key in ["old", "young"] {
        request(&app, ("p", key), &body).await.unwrap();
    }
    // many more than are deleted at once
    let many = "insert into idempotency_keys (principal, key, fingerprint, status, body)
                select 'q', n::text, '', 200, '{}' from generate_series(1, 2500) as n";
    let age = "update idempotency_keys
               set created_at = now() - interval '7 days 1 minute'
               where key <> 'young'";
    let almost = "update idempotency_keys
                  set created_at = now() - interval '6 days 23 hours'
                  where key = 'young'";
    for sql in [many, age, almost] {
        execute(&app.deployment.control_url, sql).await;
    }
    let week = Duration::from_hours(7 * 24);
    let due = [Due {
        kind: Kind::IdempotencyKeys,
        age: week,
    }];
    let prune = async || {
        let (to, mut keys) = ((&app.replica.db, &Faults::default()), 0);
        let done = retention::prune(to, &due, || true, |_, rows| keys += rows);
        assert!(done.await.unwrap());
        keys
    };
    let (one, other) = tokio::join!(prune(), prune());
    assert_eq!(one + other, 2501);
    assert_eq!(prune().await, 0);

    // the young one is answered as before, the old one is a new key
    request(&app, ("p", "young"), &body).await.unwrap();
    assert_eq!(effects(&app).await, 2);
    request(&app, ("p", "old"), &body).await.unwrap();
    assert_eq!(effects(&app).await, 3);
    app.stop().await;
}
