//! A storm on the warm pool: 32 claimers ask for tenants while three replicas are killed again and again, and the
//! blueprint changes in the middle. No database is given twice, none is lost, none is stale.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{join, join_all};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use sqlx::{Connection, PgConnection};

use crate::{
    pool::with_pool,
    support::{
        Deployment, TinyBlueprint,
        app::{new_org, try_deliver, wait_until},
        cluster::{ask, execute, rows},
        dice::{number, seed},
        events,
        process::Process,
    },
};

/// So many ask at once, each for one tenant after the other.
const CLAIMERS: usize = 32;

/// So many replicas, each with somebody who kills it.
const KILLERS: usize = 3;

/// Databases that are to be ready.
const SIZE: u32 = 24;

/// A claimer waits at most so long for a pool that is well filled: nothing is made while tenants wait.
const PATIENCE: Duration = Duration::from_secs(4);

/// What everybody shares.
struct Storm {
    deployment: Deployment,
    /// Where replicas answer; some of them are dead.
    addresses: Mutex<Vec<SocketAddr>>,
    is_over: AtomicBool,
    kills: AtomicUsize,
}

impl Storm {
    /// Starts a replica, kills it, starts another one, until the storm is over.
    async fn kill(&self, place: usize, mut rng: StdRng) {
        while !self.is_over.load(Ordering::SeqCst) {
            let mut replica = Process::start(&self.deployment, "").await;
            self.addresses.lock().unwrap()[place] = replica.address;
            // on a slow machine it lives longer, so that there is work to be interrupted
            replica.is_ready().await;
            tokio::time::sleep(Duration::from_millis(rng.random_range(1000..3500))).await;
            replica.kill();
            self.kills.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Asks for a tenant, waits until it is ready, asks for the next one; the organizations that were asked for.
    async fn claim(&self, mut rng: StdRng) -> Vec<String> {
        let mut asked = Vec::new();
        let mut control = PgConnection::connect(&self.deployment.control_url)
            .await
            .unwrap();
        while !self.is_over.load(Ordering::SeqCst) {
            let org = new_org();
            self.let_it_be_filled(&mut control).await;
            if !self.deliver(&org, &mut rng).await {
                break;
            }
            asked.push(org.clone());
            let is_ready =
                "select exists (select from tenants where org_id = $1 and state = 'ready')";
            while !self.is_over.load(Ordering::SeqCst) {
                let found = sqlx::query_scalar(is_ready).bind(&org);
                if found.fetch_one(&mut control).await.unwrap() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        control.close().await.unwrap();
        asked
    }

    async fn let_it_be_filled(&self, control: &mut PgConnection) {
        let began = Instant::now();
        let ready = "select count(*) from pool_databases where state = 'ready'";
        while began.elapsed() < PATIENCE && !self.is_over.load(Ordering::SeqCst) {
            let ready: i64 = sqlx::query_scalar(ready)
                .fetch_one(&mut *control)
                .await
                .unwrap();
            if ready >= i64::from(SIZE / 2) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// False when the storm ended before anybody accepted it.
    async fn deliver(&self, org: &str, rng: &mut impl Rng) -> bool {
        let event = events::created(org, "Acme");
        while !self.is_over.load(Ordering::SeqCst) {
            let address = self.addresses.lock().unwrap()[rng.random_range(0..KILLERS)];
            let answer = try_deliver(address, &event).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        false
    }
}

/// Every claim that was ever committed, in a table of the test's own.
async fn note_claims(deployment: &Deployment) {
    let note = "create table claims (database uuid, tenant uuid, hash text);
        create function note_claim() returns trigger language plpgsql as $$
        begin
            insert into claims values (new.id, new.tenant_id, new.hash);
            return null;
        end
        $$;
        create trigger note_claim after update on pool_databases for each row
        when (new.state = 'claimed' and old.state <> 'claimed') execute function note_claim();
        grant all on claims to public";
    execute(&deployment.control_url, note).await;
}

/// The change comes whole: a file that is written in place is read half.
fn change(blueprint: &TinyBlueprint) {
    let next = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(next.path(), "create table marks (id int)").unwrap();
    let to = blueprint.path().join("migrations/0002_marks.sql");
    next.persist(to).unwrap();
}

/// Every tenant is ready, with a database of its own blueprint; its mark, row and tables agree.
async fn every_tenant_is_whole(deployment: &Deployment, asked: &BTreeSet<String>, changed: &str) {
    let control = &deployment.control_url;
    let tenants =
        "select org_id::text, database::text, blueprint_hash || ' ' || (requested_at > '{}')::text
        from tenants where state = 'ready' and initialize";
    let tenants = rows(control, &tenants.replace("{}", changed)).await;
    let made: BTreeSet<String> = tenants.iter().map(|(org, ..)| org.clone()).collect();
    assert_eq!(&made, asked, "every one who asked has one tenant");
    let databases: BTreeSet<&String> = tenants.iter().map(|(_, database, _)| database).collect();
    assert_eq!(databases.len(), tenants.len(), "each has its own database");
    let newest = "select hash from templates order by sealed_at desc limit 1";
    let newest: String = ask(control, newest).await;
    let marks = "select datname::text, shobj_description(oid, 'pg_database'), '' from pg_database
        where shobj_description(oid, 'pg_database') like 'tenantry tenant=%'";
    let marks = rows(control, marks).await.into_iter();
    let marks: BTreeMap<String, String> = marks.map(|(name, mark, _)| (name, mark)).collect();
    for (org, database, told) in &tenants {
        let (hash, came_after) = told.split_once(' ').unwrap();
        let mark = &marks[database];
        assert!(mark.ends_with(&format!("template={hash}")), "{org}: {mark}");
        if came_after == "true" {
            assert_eq!(hash, newest, "{org} asked after the change");
        }
        let is_new = "select to_regclass('marks') is not null";
        let is_new: bool = ask(&deployment.url(database), is_new).await;
        assert_eq!(is_new, hash == newest, "{org}: its tables");
        let notes = "select count(*) from notes";
        let notes: i64 = ask(&deployment.url(database), notes).await;
        assert_eq!(notes, 1, "{org}: seeded once");
    }
}

/// `TENANTRY_TEST_POOL_SECONDS=60` is the whole storm, `TENANTRY_TEST_SEED` repeats its dice.
#[tokio::test(flavor = "multi_thread")]
async fn no_database_is_claimed_twice_none_is_lost_and_none_is_stale() {
    let length = Duration::from_secs(number("TENANTRY_TEST_POOL_SECONDS", 8));
    let mut rng = StdRng::seed_from_u64(seed());
    let blueprint = TinyBlueprint::new();
    let mut deployment = with_pool(SIZE).await;
    let directory = blueprint.path().to_str().unwrap();
    deployment.set("TENANTRY__BLUEPRINT__DIRECTORY", directory);
    // each death costs an attempt
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "100");
    let first = Process::start(&deployment, "").await;
    deployment.pool_is(SIZE as usize, "before the storm").await;
    note_claims(&deployment).await;
    let storm = Storm {
        addresses: Mutex::new(vec![first.address; KILLERS]),
        deployment: deployment.clone(),
        is_over: AtomicBool::new(false),
        kills: AtomicUsize::new(0),
    };
    drop(first);
    let killers: Vec<_> = (0..KILLERS)
        .map(|place| storm.kill(place, StdRng::seed_from_u64(rng.random())))
        .collect();
    let claimers: Vec<_> = (0..CLAIMERS)
        .map(|_| storm.claim(StdRng::seed_from_u64(rng.random())))
        .collect();
    let control = &deployment.control_url;
    let conductor = async {
        let until = Instant::now() + length;
        tokio::time::sleep(length / 2).await;
        // on a slow machine it takes longer until there is something to be disturbed
        let claims = "select count(*) from claims";
        wait_until("some are claimed", async || {
            ask::<i64>(control, claims).await >= i64::from(SIZE / 4)
        })
        .await;
        change(&blueprint);
        let changed: String = ask(control, "select now()::text").await;
        tokio::time::sleep(until.saturating_duration_since(Instant::now())).await;
        storm.is_over.store(true, Ordering::SeqCst);
        changed
    };
    let ((asked, _), changed) = join(join(join_all(claimers), join_all(killers)), conductor).await;
    let asked: BTreeSet<String> = asked.into_iter().flatten().collect();

    let last = Process::start(&deployment, "").await;
    let open = "select (select count(*) from webhook_events where state = 'received')
                     + (select count(*) from jobs where state in ('available', 'running') and kind <> 'prune')";
    wait_until("no event and no job is open", async || {
        ask::<i64>(control, open).await == 0
    })
    .await;
    // every row has its database and every database its row: none is lost
    deployment.pool_is(SIZE as usize, "after the storm").await;
    every_tenant_is_whole(&deployment, &asked, &changed).await;
    let tenants = i64::try_from(asked.len()).unwrap();
    let all = deployment.tenant_databases().await;
    assert_eq!(all, tenants + i64::from(SIZE), "databases");
    let twice = "select count(*) from (select from claims group by database having count(distinct tenant) > 1) twice";
    assert_eq!(ask::<i64>(control, twice).await, 0, "claimed twice");
    let claims: i64 = ask(control, "select count(*) from claims").await;
    let kills = storm.kills.load(Ordering::SeqCst);
    println!("{tenants} tenants, {claims} claims, {kills} kills");
    drop(last);
    deployment.discard().await;
}
