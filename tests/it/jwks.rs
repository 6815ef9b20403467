//! An issuer's keys: fetched rarely, kept through outages, rotated in time, and of one issuer only.

use std::{future::Future, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tenantry::{
    auth::{Issuers, Pace, TokenError},
    metrics::Metrics,
    shutdown::Tasks,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::support::{
    issuer::{Issuer, Mode, jwks},
    process::tenantry,
    signer::{Signer, issuers_at},
};

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_794_819_601, 0).unwrap()
}

fn claims(iss: &str) -> Value {
    json!({"iss": iss, "sub": "user_1", "sid": "sess_1", "exp": now().timestamp() + 600})
}

fn lines(name: &str, iss: &str, issuer: &Issuer) -> String {
    format!(
        "[issuers.{name}]\nkind = \"clerk\"\nsource = \"main\"\nissuer = \"{iss}\"\njwks_url = \"{}\"\n",
        issuer.url()
    )
}

/// Issuers whose keys are kept fresh while this lives.
struct Kept {
    issuers: Issuers,
    metrics: Metrics,
    tasks: Tasks,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.tasks.stop_now();
    }
}

impl Kept {
    fn start(pace: Pace, lines: &str) -> Self {
        let (issuers, metrics) = issuers_at(pace, lines);
        let tasks = Tasks::new();
        issuers.spawn_refresh(&tasks);
        Self {
            issuers,
            metrics,
            tasks,
        }
    }

    /// "accepted", or the code of the refusal.
    async fn verdict(&self, token: &str) -> &'static str {
        let verdict = self.issuers.authenticate(token, now()).await;
        verdict.map_or_else(|error| error.code(), |_| "accepted")
    }

    /// A line of the metrics' text begins so.
    fn shows(&self, line: &str) -> bool {
        self.metrics.render().unwrap().contains(line)
    }
}

