//! The connections to a database: few do what little there is to do, none is used again that was left in the middle
//! of something, and none is waited for for ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use secrecy::SecretString;
use tenantry::{
    db::{Db, connect_options},
    private_postgres::PrivatePostgres,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Barrier, watch},
    task::JoinSet,
};

use crate::support::{
    Deployment,
    app::wait_until,
    cluster::{self, ask, execute},
};

struct Office {
    db: Db,
    url: String,
}

impl Office {
    async fn of(most: u32) -> Self {
        let url = Deployment::new().await.control_url;
        let db = Db::new(&SecretString::from(url.as_str()), most).unwrap();
        Self { db, url }
    }

    /// The server's process behind the connection of one use.
    async fn process(&self) -> sqlx::Result<i32> {
        let find = async |connection: &mut _| {
            sqlx::query_scalar("select pg_backend_pid()")
                .fetch_one(connection)
                .await
        };
        self.db.run(find).await
    }

    /// So many uses at the same moment, and their processes.
    async fn at_once(&self, count: usize) -> Vec<i32> {
        let all_here = Arc::new(Barrier::new(count));
        let uses = (0..count).map(|_| async {
            let find = async |connection: &mut sqlx::PgConnection| {
                all_here.wait().await;
                sqlx::query_scalar("select pg_backend_pid()")
                    .fetch_one(connection)
                    .await
            };
            self.db.run::<i32, sqlx::Error>(find).await.unwrap()
        });
        let mut processes = join_all(uses).await;
        processes.sort_unstable();
        processes.dedup();
        processes
    }

    /// As a server that restarts does.
    async fn end_sessions(&self) {
        let end_all = "select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and application_name = 'tenantry'";
        execute(&self.url, end_all).await;
    }

