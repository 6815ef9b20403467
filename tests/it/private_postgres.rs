//! The private cluster: it starts, keeps its data, and leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tenantry::private_postgres::{BinarySource, Error, PrivatePostgres, Settings, sweep};

use crate::support::cluster;

/// Tells the re-executed test binary where to put its cluster.
const PARENT_VARIABLE: &str = "TENANTRY_TEST_CLUSTER_PARENT";

/// Allows the tests that need the network.
const NETWORK_VARIABLE: &str = "TENANTRY_TEST_NETWORK";

/// A directory that the unprivileged server may enter.
fn parent() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("open it");
    dir
}

fn quick(parent: &Path, ephemeral: bool) -> Settings {
    Settings {
        bin: cluster::bin(),
        durable: false,
        ephemeral,
        max_connections: 10,
        ..Settings::kept(parent.join("tenantry-postgres-1"), parent.join("cache"))
    }
}

async fn start(settings: &Settings) -> PrivatePostgres {
    // Sendable, so that it can be started from any task.
    let start: Pin<Box<dyn Future<Output = _> + Send>> =
        Box::pin(PrivatePostgres::start(settings, |_| {}));
    start.await.expect("a cluster")
}

async fn ask(cluster: &PrivatePostgres, sql: &'static str) -> Result<i64, sqlx::Error> {
    let mut connection = PgConnection::connect(&cluster.url("postgres")).await?;
    let answer = sqlx::query_scalar(sql).fetch_one(&mut connection).await;
    connection.close().await?;
    answer
}

async fn run(cluster: &PrivatePostgres, sql: &'static str) {
    let mut connection = PgConnection::connect(&cluster.url("postgres"))
        .await
        .expect("a connection");
    sqlx::raw_sql(sql)
        .execute(&mut connection)
        .await
        .expect("a statement that works");
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Every process that has the path among its arguments.
fn processes_naming(path: &Path) -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|found| String::from_utf8_lossy(&found).replace('\0', " "))
        .filter(|found| found.contains(&*path.to_string_lossy()))
        .collect()
}

fn postmaster_pid(dir: &Path) -> PathBuf {
    dir.join("data/postmaster.pid")
}

#[tokio::test]
async fn data_port_and_password_are_kept_between_runs() {
    let parent = parent();
    let settings = quick(parent.path(), false);
    let cluster = start(&settings).await;
    let url = cluster.url("x");
    run(&cluster, "create table kept as select 42::bigint as answer").await;

    let refused = PrivatePostgres::start(&settings, |_| {})
        .await
        .expect_err("it is in use");
    assert_eq!(refused.code(), "postgres_in_use");
    assert!(
        refused
            .to_string()
            .ends_with(&format!("process {}", std::process::id())),
        "{refused}"
    );

    cluster.stop().await.expect("it stops");
    assert!(processes_naming(parent.path()).is_empty());
    assert!(
        !postmaster_pid(&settings.dir).exists(),
        "it was stopped in order"
    );

    let mut cluster = start(&settings).await;
    assert_eq!(cluster.url("x"), url);
    assert_eq!(
        ask(&cluster, "select answer from kept")
            .await
            .expect("the row"),
        42
    );

    crash_loses_no_commit(&mut cluster).await;
    cluster.stop().await.expect("it stops");
}

async fn crash_loses_no_commit(cluster: &mut PrivatePostgres) {
    run(cluster, "insert into kept values (43)").await;
    cluster.crash().await.expect("it crashes");
    assert!(!cluster.is_running());
    assert!(ask(cluster, "select 1::bigint").await.is_err());
    cluster.restart().await.expect("it starts again");
    assert_eq!(
        ask(cluster, "select sum(answer)::bigint from kept")
            .await
            .expect("both rows"),
        85
    );
    let log = fs::read_to_string(cluster.dir().join("server.log")).expect("a log");
    assert!(log.contains("automatic recovery in progress"), "{log}");
}

