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

use futures_util::future::join_all;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::{
    Deployment, TinyBlueprint,
    app::{is_delivered, new_org, try_deliver, wait_until},
    cluster::{ask, execute, rows},
    dice::{number, seed},
    events,
    pool::with_pool,
    process::Process,
};

/// So many ask at once, each for one tenant after the other.
const CLAIMERS: usize = 32;

/// So many replicas, each with somebody who kills it.
const KILLERS: usize = 3;

/// Databases that are to be ready.
const SIZE: u32 = 8;

/// The impatient claimer waits so long for a pool that is filled: the first tenant after the change brings
/// the template, without which there is nothing to fill it with.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Moves that are none of the pool's: somebody took what was not ready, or something came back from where
/// nothing comes back.
const STRANGE: &str = "select coalesce(array_agg(distinct was || ' → ' || became), '{}')
    from moves
    where (was, became) not in (
        ('nothing', 'building'), ('building', 'ready'), ('ready', 'claimed'), ('ready', 'dropping'),
        -- its blueprint is not the tenant's any more, it is lost, nobody needs it
        ('claimed', 'ready'), ('building', 'dropping'), ('claimed', 'dropping'),
        -- whoever dropped it died
        ('dropping', 'dropping')
    )";

/// What became of the storm so far.
#[derive(Default)]
struct Seen {
    /// Databases of the pool that wait for a tenant.
    ready: i64,
    /// Moves of the pool's databases, and tenants that were finished: it grows as long as anything is done.
    work: i64,
    /// Organizations whose tenant is ready.
    tenants: BTreeSet<String>,
}

/// What everybody shares.
struct Storm {
    deployment: Deployment,
    /// Where replicas answer; some of them are dead.
    addresses: Mutex<Vec<SocketAddr>>,
    seen: Mutex<Seen>,
    is_over: AtomicBool,
    kills: AtomicUsize,
}

impl Storm {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::SeqCst)
    }

    fn see<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    /// Looks for all: 32 who ask the database themselves would be the load that is to be tested.
    async fn watch(&self) {
        let look = format!(
            "select (select count(*) from pool_databases where state = 'ready'),
                    (select count(*) from moves),
                    (select coalesce(array_agg(org_id::text), '{{}}') from tenants where state = 'ready'),
                    ({STRANGE})"
        );
        let control = &self.deployment.control_url;
        let mut control = PgConnection::connect(control).await.unwrap();
        while self.goes_on() {
            let look = sqlx::query_as(AssertSqlSafe(look.as_str()));
            let (ready, moves, tenants, strange): (i64, i64, Vec<String>, Vec<String>) =
                look.fetch_one(&mut control).await.unwrap();
            assert!(strange.is_empty(), "{strange:?}");
            *self.seen.lock().unwrap() = Seen {
                ready,
                work: moves + i64::try_from(tenants.len()).unwrap(),
                tenants: tenants.into_iter().collect(),
            };
            tokio::time::sleep(LOOK).await;
        }
        control.close().await.unwrap();
    }

    /// Starts a replica, kills it, starts another one, until the storm is over.
    ///
    /// It dies after so much work as well as after so long: on a slow machine time alone would kill faster
    /// than anything can be done, and nothing would be tested.
    async fn kill(&self, place: usize, mut rng: StdRng) {
        while self.goes_on() {
            let mut replica = Process::start(&self.deployment, "").await;
            self.addresses.lock().unwrap()[place] = replica.address;
            replica.is_ready().await;
            let enough = self.see(|seen| seen.work) + rng.random_range(2..16);
            tokio::time::sleep(Duration::from_millis(rng.random_range(100..1500))).await;
            while self.goes_on() && self.see(|seen| seen.work) < enough {
                tokio::time::sleep(LOOK).await;
            }
            replica.kill();
            self.kills.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Asks for a tenant, waits until it is ready, asks for the next one; the organizations that were asked
    /// for, each with whether anybody acknowledged it.
    async fn claim(&self, number: usize, mut rng: StdRng) -> Vec<(String, bool)> {
        let mut asked = Vec::new();
        while self.goes_on() {
            let org = new_org();
            let is_heard = self.deliver(&org, &mut rng).await;
            asked.push((org.clone(), is_heard));
            while self.goes_on() && !self.see(|seen| seen.tenants.contains(&org)) {
                tokio::time::sleep(LOOK).await;
            }
            self.let_it_be_filled(number == 0, &mut rng).await;
        }
        asked
    }

    /// Nothing is made in advance while tenants wait: the pool of those who never pause is empty.
    async fn let_it_be_filled(&self, is_impatient: bool, rng: &mut impl Rng) {
        let began = Instant::now();
        let is_filled = |seen: &Seen| seen.ready >= i64::from(SIZE / 2);
        while self.goes_on() && !(is_impatient && began.elapsed() > PATIENCE) {
            // not all at once
            tokio::time::sleep(LOOK * rng.random_range(1..20)).await;
            if self.see(is_filled) {
                return;
            }
        }
    }

    /// False when the storm ended before anybody acknowledged it.
    async fn deliver(&self, org: &str, rng: &mut impl Rng) -> bool {
        let event = events::created(org, "Acme");
        while self.goes_on() {
            let address = self.addresses.lock().unwrap()[rng.random_range(0..KILLERS)];
            let answer = try_deliver(address, &event).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }
}

/// Every move of a database of the pool that was ever committed, in a table of the test's own.
async fn note_moves(deployment: &Deployment) {
    let note = "create table moves (
            number bigint generated always as identity, database uuid, was text, became text, hash text
        );
        create function note_move() returns trigger language plpgsql as $$
        begin
            insert into moves (database, was, became, hash)
            values (new.id, coalesce(old.state, 'nothing'), new.state, new.hash);
            return null;
        end
        $$;
        create trigger note_move after insert or update on pool_databases
        for each row execute function note_move();
        grant all on moves to public";
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
        assert!(
            mark.ends_with(&format!("template={hash} like={hash}")),
            "{org}: {mark}"
        );
        if came_after == "true" {
            assert_eq!(hash, newest, "{org} asked after the change");
        }
        let tables =
            "select (to_regclass('marks') is not null) || ' ' || (select count(*) from notes)";
        let tables: String = ask(&deployment.url(database), tables).await;
        // seeded once, whoever died over it
        assert_eq!(tables, format!("{} 1", hash == newest), "{org}");
    }
}