/// A pace at which tests can wait.
const QUICK: Pace = Pace {
    min_interval: Duration::from_millis(300),
    refresh_after: Duration::from_mins(10),
    stale_for: Duration::from_mins(10),
    fetch_timeout: Duration::from_millis(500),
};

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waited = timeout(Duration::from_secs(10), async {
        while !holds().await {
            sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

/// Whether it is there at once, without a step in between.
async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let limit = timeout(Duration::from_millis(250), future);
    limit.await.ok()
}

#[tokio::test]
async fn ten_thousand_unknown_keys_cost_one_fetch() {
    let signer = Signer::first("k1");
    let issuer = Issuer::start(&[signer.jwk()]).await;
    let kept = Kept::start(Pace::default(), &lines("clerk", "us", &issuer));
    let good = signer.token(&claims("us"));
    assert_eq!(kept.verdict(&good).await, "accepted");

    let signature = good.rsplit('.').next().unwrap();
    let mut asking = JoinSet::new();
    for at in 0..10_000 {
        let header = json!({"alg": "RS256", "kid": format!("k{:x}", rand::random::<u64>())});
        let token = if at % 2 == 0 {
            let part = |value: &Value| base64_of(&value.to_string());
            format!("{}.{}.{signature}", part(&header), part(&claims("us")))
        } else {
            // as many of a key that is known, none of which waits
            good.clone()
        };
        let issuers = kept.issuers.clone();
        asking.spawn(async move {
            let verdict = issuers.authenticate(&token, now()).await;
            (
                at,
                verdict.map_or_else(|error| error.code(), |_| "accepted"),
            )
        });
    }
    while let Some(ended) = asking.join_next().await {
        let (at, verdict) = ended.unwrap();
        let expected = ["token_key_unknown", "accepted"][at % 2];
        assert_eq!(verdict, expected);
    }
    assert_eq!(issuer.fetches(), 1);
    assert!(kept.shows("tenantry_jwks_refreshes_total{issuer=\"clerk\",result=\"ok\"} 1"));
    assert!(kept.shows("tenantry_jwks_age_seconds{issuer=\"clerk\"} "));
}

fn base64_of(text: &str) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(text)
}

#[tokio::test]
async fn a_storm_while_the_issuer_is_away_is_one_fetch_as_well() {
    let (first, other) = (Signer::first("k1"), Signer::other("k2"));
    let issuer = Issuer::start(&[]).await;
    issuer.answers(Mode::Late(Duration::from_millis(100), b"nothing".to_vec()));
    let kept = Kept::start(Pace::default(), &lines("clerk", "us", &issuer));
    let tokens = [first.token(&claims("us")), other.token(&claims("us"))];
    let mut asking = JoinSet::new();
    for at in 0..1000 {
        let (issuers, token) = (kept.issuers.clone(), tokens[at % 2].clone());
        asking.spawn(async move { issuers.authenticate(&token, now()).await.unwrap_err() });
    }
    while let Some(ended) = asking.join_next().await {
        let error = ended.unwrap();
        assert_eq!(error.code(), "issuer_unavailable");
        assert!(error.is_unavailable());
        assert!((1..=30).contains(&error.retry_after_s()), "{error:?}");
    }
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn known_keys_outlive_an_outage_for_a_while() {
    let (first, other) = (Signer::first("k1"), Signer::other("k2"));
    let issuer = Issuer::start(&[first.jwk()]).await;
    let pace = Pace {
        refresh_after: Duration::from_millis(300),
        stale_for: Duration::from_secs(3),
        ..QUICK
    };
    let kept = Kept::start(pace, &lines("clerk", "us", &issuer));
    assert_eq!(kept.verdict(&first.token(&claims("us"))).await, "accepted");
    issuer.answers(Mode::Cut);
    let since = Instant::now();
    until("a failed refresh", async || kept.shows("result=\"failed\"")).await;

    // one that was verified before, and one that was not
    let (again, mut fresh) = (first.token(&claims("us")), claims("us"));
    fresh["sub"] = json!("user_2");
    assert_eq!(kept.verdict(&again).await, "accepted");
    let verdict = at_once(kept.verdict(&first.token(&fresh))).await;
    assert_eq!(verdict, Some("accepted"), "who is known does not wait");
    assert_eq!(
        kept.verdict(&other.token(&claims("us"))).await,
        "issuer_unavailable"
    );

    // not for ever, and no longer for what was verified before
    sleep(Duration::from_millis(3300).saturating_sub(since.elapsed())).await;
    assert_eq!(kept.verdict(&again).await, "issuer_unavailable");
    issuer.has_keys(&[first.jwk()]);
    until("accepted again", async || {
        kept.verdict(&again).await == "accepted"
    })
    .await;
}

#[tokio::test]
async fn a_new_key_is_found_and_an_old_one_ends() {
    let (old, new) = (Signer::first("k1"), Signer::other("k2"));
    let issuer = Issuer::start(&[old.jwk()]).await;
    let kept = Kept::start(QUICK, &lines("clerk", "us", &issuer));
    let (old_token, new_token) = (old.token(&claims("us")), new.token(&claims("us")));
    assert_eq!(kept.verdict(&old_token).await, "accepted");
    issuer.has_keys(&[new.jwk()]);
    let soon = at_once(kept.verdict(&new_token)).await;
    assert_eq!(
        soon,
        Some("token_key_unknown"),
        "too soon to ask, or to wait"
    );
    assert_eq!(issuer.fetches(), 1);
    sleep(QUICK.min_interval).await;
    assert_eq!(kept.verdict(&new_token).await, "accepted");
    assert_eq!(
        kept.verdict(&old_token).await,
        "token_key_unknown",
        "although it was remembered"
    );
    assert_eq!(issuer.fetches(), 2);

    // the same name for another key ends what the first one signed
    sleep(QUICK.min_interval).await;
    issuer.has_keys(&[Signer::first("k2").jwk()]);
    assert_eq!(kept.verdict(&old_token).await, "token_key_unknown");
    assert_eq!(kept.verdict(&new_token).await, "token_refused");
}

#[tokio::test]
async fn keys_are_refreshed_without_being_asked_for() {
    let (old, new) = (Signer::first("k1"), Signer::other("k2"));
    let issuer = Issuer::start(&[old.jwk()]).await;
    let pace = Pace {
        refresh_after: Duration::from_millis(400),
        ..QUICK
    };
    let kept = Kept::start(pace, &lines("clerk", "us", &issuer));
    assert_eq!(kept.verdict(&old.token(&claims("us"))).await, "accepted");
    issuer.has_keys(&[old.jwk(), new.jwk()]);
    until("a second fetch", async || kept.shows("result=\"ok\"} 2")).await;
    let verdict = at_once(kept.verdict(&new.token(&claims("us")))).await;
    assert_eq!(verdict, Some("accepted"));
}

#[tokio::test]
async fn a_fetch_goes_on_when_whoever_wanted_it_goes_away() {
    let (old, new) = (Signer::first("k1"), Signer::other("k2"));
    let issuer = Issuer::start(&[old.jwk()]).await;
    let pace = Pace {
        min_interval: Duration::from_secs(1),
        fetch_timeout: Duration::from_secs(3),
        ..QUICK
    };
    let kept = Kept::start(pace, &lines("clerk", "us", &issuer));
    assert_eq!(kept.verdict(&old.token(&claims("us"))).await, "accepted");
    sleep(pace.min_interval).await;
    issuer.answers(Mode::Late(Duration::from_millis(300), jwks(&[new.jwk()])));
    let token = new.token(&claims("us"));
    let impatient = timeout(Duration::from_millis(50), kept.verdict(&token)).await;
    assert!(impatient.is_err());
    sleep(Duration::from_millis(500)).await;
    assert_eq!(at_once(kept.verdict(&token)).await, Some("accepted"));
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn an_answer_that_is_no_small_set_is_not_taken() {
    let signer = Signer::first("k1");
    let good = jwks(&[signer.jwk()]);
    let elsewhere = Issuer::start(&[signer.jwk()]).await;
    let mut huge = good.clone();
    huge.extend(vec![b' '; 256 * 1024]);
    let many: Vec<Value> = (0..65)
        .map(|at| Signer::first(&format!("k{at}")).jwk())
        .collect();
    let moved = format!("location: {}\r\n", elsewhere.url());
    let issuer = Issuer::start(&[]).await;
    for (what, mode) in [
        ("a redirect", Mode::Answer(302, moved, good.clone())),
        ("a huge body", Mode::Answer(200, String::new(), huge)),
        ("a slow body", Mode::Drip),
        ("65 keys", Mode::Answer(200, String::new(), jwks(&many))),
        ("not there", Mode::Answer(404, String::new(), good.clone())),
        (
            "a page",
            Mode::Answer(200, String::new(), b"<html>".to_vec()),
        ),
        ("no keys", Mode::Answer(200, String::new(), jwks(&[]))),
        ("too late", Mode::Late(Duration::from_secs(5), good.clone())),
        ("nothing", Mode::Cut),
    ] {
        issuer.answers(mode);
        let kept = Kept::start(QUICK, &lines("clerk", "us", &issuer));
        let verdict = kept.verdict(&signer.token(&claims("us"))).await;
        assert_eq!(verdict, "issuer_unavailable", "{what}");
    }
    assert_eq!(elsewhere.fetches(), 0);
    // 64 keys are fine, also when some are of a type that nobody knows
    let mut keys = many[..63].to_vec();
    keys.push(json!({"kty": "quantum", "kid": "q"}));
    issuer.has_keys(&keys);
    let kept = Kept::start(QUICK, &lines("clerk", "us", &issuer));
    assert_eq!(kept.verdict(&signer.token(&claims("us"))).await, "accepted");
}

#[tokio::test]
async fn two_issuers_with_the_same_kid_do_not_share_keys() {
    let (a, b) = (Signer::first("k1"), Signer::other("k1"));
    let (at_a, at_b) = (
        Issuer::start(&[a.jwk()]).await,
        Issuer::start(&[b.jwk()]).await,
    );
    let both = lines("a", "iss-a", &at_a) + &lines("b", "iss-b", &at_b);
    let kept = Kept::start(Pace::default(), &both);
    for (signer, iss, expected) in [
        (&a, "iss-a", "accepted"),
        (&b, "iss-b", "accepted"),
        (&a, "iss-b", "token_refused"),
        (&b, "iss-a", "token_refused"),
        (&a, "iss-c", "token_refused"),
    ] {
        assert_eq!(
            kept.verdict(&signer.token(&claims(iss))).await,
            expected,
            "{iss}"
        );
    }
    let user = kept
        .issuers
        .authenticate(&b.token(&claims("iss-b")), now())
        .await
        .unwrap();
    assert_eq!((user.issuer.as_str(), user.source.as_str()), ("b", "main"));
}

#[tokio::test]
async fn a_drain_does_not_end_the_refresh() {
    let signer = Signer::first("k1");
    let issuer = Issuer::start(&[signer.jwk()]).await;
    let kept = Kept::start(QUICK, &lines("clerk", "us", &issuer));
    kept.tasks.drain();
    assert_eq!(kept.verdict(&signer.token(&claims("us"))).await, "accepted");
    assert!(
        kept.tasks.finish(Duration::from_secs(5)).await,
        "nothing to wait for"
    );
    let error = kept.issuers.authenticate("", now()).await.unwrap_err();
    assert!(matches!(error, TokenError::Malformed(_)));
}

#[tokio::test]
async fn doctor_says_whether_keys_can_be_had() {
    let signer = Signer::first("k1");
    let (good, moved) = (
        Issuer::start(&[signer.jwk()]).await,
        Issuer::start(&[]).await,
    );
    moved.answers(Mode::Answer(301, String::new(), Vec::new()));
    let away = Issuer::start(&[]).await;
    away.answers(Mode::Cut);
    let directory = tempfile::tempdir().unwrap();
    let sections =
        lines("good", "a", &good) + &lines("moved", "b", &moved) + &lines("away", "c", &away);
    let text = format!("[sources.main]\nkind = \"clerk\"\n{sections}");
    std::fs::write(directory.path().join("tenantry.toml"), text).unwrap();
    let mut doctor = tenantry();
    doctor
        .args(["doctor", "--json"])
        .current_dir(directory.path());
    doctor.env("TENANTRY_DEV_DIR", directory.path());
    let output = tokio::task::spawn_blocking(move || doctor.output().unwrap());
    let checks: Vec<Value> = serde_json::from_slice(&output.await.unwrap().stdout).unwrap();
    let of = |issuer: &str| {
        let found = checks.iter().find(|check| {
            let text = check["found"].as_str().unwrap();
            check["name"] == "issuers" && text.starts_with(issuer)
        });
        found.unwrap_or_else(|| panic!("no check of {issuer}: {checks:?}"))
    };
    assert_eq!(of("good")["verdict"], "PASS");
    assert_eq!(of("moved")["verdict"], "FAIL");
    assert!(
        of("moved")["found"]
            .as_str()
            .unwrap()
            .contains("status 301")
    );
    assert_eq!(of("away")["verdict"], "FAIL");
    assert!(
        of("away")["fix"]
            .as_str()
            .unwrap()
            .contains("let this machine reach http://127.0.0.1")
    );
}
