//! The warm pool of a deployment, as its rows and the server know it.

use super::{Deployment, app::wait_until, cluster::ask};

/// A deployment with a pool of so many databases, which evicts what is stale at once.
pub async fn with_pool(size: u32) -> Deployment {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__POOL__SIZE", &size.to_string());
    deployment.set("TENANTRY__POOL__EVICT_AFTER_S", "0");
    deployment
}

impl Deployment {
    /// The same without a pool.
    pub fn without_pool(&self) -> Self {
        let mut this = self.clone();
        this.set("TENANTRY__POOL__SIZE", "0");
        this
    }

    /// The single value of a query on the control database.
    pub async fn control<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        ask(&self.control_url, sql).await
    }

    /// Databases of the pool, whatever their rows say.
    pub async fn pool_databases(&self) -> Vec<String> {
        let sql = format!(
            "select coalesce(array_agg(datname::text order by datname), '{{}}') from pg_database
             where starts_with(datname, '{}pool_')",
            self.prefix
        );
        self.control(&sql).await
    }

    /// Number of a database on the server, which a new name does not change.
    pub async fn oid(&self, database: &str) -> i64 {
        let sql = format!("select oid::bigint from pg_database where datname = '{database}'");
        self.control(&sql).await
    }

    /// Waits until exactly so many are ready and nothing else is on record, nor on the server.
    pub async fn pool_is(&self, ready: usize, what: &str) {
        wait_until(&format!("{what}: {ready} are ready"), async || {
            self.pool_agrees()
                .await
                .is_some_and(|there| there.len() == ready)
        })
        .await;
    }

    /// The databases of the pool, if each has its row, each row its database, and all are ready.
    pub async fn pool_agrees(&self) -> Option<Vec<String>> {
        let is_migrated = "select to_regclass('pool_databases') is not null";
        if !self.control::<bool>(is_migrated).await {
            return None;
        }
        let others = "select count(*) from pool_databases where state <> 'ready'";
        let rows =
            "select coalesce(array_agg(database order by database), '{}') from pool_databases";
        let rows: Vec<String> = self.control(rows).await;
        let agrees = self.control::<i64>(others).await == 0 && self.pool_databases().await == rows;
        agrees.then_some(rows)
    }
}