/// Lets the storm go on until enough was claimed, changes the blueprint, lets it go on again; when it was
/// changed, by the clock of the control database.
async fn conduct(storm: &Storm, blueprint: &TinyBlueprint, length: Duration) -> String {
    let control = &storm.deployment.control_url;
    let first: String = ask(control, "select hash from templates").await;
    let claims = async |of: &str| {
        let claims = format!("select count(*) from moves where became = 'claimed' and hash {of}");
        ask::<i64>(control, &claims).await >= i64::from(SIZE / 2)
    };
    let began = Instant::now();
    wait_until("claims before the change", async || {
        began.elapsed() >= length / 2 && claims(&format!("= '{first}'")).await
    })
    .await;
    change(blueprint);
    let changed = ask(control, "select now()::text").await;
    wait_until("claims after the change", async || {
        began.elapsed() >= length && claims(&format!("<> '{first}'")).await
    })
    .await;
    storm.is_over.store(true, Ordering::SeqCst);
    changed
}

/// `TENANTRY_TEST_POOL_SECONDS=60` is the whole storm, `TENANTRY_TEST_SEED` repeats its dice.
#[tokio::test(flavor = "multi_thread")]
async fn no_database_is_claimed_twice_none_is_lost_and_none_is_stale() {
    let length = Duration::from_secs(number("TENANTRY_TEST_POOL_SECONDS", 5));
    let mut rng = StdRng::seed_from_u64(seed());
    let blueprint = TinyBlueprint::new();
    let mut deployment = with_pool(SIZE).await;
    deployment.set_blueprint(blueprint.path());
    // each death costs an attempt
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "100");
    let first = Process::start(&deployment, "").await;
    deployment.pool_is(SIZE as usize, "before the storm").await;
    note_moves(&deployment).await;
    let storm = Storm {
        addresses: Mutex::new(vec![first.address; KILLERS]),
        deployment: deployment.clone(),
        seen: Mutex::default(),
        is_over: AtomicBool::new(false),
        kills: AtomicUsize::new(0),
    };
    drop(first);
    let began = Instant::now();
    let mut dice = || StdRng::seed_from_u64(rng.random());
    let killers: Vec<_> = (0..KILLERS).map(|at| storm.kill(at, dice())).collect();
    let claimers: Vec<_> = (0..CLAIMERS).map(|it| storm.claim(it, dice())).collect();
    let (asked, _, (), changed) = tokio::join!(
        join_all(claimers),
        join_all(killers),
        storm.watch(),
        conduct(&storm, &blueprint, length),
    );
    let lasted = began.elapsed().as_secs();
    let last = Process::start(&deployment, "").await;
    let mut organizations = BTreeSet::new();
    for (org, is_heard) in asked.into_iter().flatten() {
        // as a sender does
        assert!(is_heard || is_delivered(last.address, &events::created(&org, "Acme")).await);
        organizations.insert(org);
    }
    let control = &deployment.control_url;
    let open = "select (select count(*) from webhook_events where state = 'received')
                     + (select count(*) from jobs where state in ('available', 'running') and kind <> 'prune')";
    wait_until("no event and no job is open", async || {
        ask::<i64>(control, open).await == 0
    })
    .await;
    // every row has its database and every database its row: none is lost
    deployment.pool_is(SIZE as usize, "after the storm").await;
    let strange: Vec<String> = ask(control, STRANGE).await;
    assert!(strange.is_empty(), "{strange:?}");
    every_tenant_is_whole(&deployment, &organizations, &changed).await;
    let tenants = organizations.len();
    let all = usize::try_from(deployment.tenant_databases().await).unwrap();
    assert_eq!(all, tenants + SIZE as usize, "databases");
    let claims = "select string_agg(claims::text, ' + ' order by first)
        from (
            select count(*) as claims, min(number) as first from moves where became = 'claimed' group by hash
        ) moves";
    let claims: String = ask(control, claims).await;
    let kills = storm.kills.load(Ordering::SeqCst);
    println!("{tenants} tenants, {claims} claims, {kills} kills in {lasted} s");
    drop(last);
    deployment.discard().await;
}
