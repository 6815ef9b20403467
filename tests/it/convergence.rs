//! Convergence: whatever order the same events come in, however often and in whatever batches, they
//! end in the same state, and that is the one that the documents promise.

mod orders;
mod path;
mod storm;

use std::{cell::RefCell, collections::BTreeMap};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use sqlx::{Connection, PgConnection};
use tenantry::{
    identity::{self, Heard},
    replica::Replica,
    webhooks::{self, IdentityEvent, Mapping, Meaning, SourceKind},
};

use crate::support::{
    Deployment, TinyBlueprint,
    app::now,
    dice::{number, seed},
    history::{History, World, any_history, event_id, fold, read_rows, read_worlds},
};

/// Histories that are checked with one transaction.
const ROUND: usize = 50;

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// An empty control database.
async fn control_database() -> Deployment {
    let deployment = Deployment::new().await;
    let blueprint = TinyBlueprint::new();
    let replica = Replica::new(deployment.config(), blueprint.source()).unwrap();
    replica.migrate().await.unwrap();
    replica.finish().await;
    deployment
}

/// A history as a source tells it.
struct Told<'a> {
    source: String,
    history: &'a History,
    said: Vec<Vec<IdentityEvent>>,
}

impl<'a> Told<'a> {
    fn new(source: String, history: &'a History) -> Self {
        let events = 0..history.events.len();
        let said = events.map(|at| read(history.provider, &history.body(at)));
        Self {
            said: said.collect(),
            source,
            history,
        }
    }

    fn heard(&self, at: usize) -> Heard {
        Heard {
            source: self.source.clone(),
            event: Some(1),
            received_at: now(),
            said: self.said[at].clone(),
        }
    }

    /// Each history under a source of its own.
    fn all(prefix: &str, histories: &'a [History]) -> Vec<Self> {
        let numbered = histories.iter().enumerate();
        let told = numbered.map(|(at, history)| Self::new(format!("{prefix}{at}"), history));
        told.collect()
    }
}

fn read(kind: SourceKind, body: &[u8]) -> Vec<IdentityEvent> {
    match webhooks::read(kind, &Mapping::default(), body).meaning {
        Meaning::Events(said) => said,
        other => panic!("{} reads as {other:?}", String::from_utf8_lossy(body)),
    }
}

/// Every item, some of them twice, in a random order.
fn shuffled<T: Clone>(items: Vec<T>, rng: &mut StdRng) -> Vec<T> {
    let mut again = items.clone();
    again.retain(|_| rng.random_bool(0.25));
    let mut all = items;
    all.append(&mut again);
    all.shuffle(rng);
    all
}

/// The items in a few batches of any size.
fn batches<'a, T>(items: &'a [T], rng: &mut StdRng) -> Vec<&'a [T]> {
    let mut cuts: Vec<usize> = (0..rng.random_range(0..8))
        .map(|_| rng.random_range(0..=items.len()))
        .collect();
    cuts.extend([0, items.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| &items[pair[0]..pair[1]])
        .collect()
}

/// All that was told, an event at a time.
fn events<'a>(told: &'a [Told<'a>]) -> impl Iterator<Item = (&'a Told<'a>, usize)> {
    let all = told.iter();
    all.flat_map(|told| (0..told.said.len()).map(move |at| (told, at)))
}

