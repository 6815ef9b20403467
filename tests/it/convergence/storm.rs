//! A storm: two replicas die again and again while events come in, and nothing is lost or done twice.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tenantry::webhooks::SourceKind;

use super::{difference, number, seed, shuffled};
use crate::support::{
    Deployment,
    app::{SECRET, now, signed, try_post, wait_until},
    cluster::{ask, rows},
    history::{Event, History, Object, fold, read_worlds},
    process::Process,
};

/// Users, each with a membership in one of two organizations.
const PEOPLE: u32 = 20;

/// Pause between two deliveries: the storm takes a few seconds.
const PACE: Duration = Duration::from_millis(35);

/// A replica takes this long at most until it is killed, in milliseconds.
const LONGEST_LIFE: u64 = 1_200;

/// What is said in the storm: everything is described in the end, so nothing is left waiting.
fn history(seed: u64) -> History {
    let said = |object, minute, is_deletion| Event {
        object,
        minute,
        is_deletion,
        variant: 0,
    };
    let organizations = (0..2).map(Object::Organization);
    let mut events: Vec<Event> = organizations
        .flat_map(|it| [said(it, 0, false), said(it, 3, false)])
        .collect();
    for at in 4..4 + PEOPLE {
        let (user, membership) = (Object::User(at), Object::Membership(at));
        events.extend([said(user, 0, false), said(user, 4, false)]);
        events.extend([said(membership, 1, false), said(membership, 5, false)]);
        if at % 5 == 0 {
            events.push(said(membership, 5, true));
        }
    }
    History {
        provider: SourceKind::Workos,
        seed,
        events,
    }
}

/// A place where one replica after the other lives.
struct Place {
    address: Mutex<SocketAddr>,
    kills: AtomicU64,
}

impl Place {
    fn of(process: &Process) -> Self {
        Self {
            address: Mutex::new(process.address),
            kills: AtomicU64::new(0),
        }
    }

    /// Kills the replica at random moments, each time starting another one, until all is delivered.
    async fn rage(
        &self,
        deployment: &Deployment,
        mut process: Process,
        is_over: &AtomicBool,
        seed: u64,
    ) -> Process {
        let mut rng = StdRng::seed_from_u64(seed);
        while !is_over.load(Ordering::Relaxed) {
            let life = rng.random_range(0..LONGEST_LIFE);
            tokio::time::sleep(Duration::from_millis(life)).await;
            process.kill();
            self.kills.fetch_add(1, Ordering::Relaxed);
            process = Process::start(deployment, "").await;
            *self.address.lock().unwrap() = process.address;
        }
        process
    }
}

/// Delivers one event to one of the two, again until it is acknowledged.
async fn deliver(places: &[Place; 2], body: Vec<u8>) {
    loop {
        let at = usize::from(rand::random::<bool>());
        let address = *places[at].address.lock().unwrap();
        let headers = signed(SECRET, now(), &body);
        let answer = try_post(address, "/webhooks/workos", &headers, body.clone()).await;
        match answer.map(|answer| answer.status) {
            Ok(200) => return,
            Ok(503) | Err(_) => tokio::time::sleep(PACE).await,
            Ok(status) => panic!("answered {status}"),
        }
    }
}

async fn is_quiet(deployment: &Deployment) {
    let open =
        "select (select count(*) from webhook_events where state not in ('processed', 'ignored'))
                     + (select count(*) from jobs where state in ('available', 'running') and kind <> 'prune')
                     + (select count(*) from tenants where state <> 'ready')";
    wait_until(
        "everything is processed and every tenant ready",
        async || ask::<i64>(&deployment.control_url, open).await == 0,
    )
    .await;
}

async fn storm(seed: u64) {
    let deployment = Deployment::new().await;
    let history = history(seed);
    let mut rng = StdRng::seed_from_u64(seed);
    let processes = [
        Process::start(&deployment, "").await,
        Process::start(&deployment, "").await,
    ];
    let places = [Place::of(&processes[0]), Place::of(&processes[1])];
    let is_over = AtomicBool::new(false);
    let deliveries = async {
        let events = shuffled((0..history.events.len()).collect(), &mut rng);
        let deliveries = stream::iter(events).then(async |at| {
            tokio::time::sleep(PACE).await;
            at
        });
        let delivered = deliveries.for_each_concurrent(8, |at| deliver(&places, history.body(at)));
        delivered.await;
        is_over.store(true, Ordering::Relaxed);
    };
    let raging = processes.into_iter().zip(&places).zip(1..);
    let raging = raging
        .map(|((process, place), nth)| place.rage(&deployment, process, &is_over, seed + nth));
    let (alive, ()) = tokio::join!(join_all(raging), deliveries);
    is_quiet(&deployment).await;

    let kills: u64 = places
        .iter()
        .map(|place| place.kills.load(Ordering::Relaxed))
        .sum();
    assert!(kills >= 4, "a storm of only {kills} kills");
    let control = &deployment.control_url;
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(control)
        .await
        .unwrap();
    let known = read_worlds(&mut connection).await.remove("workos").unwrap();
    drop(connection);
    let difference = difference(&fold(&history), &known);
    assert!(
        difference.is_none(),
        "after {kills} kills\n{}",
        difference.unwrap()
    );
    let tenants = "select org_id, state, initialize::text from tenants order by org_id";
    let ready =
        ["org_0", "org_1"].map(|org| (org.to_owned(), "ready".to_owned(), "true".to_owned()));
    assert_eq!(rows(control, tenants).await, ready);
    assert_eq!(
        deployment.tenant_databases().await,
        2,
        "one database per organization"
    );
    assert_eq!(deployment.tenant_roles().await, 2);
    let events = i64::try_from(history.events.len()).unwrap();
    assert_eq!(
        ask::<i64>(control, "select count(*) from webhook_events").await,
        events
    );
    assert_eq!(
        ask::<i64>(control, "select count(*) from jobs where state = 'dead'").await,
        0
    );
    drop(alive);
    deployment.discard().await;
}

/// `TENANTRY_TEST_STORMS` makes it longer, `TENANTRY_TEST_SEED` repeats one.
#[tokio::test(flavor = "multi_thread")]
async fn what_two_dying_replicas_acknowledged_is_known_and_done_once() {
    let seed = seed() >> 8;
    for round in 0..number("TENANTRY_TEST_STORMS", 1) {
        storm(seed + round).await;
    }
}