#[tokio::test]
async fn a_server_that_dies_by_itself_is_noticed_and_can_be_restarted() {
    let parent = parent();
    let mut cluster = start(&quick(parent.path(), true)).await;
    let dir = cluster.dir().to_owned();
    let pid_file = fs::read_to_string(postmaster_pid(&dir)).expect("a pid file");
    let pid = pid_file.lines().next().expect("a pid").to_owned();
    assert!(
        Command::new("kill")
            .args(["-KILL", &pid])
            .status()
            .expect("kill")
            .success()
    );
    let deadline = Instant::now() + Duration::from_secs(5);
    while cluster.is_running() {
        assert!(Instant::now() < deadline, "the death is noticed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The stale postmaster.pid now names a live process that is no server.
    let stale = pid_file.replacen(&pid, &std::process::id().to_string(), 1);
    fs::write(postmaster_pid(&dir), stale).expect("a stale pid file");
    cluster.restart().await.expect("it starts again");
    assert_eq!(
        ask(&cluster, "select 7::bigint").await.expect("an answer"),
        7
    );
    cluster.stop().await.expect("it stops");
    assert!(!dir.exists(), "an ephemeral cluster leaves no directory");
    assert!(processes_naming(parent.path()).is_empty());
}

#[tokio::test]
async fn tenants_reach_only_their_own_database_and_strangers_none() {
    let parent = parent();
    let cluster = start(&quick(parent.path(), true)).await;
    strangers_are_refused(&cluster).await;
    let mode = fs::metadata(cluster.dir().join("password"))
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        !format!("{cluster:?}").contains(
            cluster
                .url("")
                .split([':', '@'])
                .nth(2)
                .expect("a password")
        )
    );

    sweep_spares_what_runs(parent.path());
    assert_eq!(
        ask(&cluster, "select 1::bigint")
            .await
            .expect("it still runs"),
        1
    );
    cluster.stop().await.expect("it stops");
}

#[tokio::test]
async fn nothing_is_left_when_the_process_is_killed() {
    let parent = parent();
    let mut helper = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "private_postgres::a_process_with_two_clusters"])
        .env(PARENT_VARIABLE, parent.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process to kill");
    until("both clusters are up", || parent.path().join("up").exists()).await;
    assert!(!processes_naming(parent.path()).is_empty());
    helper.kill().expect("it is killed");
    helper.wait().expect("it is gone");

    let kept = parent.path().join("kept/tenantry-postgres-1");
    let ephemeral = parent.path().join("ephemeral/tenantry-postgres-1");
    until("the ephemeral directory is removed", || !ephemeral.exists()).await;
    until("no process is left", || {
        processes_naming(parent.path()).is_empty()
    })
    .await;
    assert!(
        !postmaster_pid(&kept).exists(),
        "the kept cluster was stopped in order"
    );
}

/// The process that the test above starts and kills; on its own it has nothing to do.
#[tokio::test]
async fn a_process_with_two_clusters() {
    let Some(parent) = std::env::var_os(PARENT_VARIABLE).map(PathBuf::from) else {
        return;
    };
    let mut clusters = Vec::new();
    for (name, ephemeral) in [("kept", false), ("ephemeral", true)] {
        let dir = parent.join(name);
        fs::create_dir(&dir).expect("a directory");
        clusters.push(start(&quick(&dir, ephemeral)).await);
    }
    fs::write(parent.join("up"), "").expect("a sign");
    std::future::pending::<()>().await;
}

async fn strangers_are_refused(cluster: &PrivatePostgres) {
    run(cluster, "create role stranger login password 'secret'").await;
    for database in ["postgres", "template1"] {
        let url = format!(
            "postgresql://stranger:secret@127.0.0.1:{}/{database}",
            cluster.port()
        );
        let refused = PgConnection::connect(&url)
            .await
            .expect_err("no right to connect");
        assert!(
            refused
                .to_string()
                .contains("permission denied for database"),
            "{refused}"
        );
    }
    let url = format!(
        "postgresql://tenantry:wrong@127.0.0.1:{}/postgres",
        cluster.port()
    );
    assert!(
        PgConnection::connect(&url).await.is_err(),
        "the password counts"
    );
}