/// Records what was told, mixed and in a random order.
async fn record(tx: &mut PgConnection, told: &[Told<'_>], rng: &mut StdRng) {
    for batch in batches(&shuffled(events(told).collect(), rng), rng) {
        let heard = batch.iter().map(|(told, at)| told.heard(*at));
        identity::record(tx, &heard.collect::<Vec<_>>())
            .await
            .unwrap();
    }
}

/// Adds what is left waiting to what is known.
async fn add_waiting(
    tx: &mut PgConnection,
    told: &[Told<'_>],
    worlds: &mut BTreeMap<String, World>,
) {
    let events: Vec<(&Told<'_>, usize)> = events(told).collect();
    let heard: Vec<Heard> = events.iter().map(|(told, at)| told.heard(*at)).collect();
    let parents = identity::find_parents(tx, &heard).await.unwrap();
    for ((told, at), parents) in events.iter().zip(parents) {
        if !parents.missing.is_empty() {
            let world = worlds.entry(told.source.clone()).or_default();
            world.insert(format!("waiting {}", event_id(*at)));
        }
    }
}

/// Where the world is not what was expected, or nothing.
fn difference(expected: &World, known: &World) -> Option<String> {
    let missing = expected
        .difference(known)
        .map(|line| format!("  expected {line}\n"));
    let found = known
        .difference(expected)
        .map(|line| format!("  found    {line}\n"));
    let lines: String = missing.chain(found).collect();
    (!lines.is_empty()).then_some(lines)
}

/// Which of the histories do not end as they should, and how.
async fn differences(
    connection: &mut PgConnection,
    histories: &[History],
    seed: u64,
) -> BTreeMap<usize, String> {
    let told = Told::all("s", histories);
    let mut tx = connection.begin().await.unwrap();
    record(&mut tx, &told, &mut StdRng::seed_from_u64(seed)).await;
    let mut worlds = read_worlds(&mut tx).await;
    add_waiting(&mut tx, &told, &mut worlds).await;
    tx.rollback().await.unwrap();
    let differences = told.iter().enumerate().filter_map(|(at, told)| {
        let known = worlds.remove(&told.source).unwrap_or_default();
        Some((at, difference(&fold(told.history), &known)?))
    });
    differences.collect()
}

/// Which of the histories end differently when told in another order.
async fn disagreements(
    connection: &mut PgConnection,
    histories: &[History],
    seed: u64,
) -> BTreeMap<usize, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let [first, second] = ["s", "t"].map(|prefix| Told::all(prefix, histories));
    let mut tx = connection.begin().await.unwrap();
    record(&mut tx, &first, &mut rng).await;
    record(&mut tx, &second, &mut rng).await;
    let mut rows = read_rows(&mut tx).await;
    let again: Vec<Heard> = events(&first).map(|(told, at)| told.heard(at)).collect();
    let changes = identity::record(&mut tx, &again).await.unwrap();
    assert!(
        !changes.is_news.contains(&true),
        "what is told once more is no news"
    );
    tx.rollback().await.unwrap();
    let mut of = |told: &Told<'_>| rows.remove(&told.source).unwrap_or_default();
    let pairs = first.iter().zip(&second).enumerate();
    let different =
        pairs.filter_map(|(at, (one, other))| Some((at, difference(&of(one), &of(other))?)));
    different.collect()
}

/// Checks `count` histories by the round; the first that fails is made as small as it can be.
fn check(
    count: u64,
    strategy: &impl Strategy<Value = History>,
    look: &impl AsyncFn(&mut PgConnection, &[History], u64) -> BTreeMap<usize, String>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let deployment = runtime.block_on(control_database());
    let connecting = PgConnection::connect(&deployment.control_url);
    let connection = RefCell::new(runtime.block_on(connecting).unwrap());
    let look = |histories: &[History], seed: u64| {
        runtime.block_on(look(&mut connection.borrow_mut(), histories, seed))
    };
    let seed = seed();
    let mut runner = runner(seed);
    let rounds = count.div_ceil(ROUND as u64);
    for round in 0..rounds {
        let trees: Vec<_> = (0..ROUND)
            .map(|_| strategy.new_tree(&mut runner).unwrap())
            .collect();
        let histories: Vec<History> = trees.iter().map(ValueTree::current).collect();
        let Some((at, difference)) = look(&histories, seed ^ round).into_iter().next() else {
            continue;
        };
        let tree = trees.into_iter().nth(at).unwrap();
        let smallest = runner.run_one(tree, |history| {
            // the same history ten times: one of the orders will show it
            let wrong = look(&vec![history; 10], seed).into_values().next();
            wrong.map_or(Ok(()), |lines| {
                Err(TestCaseError::fail(format!("it ends otherwise\n{lines}")))
            })
        });
        match smallest {
            Err(TestError::Fail(why, history)) => panic!("{why}{history:#?}"),
            other => panic!("{difference}{:#?}; alone: {other:?}", histories[at]),
        }
    }
    runtime.block_on(async {
        connection.into_inner().close().await.unwrap();
        deployment.discard().await;
    });
}

#[test]
fn any_history_ends_as_the_documents_say_whatever_its_order() {
    let count = number("TENANTRY_TEST_HISTORIES", 10_000);
    check(count, &any_history(1), &differences);
}

#[test]
fn descriptions_of_one_moment_that_differ_end_the_same_in_every_order() {
    let count = number("TENANTRY_TEST_HISTORIES", 10_000) / 10;
    check(count, &any_history(3), &disagreements);
}
