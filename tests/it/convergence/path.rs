//! The whole path: events are recorded, processed in batches by two replicas, and settled.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::strategy::{Strategy, ValueTree};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tenantry::{
    inbox::{self, Disposition, NewEvent},
    jobs::{self, JobContext},
    replica::Replica,
    webhooks::SourceKind,
};

use super::{batches, difference, number, runner, seed, shuffled};
use crate::support::{
    Deployment, TinyBlueprint,
    app::wait_until,
    cluster::{ask, rows},
    history::{Event, History, Object, World, any_history, event_id, fold, read_worlds},
};

/// What became of each event, and of each organization's tenant, of one source.
#[derive(Default)]
struct Outcome {
    events: BTreeMap<String, String>,
    tenants: BTreeMap<String, String>,
}

/// A replica that works only when it is told to, for histories of so many sources.
fn replica(deployment: &Deployment, histories: &[(String, History)]) -> (Replica, JobContext) {
    let blueprint = TinyBlueprint::new();
    let replica = Replica::new(deployment.config(), blueprint.source()).unwrap();
    let mut cx = replica.job_context();
    let known = cx.sources.values().next().unwrap();
    let sources = histories.iter().map(|(source, history)| {
        let mut config = known.clone();
        config.kind = history.provider;
        (source.clone(), config)
    });
    cx.sources = Arc::new(sources.collect());
    (replica, cx)
}

fn delivered(source: &str, history: &History, at: usize) -> NewEvent {
    let body = history.body(at);
    NewEvent {
        source: source.to_owned(),
        event_id: event_id(at),
        event_type: history.event_type(&history.events[at]),
        organization_id: Some("org_0".to_owned()),
        occurred_at: None,
        body_sha256: tenantry::secrets::sha256(&body),
        body,
        disposition: Disposition::Process,
    }
}

/// Delivers everything in a random order, some of it twice, while both replicas process it.
async fn deliver(
    replica: &Replica,
    both: [&JobContext; 2],
    histories: &[(String, History)],
    rng: &mut StdRng,
) {
    let all = histories.iter().flat_map(|(source, history)| {
        (0..history.events.len()).map(move |at| (source.as_str(), history, at))
    });
    let all = shuffled(all.collect(), rng);
    for part in all.chunks(200) {
        for batch in batches(part, rng) {
            let events = batch
                .iter()
                .map(|(source, history, at)| delivered(source, history, *at));
            let events: Vec<NewEvent> = events.collect();
            let recorded = replica
                .db
                .run(async |connection| inbox::record(connection, &events, 25).await);
            recorded.await.unwrap();
            if rng.random_bool(0.7) {
                let [one, other] = both.map(jobs::process_batch);
                let (one, other) = tokio::join!(one, other);
                one.unwrap();
                other.unwrap();
            }
        }
    }
    while jobs::process_batch(both[0]).await.unwrap() > 0 {}
}

async fn outcomes(control: &str) -> BTreeMap<String, Outcome> {
    let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
    let events =
        "select source, event_id, state || coalesce(': ' || reason, '') from webhook_events";
    for (source, event, state) in rows(control, events).await {
        outcomes
            .entry(source)
            .or_default()
            .events
            .insert(event, state);
    }
    let tenants =
        "select source, org_id, string_agg(state, ' and ') from tenants group by source, org_id";
    for (source, org, state) in rows(control, tenants).await {
        outcomes
            .entry(source)
            .or_default()
            .tenants
            .insert(org, state);
    }
    outcomes
}

/// How the outcome is not what the history's end asks for.
fn mistakes(history: &History, expected: &World, outcome: &Outcome) -> Vec<String> {
    let mut mistakes = Vec::new();
    let told: BTreeSet<String> = (0..history.events.len()).map(event_id).collect();
    for event in &told {
        let waits = expected.contains(&format!("waiting {event}"));
        let state = outcome.events.get(event).map_or("lost", String::as_str);
        let found = state.split(':').next().unwrap();
        if found != if waits { "waiting" } else { "processed" } {
            mistakes.push(format!("  {event} is {state}\n"));
        }
    }
    for at in 0..2 {
        let org = Object::Organization(at).id(history.provider);
        let line = |line: &&String| line.starts_with(&format!("organization {org}: "));
        let line = expected.iter().find(line).map_or("", String::as_str);
        // described: it has a name; not deleted: its line ends so
        let is_alive = line.contains(": Acme") && line.ends_with("deleted -");
        let tenant = outcome.tenants.get(&org).map_or("absent", String::as_str);
        let is_right = match tenant {
            "pending" => is_alive,
            "suspended" | "absent" => !is_alive,
            _ => false,
        };
        if !is_right {
            mistakes.push(format!("  the tenant of {org} is {tenant}: {line}\n"));
        }
    }
    mistakes
}