fn sweep_spares_what_runs(parent: &Path) {
    for name in [
        "tenantry-postgres-2/data",
        "tenantry-postgres-3",
        "mine/data",
    ] {
        fs::create_dir_all(parent.join(name)).expect("a directory");
    }
    fs::write(
        postmaster_pid(&parent.join("tenantry-postgres-2")),
        "999999999\n",
    )
    .expect("a file");
    assert_eq!(sweep(parent), 2);
    assert!(parent.join("mine/data").exists());
}

/// Needs the network: `.ci/run` asks for it, a plain `cargo test` does not.
#[tokio::test]
async fn a_fetched_build_runs_and_is_fetched_once() {
    if std::env::var_os(NETWORK_VARIABLE).is_none() {
        return;
    }
    let parent = parent();
    let settings = Settings {
        bin: None,
        binaries: BinarySource::Fetched,
        ..quick(parent.path(), true)
    };
    for fetches in [true, false] {
        let steps = std::sync::Mutex::new(Vec::new());
        let record = |step: &str| steps.lock().expect("a list").push(step.to_owned());
        let cluster = PrivatePostgres::start(&settings, record)
            .await
            .expect("a cluster");
        assert_eq!(
            ask(&cluster, "select 7::bigint").await.expect("an answer"),
            7
        );
        cluster.stop().await.expect("it stops");
        let steps = steps.into_inner().expect("a list");
        assert_eq!(
            steps.iter().any(|step| step.starts_with("fetching")),
            fetches,
            "{steps:?}"
        );
    }
    let left = fs::read_dir(parent.path().join("cache"))
        .expect("a cache")
        .count();
    assert_eq!(left, 1, "one build and nothing else");
}

#[tokio::test]
async fn every_refusal_names_its_reason_and_a_fix() {
    let parent = parent();
    let refused = async |settings: Settings| -> Error {
        PrivatePostgres::start(&settings, |_| {})
            .await
            .expect_err("it is refused")
    };
    let empty = Settings {
        bin: Some(parent.path().join("nowhere")),
        ..quick(parent.path(), false)
    };
    let error = refused(empty).await;
    assert_eq!(error.code(), "postgres_bad_binaries");
    assert!(error.fix().contains("TENANTRY_PG_BIN"));

    let precious = Settings {
        dir: parent.path().join("precious"),
        ..quick(parent.path(), true)
    };
    assert_eq!(refused(precious).await.code(), "postgres_not_ephemeral");

    let other = quick(&parent.path().join("other"), false);
    fs::create_dir_all(other.dir.join("data")).expect("a directory");
    fs::write(other.dir.join("data/PG_VERSION"), "9\n").expect("a file");
    let error = refused(Settings {
        binaries: BinarySource::Installed,
        ..other
    })
    .await;
    assert_eq!(error.code(), "postgres_data_version", "{error}");
    assert!(
        error.fix().contains("install PostgreSQL 9"),
        "{}",
        error.fix()
    );
}

#[tokio::test]
async fn root_is_told_which_directory_is_closed_to_the_server() {
    let parent = parent();
    let closed = parent.path().join("closed");
    fs::create_dir(&closed).expect("a directory");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("close it");
    match PrivatePostgres::start(&quick(&closed, true), |_| {}).await {
        Err(error) => {
            assert_eq!(error.code(), "postgres_unreachable_path");
            assert!(
                error.to_string().ends_with("closed is closed to it"),
                "{error}"
            );
            assert!(
                error
                    .fix()
                    .ends_with(&format!("`chmod a+x {}`", closed.display()))
            );
        }
        // Not root: the server runs as we do, and nothing is closed to it.
        Ok(cluster) => cluster.stop().await.expect("it stops"),
    }
}
