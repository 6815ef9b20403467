//! A small pool of connections for each of the tenants that were asked for last.
//!
//! One is made once, however many requests wait for it. The one that was not used for longest is closed when
//! there are too many; connections that are in use then are finished first.

use std::{fmt, sync::Arc, time::Duration};

use moka::{
    future::{Cache, FutureExt},
    policy::EvictionPolicy,
};
use serde::Deserialize;
use sqlx::{
    PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// Whose database a request works in, as tenantry says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tenant {
    pub id: String,
    pub database: String,
}

/// Where credentials come from, and how many connections there may be.
pub struct Settings {
    pub tenantry: String,
    pub key: String,
    pub pools: u64,
    pub pool_size: u32,
}

/// What tenantry answers of a tenant's connection.
#[derive(Deserialize)]
struct Told {
    database: String,
    url: String,
}

/// Why there is no connection.
#[derive(Debug, Clone)]
pub enum Error {
    Credentials(Arc<reqwest::Error>),
    Moved,
    Database(Arc<sqlx::Error>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credentials(error) => {
                write!(f, "tenantry does not tell the credentials: {error}")
            }
            Self::Moved => f.write_str("the tenant has another database now"),
            Self::Database(error) => write!(f, "the database does not answer: {error}"),
        }
    }
}

impl From<reqwest::Error> for Error {
    fn from(error: reqwest::Error) -> Self {
        Self::Credentials(Arc::new(error))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

/// The pools.
pub struct Pools {
    settings: Settings,
    client: reqwest::Client,
    pools: Cache<Tenant, PgPool>,
}

impl Pools {
    pub fn new(settings: Settings) -> reqwest::Result<Self> {
        let pools = Cache::builder()
            .max_capacity(settings.pools)
            // the usual policy would rather not take a new tenant in
            .eviction_policy(EvictionPolicy::lru())
            .async_eviction_listener(|_, pool: PgPool, _| {
                // who uses a connection finishes first; nobody waits for that
                async move { drop(tokio::spawn(async move { pool.close().await })) }.boxed()
            })
            .build();
        Ok(Self {
            client: reqwest::Client::builder()
                .timeout(Duration::from_secs(5))
                .build()?,
            settings,
            pools,
        })
    }

    /// A connection to the database of a tenant.
    pub async fn connection(&self, tenant: &Tenant) -> Result<PoolConnection<Postgres>, Error> {
        loop {
            let made = self.pools.try_get_with_by_ref(tenant, self.make(tenant));
            let pool = made.await.map_err(|error| Error::clone(&error))?;
            match pool.acquire().await {
                Ok(connection) => return Ok(connection),
                // it was the oldest, between the two lines above
                Err(sqlx::Error::PoolClosed) => {}
                Err(error) => {
                    // too busy is no reason to begin anew; the password may be a new one
                    if !matches!(error, sqlx::Error::PoolTimedOut) {
                        self.pools.invalidate(tenant).await;
                    }
                    return Err(error.into());
                }
            }
        }
    }

    /// How many tenants have a pool.
    pub async fn open(&self) -> u64 {
        self.pools.run_pending_tasks().await;
        self.pools.entry_count()
    }

    async fn make(&self, tenant: &Tenant) -> Result<PgPool, Error> {
        let url = format!(
            "{}/v1/tenants/{}/connection",
            self.settings.tenantry, tenant.id
        );
        let answer = self.client.get(url).bearer_auth(&self.settings.key);
        let told: Told = answer.send().await?.error_for_status()?.json().await?;
        if told.database != tenant.database {
            return Err(Error::Moved);
        }
        let options: PgConnectOptions = told.url.parse()?;
        let pool = PgPoolOptions::new()
            .max_connections(self.settings.pool_size)
            .acquire_timeout(Duration::from_secs(5))
            .idle_timeout(Duration::from_mins(1));
        Ok(pool.connect_lazy_with(options))
    }
}
