//! A storm of registrations: two replicas die again and again while each key is asked for several times
//! at once, and the provider tells of the same organizations. What clients saw is held against what can be.

mod broken;
mod checker;
mod client;
mod record;
mod weather;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Instant,
};

use futures_util::{StreamExt, stream};
use rand::{SeedableRng, rngs::StdRng};
use secrecy::ExposeSecret;
use tenantry::{
    api_keys::{self, NewKey, Scope},
    db::Db,
};

use self::{
    checker::{check, count_overloads},
    client::{Clients, Plan, Provider},
    record::{Entry, Record, Seen},
    weather::Weather,
};
use crate::support::{
    Deployment, TinyBlueprint,
    app::{operator, wait_until},
    cluster::{ask, shared},
    dice::{number, seed},
    process::Process,
};

/// So many keys are in the air at once.
const CLIENTS: usize = 64;

/// An API key of a sign-up form's server.
async fn credentials(deployment: &Deployment) -> String {
    let db = Db::new(&deployment.config().database.url, 1).unwrap();
    let new = NewKey {
        name: "storm".to_owned(),
        scopes: [Scope::RegistrationsWrite].into_iter().collect(),
        origins: Vec::new(),
        expires_at: None,
    };
    let made = db.transaction(async |tx| api_keys::create(tx, &new, &operator()).await);
    let text = made.await.unwrap().1.expose_secret().to_owned();
    db.close().await;
    text
}

/// What was seen, in numbers.
fn figures(history: &[Entry]) -> String {
    let mut counts = BTreeMap::<String, u64>::new();
    for entry in history {
        let what = match &entry.seen {
            Seen::Invoke(_) => "asked".to_owned(),
            Seen::Registered { status, .. } => format!("registered {status}"),
            Seen::Looked(_) => "looked".to_owned(),
            Seen::Fail { status, code } => format!("{status} {code}"),
            Seen::Trouble { status, .. } => status.to_string(),
            Seen::Broken => "broken".to_owned(),
        };
        *counts.entry(what).or_default() += 1;
    }
    format!("{counts:?}")
}

/// Waits until nothing is left to do.
async fn is_quiet(deployment: &Deployment) {
    let open = "select (select count(*) from webhook_events where state = 'received')
                     + (select count(*) from jobs where state in ('available', 'running') and kind <> 'prune')";
    wait_until("no event and no job is open", async || {
        ask::<i64>(&deployment.control_url, open).await == 0
    })
    .await;
}

/// What must hold when everything is quiet: each key is one registration, one organization, one tenant.
async fn everything_is_there_once(deployment: &Deployment, plans: &[Plan]) {
    let count = |is: fn(Provider) -> bool| plans.iter().filter(|plan| is(plan.provider)).count();
    let (keys, silent) = (plans.len(), count(|it| it == Provider::IsSilent));
    let raced = count(|it| it == Provider::Races);
    let rows = [
        ("registrations", keys),
        ("registrations where state = 'ready'", keys),
        ("registrations where org_id is null", silent),
        ("idempotency_keys", keys),
        ("tenants", keys),
        ("tenants where state = 'ready' and initialize", keys),
        ("organizations", keys),
        ("organizations where org_id like 'reg\\_%'", silent),
        ("webhook_events", keys - silent),
        ("webhook_events where state = 'processed'", keys - silent),
        ("jobs where state = 'dead'", 0),
        ("provisioning_steps where state <> 'done'", 0),
        // the provider's organization, of those that it told of
        (
            "registrations join tenants on tenants.id = tenant_id where tenants.org_id = 'org_' || substring(email from '[0-9]+')",
            keys - silent,
        ),
        (
            "registrations where external_id = 'external-' || substring(email from '[0-9]+')",
            raced,
        ),
        // events are numbered without gaps
        (
            "registrations where last_event <> (select count(*) from registration_events where registration_id = id)",
            0,
        ),
    ];
    for (what, expected) in rows {
        let found: i64 = ask(
            &deployment.control_url,
            &format!("select count(*) from {what}"),
        )
        .await;
        assert_eq!(usize::try_from(found).unwrap(), expected, "{what}");
    }
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    let deadlocks = ask::<i64>(&deployment.control_url, deadlocks).await;
    assert_eq!(deadlocks, 0, "{}", shared().deadlocks());
    let keys = i64::try_from(keys).unwrap();
    assert_eq!(deployment.tenant_databases().await, keys, "databases");
    assert_eq!(deployment.tenant_roles().await, keys, "roles");
}

/// `TENANTRY_TEST_REGISTRATIONS` makes it longer, `TENANTRY_TEST_SEED` repeats one.
#[tokio::test(flavor = "multi_thread")]
async fn what_clients_saw_while_replicas_died_can_be_true_and_every_key_is_one_tenant() {
    let keys = usize::try_from(number("TENANTRY_TEST_REGISTRATIONS", 60)).unwrap();
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let plans: Vec<Plan> = (0..keys).map(|key| Plan::new(key, &mut rng)).collect();
    let blueprint = TinyBlueprint::new();
    let mut deployment = Deployment::new().await;
    deployment.set_blueprint(blueprint.path());
    // each death costs an attempt: on a slow machine some jobs lose many workers, and none is to be given up for it
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "100");
    let processes = [
        Process::start(&deployment, "").await,
        Process::start(&deployment, "").await,
    ];
    for process in &processes {
        process.is_ready().await;
    }

    let begun = Instant::now();
    let (record, weather) = (Record::default(), Weather::over(&processes));
    let is_over = AtomicBool::new(false);
    let clients = Clients {
        weather: &weather,
        record: &record,
        credentials: credentials(&deployment).await,
        numbers: AtomicU64::new(0),
        seed,
    };
    let signing_up = async {
        let sign_ups = stream::iter(&plans);
        sign_ups
            .for_each_concurrent(CLIENTS, |plan| clients.sign_up(plan))
            .await;
        is_over.store(true, Ordering::Relaxed);
    };
    let raging = weather.rage(&deployment, processes, &is_over, seed);
    let (alive, ()) = tokio::join!(raging, signing_up);
    let (took, kills) = (begun.elapsed(), weather.kills());

    let history = record.history();
    let anomalies = check(&history);
    println!(
        "{keys} keys, {kills} kills, {} anomalies in {:.0} s, {} times too much to do: {}",
        anomalies.len(),
        took.as_secs_f64(),
        count_overloads(&history),
        figures(&history)
    );
    let shown = anomalies.iter().take(20).map(|it| format!("{it:?}\n"));
    assert!(anomalies.is_empty(), "{}", shown.collect::<String>());
    assert!(kills > 0, "a storm without a kill");
    is_quiet(&deployment).await;
    everything_is_there_once(&deployment, &plans).await;
    drop(alive);
    deployment.discard().await;
}