    async fn sessions(&self) -> i64 {
        let count = "select count(*) from pg_stat_activity
            where datname = current_database() and application_name = 'tenantry'";
        ask(&self.url, count).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_use_after_the_other_is_by_the_same_connection() {
    let office = Office::of(8).await;
    assert_eq!(office.at_once(6).await.len(), 6);
    let last = office.process().await.unwrap();
    for _ in 0..20 {
        assert_eq!(office.process().await.unwrap(), last);
    }
    assert_eq!(office.db.connections(), (6, 6));
    office.db.close().await;
    wait_until("every session is gone", async || {
        office.sessions().await == 0
    })
    .await;
    let closed = office.process().await.unwrap_err();
    assert!(matches!(closed, sqlx::Error::PoolClosed), "{closed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_are_not_needed_are_closed() {
    let office = Office::of(8).await;
    assert_eq!(office.at_once(6).await.len(), 6);
    let limit = Duration::from_secs(2);
    tokio::time::sleep(limit).await;
    let needed = office.process().await.unwrap();
    office.db.close_idle(limit).await;
    assert_eq!(office.db.connections(), (1, 1));
    assert_eq!(office.process().await.unwrap(), needed);
    wait_until("their sessions are gone", async || {
        office.sessions().await == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_in_the_middle_of_something_is_not_used_again() {
    let office = Office::of(1).await;
    let mut before = office.process().await.unwrap();
    // cut off while the server is busy with it
    let slow = office
        .db
        .run(async |connection| sqlx::query("select pg_sleep(60)").execute(connection).await);
    let cut_off = tokio::time::timeout(Duration::from_millis(200), slow).await;
    assert!(cut_off.is_err());
    let mut after = office.process().await.unwrap();
    assert_ne!(before, after, "cut off in a statement");
    // cut off in a transaction
    before = after;
    let stuck = office.db.transaction(async |_| {
        std::future::pending::<()>().await;
        Ok::<_, sqlx::Error>(())
    });
    let cut_off = tokio::time::timeout(Duration::from_millis(200), stuck).await;
    assert!(cut_off.is_err());
    after = office.process().await.unwrap();
    assert_ne!(before, after, "cut off in a transaction");
    // a transaction that its work gave up is rolled back, and its connection is as before
    let given_up = office
        .db
        .transaction(async |_| Err::<(), _>(sqlx::Error::RowNotFound));
    assert!(given_up.await.is_err());
    assert_eq!(office.process().await.unwrap(), after);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_finds_all_connections_in_use_waits_and_is_told_when_it_takes_too_long() {
    let office = Arc::new(Office::of(2).await);
    let busy = |seconds: f64| {
        let office = Arc::clone(&office);
        async move {
            let sleep = async |connection: &mut _| {
                sqlx::query("select pg_sleep($1)")
                    .bind(seconds)
                    .execute(connection)
                    .await
            };
            office.db.run(sleep).await.unwrap();
        }
    };
    let ((), (), third) = tokio::join!(busy(0.5), busy(0.5), office.process());
    third.unwrap();
    assert_eq!(office.sessions().await, 2, "never more than the most");

    let started = Instant::now();
    let ((), (), third) = tokio::join!(busy(6.0), busy(6.0), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let third = office.process().await;
        (third, started.elapsed())
    });
    let (late, took) = third;
    assert!(matches!(late, Err(sqlx::Error::PoolTimedOut)), "{late:?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_server_ended_while_it_was_idle_is_replaced() {
    let office = Office::of(4).await;
    assert_eq!(office.at_once(4).await.len(), 4);
    office.end_sessions().await;
    wait_until("every session is gone", async || {
        office.sessions().await == 0
    })
    .await;
    // those that were used a moment ago are trusted
    tokio::time::sleep(Duration::from_millis(1100)).await;
    office.process().await.unwrap();
    assert_eq!(office.db.connections(), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_server_has_ended_all_one_use_fails_at_most_and_not_one_for_each() {
    let office = Office::of(4).await;
    assert_eq!(office.at_once(4).await.len(), 4);
    office.end_sessions().await;
    // the one that was used a moment ago is trusted: this use may fail
    drop(office.process().await);
    office.process().await.unwrap();
    assert_eq!(office.db.connections(), (1, 1));
}

/// Uses of a server whose callers would wait for a minute; whether each succeeded, and how long it took.
struct Patient(Db);

impl Patient {
    fn of(url: &str) -> Self {
        let options = connect_options(&SecretString::from(url)).unwrap();
        let minute = Duration::from_mins(1);
        Self(Db::with_options(options, 4, minute, minute))
    }

    async fn asks(&self) -> (bool, Duration) {
        let began = Instant::now();
        let ask = async |connection: &mut _| sqlx::query("select").execute(connection).await;
        (self.0.run(ask).await.is_ok(), began.elapsed())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_is_waited_for_once_then_only_asked_and_used_as_soon_as_it_is_back() {
    let mut server = PrivatePostgres::start(&cluster::settings(), |_| {})
        .await
        .unwrap();
    let patient = Patient::of(&server.url("postgres"));
    assert!(patient.asks().await.0);
    patient.0.close_idle(Duration::ZERO).await;
    server.halt().await.unwrap();
    let (first, second) = (patient.asks().await, patient.asks().await);
    assert!(!first.0 && first.1 >= Duration::from_secs(3), "{first:?}");
    assert!(!second.0 && second.1 < first.1 / 2, "{second:?}");

    server.restart().await.unwrap();
    assert!(patient.asks().await.0, "it is back");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_says_nothing_is_listened_to_for_long_once() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let patient = Patient::of(&format!("postgresql://somebody@{address}/postgres"));
    let (first, second) = (patient.asks().await, patient.asks().await);
    assert!(!first.0 && first.1 >= Duration::from_secs(10), "{first:?}");
    assert!(!second.0 && second.1 < first.1 / 2, "{second:?}");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Shut,
    Open,
    /// Whoever waits is sent away.
    Broken,
}

/// A server behind a door: nobody's greeting gets through while it is shut, and it is known how often somebody came.
struct Door {
    url: String,
    came: Arc<AtomicUsize>,
    sent_away: Arc<AtomicUsize>,
    shut: watch::Sender<Gate>,
    _passing: JoinSet<()>,
}

async fn pass(
    mut client: TcpStream,
    server: (String, u16),
    (mut gate, sent_away): (watch::Receiver<Gate>, Arc<AtomicUsize>),
) {
    let is_settled = gate.wait_for(|gate| *gate != Gate::Shut);
    if *is_settled.await.unwrap() == Gate::Broken {
        drop(client);
        sent_away.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let mut server = TcpStream::connect(server).await.unwrap();
    // whoever hangs up has finished
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

impl Door {
    async fn before(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut outside = url::Url::parse(url).unwrap();
        let server = (
            outside.host_str().unwrap().to_owned(),
            outside.port().unwrap(),
        );
        let port = listener.local_addr().unwrap().port();
        outside.set_host(Some("127.0.0.1")).unwrap();
        outside.set_port(Some(port)).unwrap();
        let (shut, gate) = watch::channel(Gate::Shut);
        let (came, sent_away) = (Arc::<AtomicUsize>::default(), Arc::default());
        let (counter, away) = (Arc::clone(&came), Arc::clone(&sent_away));
        let mut door = JoinSet::new();
        door.spawn(async move {
            let mut through = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let watched = (gate.clone(), Arc::clone(&away));
                through.spawn(pass(client, server.clone(), watched));
            }
        });
        Self {
            url: outside.into(),
            came,
            sent_away,
            shut,
            _passing: door,
        }
    }
}

impl Office {
    /// Behind the door, where nobody waits for long.
    fn behind(door: &Door, direct: &Self, most: u32) -> Self {
        let options = connect_options(&SecretString::from(door.url.as_str())).unwrap();
        let limits = (Duration::from_millis(1500), Duration::from_secs(10));
        Self {
            db: Db::with_options(options, most, limits.0, limits.1),
            url: direct.url.clone(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_slow_to_greet_is_not_asked_for_more_connections_by_those_who_come_next() {
    let direct = Office::of(4).await;
    let door = Door::before(&direct.url).await;
    let office = Office::behind(&door, &direct, 4);
    for _ in 0..2 {
        let asked = join_all((0..12).map(|_| office.process())).await;
        assert!(asked.iter().all(Result::is_err), "{asked:?}");
    }
    assert_eq!(
        door.came.load(Ordering::Relaxed),
        4,
        "one for each that there may be"
    );

    door.shut.send(Gate::Open).unwrap();
    assert_eq!(office.at_once(4).await.len(), 4);
    assert_eq!(
        door.came.load(Ordering::Relaxed),
        4,
        "what was begun is used"
    );
    assert_eq!(office.sessions().await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_connection_fails_that_others_began_is_nobodys_error_who_comes_later() {
    let direct = Office::of(2).await;
    let door = Door::before(&direct.url).await;
    let office = Office::behind(&door, &direct, 2);
    let asked = join_all((0..2).map(|_| office.process())).await;
    assert!(asked.iter().all(Result::is_err), "{asked:?}");
    // the server that they came to is gone, and another one is there
    door.shut.send(Gate::Broken).unwrap();
    wait_until("those who came were sent away", async || {
        door.sent_away.load(Ordering::Relaxed) == 2
    })
    .await;
    door.shut.send(Gate::Open).unwrap();
    assert_eq!(office.at_once(2).await.len(), 2);
}