#[tokio::test(flavor = "multi_thread")]
async fn events_on_the_whole_path_settle_and_end_as_the_documents_say() {
    let deployment = Deployment::new().await;
    let seed = seed();
    let histories: Vec<(String, History)> = {
        let (strategy, mut runner) = (any_history(1), runner(seed));
        let count = (number("TENANTRY_TEST_HISTORIES", 10_000) / 50).min(2_000);
        let any = (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current());
        any.enumerate()
            .map(|(at, history)| (format!("s{at}"), history))
            .collect()
    };
    let (replica, cx) = self::replica(&deployment, &histories);
    replica.migrate().await.unwrap();
    let (other, other_cx) = self::replica(&deployment, &histories);
    deliver(
        &replica,
        [&cx, &other_cx],
        &histories,
        &mut StdRng::seed_from_u64(seed),
    )
    .await;

    let control = &deployment.control_url;
    let mut worlds = replica
        .db
        .run(async |connection| Ok::<_, sqlx::Error>(read_worlds(connection).await))
        .await
        .unwrap();
    let outcomes = outcomes(control).await;
    for (source, history) in &histories {
        let expected = fold(history);
        let mut known = worlds.remove(source).unwrap_or_default();
        known.extend(
            expected
                .iter()
                .filter(|line| line.starts_with("waiting "))
                .cloned(),
        );
        let mistakes: String = mistakes(history, &expected, &outcomes[source]).concat();
        let difference = difference(&expected, &known).unwrap_or_default();
        assert!(
            (mistakes.is_empty() && difference.is_empty()),
            "{mistakes}{difference}{history:#?}"
        );
    }
    let batched = "select count(*) from jobs where is_batched and state <> 'completed'";
    assert_eq!(
        ask::<i64>(control, batched).await,
        0,
        "all in batches, none of which failed"
    );
    replica.finish().await;
    other.finish().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_and_what_it_names_find_each_other_when_two_replicas_have_one_each() {
    let deployment = Deployment::new().await;
    let said = |object| Event {
        object,
        minute: 1,
        is_deletion: false,
        variant: 0,
    };
    let all = [
        Object::Membership(0),
        Object::Organization(0),
        Object::User(0),
    ];
    let history = History {
        provider: SourceKind::Workos,
        seed: 0,
        events: all.map(said).to_vec(),
    };
    let histories = [("s0".to_owned(), history)];
    // the one is about to commit the membership while the other looks at the rest
    let slow = deployment.with_fault("process_event.committing=stall:700");
    let (replica, slow) = self::replica(&slow, &histories);
    let (other, cx) = self::replica(&deployment, &histories);
    replica.migrate().await.unwrap();
    let record = async |events: std::ops::Range<usize>| {
        let events = events.map(|at| delivered("s0", &histories[0].1, at));
        let events: Vec<NewEvent> = events.collect();
        let recorded = other
            .db
            .run(async |connection| inbox::record(connection, &events, 25).await);
        recorded.await.unwrap();
    };
    record(0..1).await;
    let membership = async {
        assert_eq!(jobs::process_batch(&slow).await.unwrap(), 1);
    };
    let parents = async {
        let faults = &slow.provisioner.faults;
        let is_stalled = async || faults.was_hit("process_event.committing");
        wait_until("the membership is about to be committed", is_stalled).await;
        record(1..3).await;
        let processed = async || jobs::process_batch(&cx).await.unwrap() == 2;
        wait_until("its parents are processed", processed).await;
    };
    tokio::join!(membership, parents);
    let settled = "select count(*) from webhook_events where state = 'processed'";
    assert_eq!(ask::<i64>(&deployment.control_url, settled).await, 3);
    replica.finish().await;
    other.finish().await;
    deployment.discard().await;
}
