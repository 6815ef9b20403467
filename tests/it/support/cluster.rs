//! The private Postgres of a test run: started by the first test that needs it, gone with the process.

use std::{
    path::PathBuf,
    sync::{Mutex, OnceLock},
};

use aws_lc_rs::{hmac, pbkdf2};
use base64::{Engine, engine::general_purpose::STANDARD};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tenantry::{
    private_postgres::{self, PrivatePostgres, SUPERUSER, Settings},
    secrets::sha256,
};

/// The shared cluster; tests that stop or crash a server start one of their own.
pub struct SharedCluster {
    postgres: Mutex<PrivatePostgres>,
}

/// Where clusters of tests live. Leftovers of runs that were killed go first.
pub fn parent() -> PathBuf {
    static SWEPT: OnceLock<usize> = OnceLock::new();
    let parent = std::env::temp_dir();
    SWEPT.get_or_init(|| private_postgres::sweep(&parent));
    parent
}

/// Where the version of Postgres is that the suite is to run on, if not the one installed.
pub fn bin() -> Option<PathBuf> {
    std::env::var_os("TENANTRY_PG_BIN").map(PathBuf::from)
}

/// Settings of a quick cluster that goes away with this process.
pub fn settings() -> Settings {
    let parent = parent();
    Settings {
        bin: bin(),
        max_connections: 1000,
        ..Settings::ephemeral(&parent, parent.join("tenantry-test-cache"))
    }
}

/// The shared cluster.
pub fn shared() -> &'static SharedCluster {
    static CLUSTER: OnceLock<SharedCluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        // a thread and a runtime of its own: the runtime of the test that came first ends before the others
        let started = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let postgres = PrivatePostgres::start(&settings(), |_| {}).await;
                let postgres = postgres.expect("a private Postgres");
                let url = postgres.url("postgres");
                let password = url::Url::parse(&url).unwrap();
                let verifier = quick_verifier(password.password().unwrap());
                let quicken = format!("alter role {SUPERUSER} password '{verifier}'");
                execute(&url, &quicken).await;
                postgres
            })
        });
        let postgres = started.join().unwrap();
        SharedCluster {
            postgres: Mutex::new(postgres),
        }
    })
}

impl SharedCluster {
    /// URL of a database of the cluster, as superuser.
    pub fn url(&self, database: &str) -> String {
        self.postgres.lock().unwrap().url(database)
    }

    /// What the server told of deadlocks: who waited for whom, in which statements.
    pub fn deadlocks(&self) -> String {
        let log = self.postgres.lock().unwrap().dir().join("server.log");
        let log = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let is_found = |at: &usize| lines[*at].contains("deadlock detected");
        let told = (0..lines.len()).filter(is_found);
        let around = |at: usize| {
            lines[at..]
                .iter()
                .take(14)
                .copied()
                .collect::<Vec<_>>()
                .join("\n")
        };
        told.map(around).collect::<Vec<_>>().join("\n\n")
    }
}

/// What Postgres keeps of a password, with one round where the product has 4096: unoptimised, those are most of
/// what a connection costs, and tests connect tens of thousands of times.
pub fn quick_verifier(password: &str) -> String {
    let salt = [7; 16];
    let mut salted = [0; 32];
    let rounds = std::num::NonZeroU32::MIN;
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        rounds,
        &salt,
        password.as_bytes(),
        &mut salted,
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let stored = sha256(hmac::sign(&key, b"Client Key").as_ref());
    let server = hmac::sign(&key, b"Server Key");
    let [salt, stored, server] =
        [&salt[..], &stored, server.as_ref()].map(|it| STANDARD.encode(it));
    format!("SCRAM-SHA-256${rounds}:{salt}${stored}:{server}")
}

/// Runs statements in a database.
pub async fn execute(url: &str, sql: &str) {
    let executed = try_execute(url, sql).await;
    executed.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Runs statements in a database that may refuse them.
pub async fn try_execute(url: &str, sql: &str) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    let executed = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    executed.execute(&mut connection).await?;
    connection.close().await
}

/// The single value of a query.
pub async fn ask<T>(url: &str, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    let mut connection = PgConnection::connect(url).await.unwrap();
    let value = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(&mut connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    connection.close().await.unwrap();
    value
}

/// A session that holds what a statement locks.
pub struct Holder(PgConnection);

/// Runs a statement in a transaction that stays open.
pub async fn hold(url: &str, sql: &str) -> Holder {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("begin; {sql}")))
        .execute(&mut connection)
        .await
        .unwrap();
    Holder(connection)
}

impl Holder {
    /// Commits.
    pub async fn commit(&mut self) {
        sqlx::raw_sql("commit").execute(&mut self.0).await.unwrap();
    }

    /// Rolls back.
    pub async fn release(&mut self) {
        sqlx::raw_sql("rollback")
            .execute(&mut self.0)
            .await
            .unwrap();
    }
}

/// The rows of a query of three texts.
pub async fn rows(url: &str, sql: &str) -> Vec<(String, String, String)> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let rows = sqlx::query_as(AssertSqlSafe(sql.to_owned()))
        .fetch_all(&mut connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    connection.close().await.unwrap();
    rows
}
