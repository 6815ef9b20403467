//! A tenant whose blueprint goes on, and the migration of its database.

use std::path::Path;

use tenantry::{
    blueprint::Blueprint,
    provisioning::{
        BlueprintSource, StepError,
        migrators::{self, Migrated, Migration},
        template::{self, TemplateRecord},
    },
    tenant_db::{Cluster, Ident},
    tenants::Tenant,
};

use super::{
    App, Deployment,
    app::{new_org, wait_until},
    cluster::{ask, execute},
    events,
};

/// An application with one tenant that is ready.
pub struct Migrations {
    pub app: App,
    org: String,
    source: BlueprintSource,
}

impl Migrations {
    /// The tenant is made from the blueprint as it is now.
    pub async fn of(source: BlueprintSource) -> Self {
        let app = App::of(Deployment::new().await, source.clone()).await;
        let org = new_org();
        app.accepts(&[&events::created(&org, "Acme")]).await;
        app.tenant(&org).is_ready().await;
        Self { app, org, source }
    }

    /// The same as a replica with these keys sees it.
    pub async fn with_keys(&self, keys: &str) -> Self {
        let mut deployment = self.app.deployment.clone();
        deployment.set("TENANTRY__SECRETS__KEYS", keys);
        Self {
            app: App::listening(deployment, self.source.clone()).await,
            org: self.org.clone(),
            source: self.source.clone(),
        }
    }

    pub async fn tenant(&self) -> Tenant {
        self.app.tenant(&self.org).find().await.unwrap()
    }

    /// URL of the tenant's database, as superuser.
    pub async fn url(&self) -> String {
        self.app.deployment.url(&self.tenant().await.database)
    }

    pub async fn execute(&self, sql: &str) {
        execute(&self.url().await, sql).await;
    }

    pub async fn ask<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        ask(&self.url().await, sql).await
    }

    fn cluster(&self) -> &Cluster {
        let mut clusters = self.app.replica.provisioner.clusters.iter();
        clusters.next().unwrap()
    }

    /// Migrates to what the blueprint is now, without looking at a template.
    pub async fn migrate(&self) -> Result<Migrated, StepError> {
        self.migrate_to(&self.source.load().unwrap(), None).await
    }

    /// Builds the template of what the blueprint is now, and migrates to that.
    pub async fn follow_the_template(&self) -> Result<Migrated, StepError> {
        let blueprint = self.source.load()?;
        let wanted = self.template_of(&blueprint).await?;
        self.migrate_to(&blueprint, Some(&wanted)).await
    }

    pub async fn template_of(&self, blueprint: &Blueprint) -> Result<TemplateRecord, StepError> {
        let provisioner = &self.app.replica.provisioner;
        let cluster = self.cluster();
        let template = template::ensure(provisioner, cluster, blueprint).await?;
        let find = async |connection: &mut _| {
            template::find(connection, &cluster.name, &template.hash).await
        };
        Ok(provisioner.db.run(find).await?.unwrap())
    }

    pub async fn migrate_to(
        &self,
        blueprint: &Blueprint,
        template: Option<&TemplateRecord>,
    ) -> Result<Migrated, StepError> {
        let tenant = self.tenant().await;
        migrators::migrate(&Migration {
            is_on_record: false,
            recorded_hash: tenant.blueprint_hash.as_deref(),
            db: &self.app.replica.provisioner.db,
            cluster: self.cluster(),
            keyring: &self.app.replica.provisioner.keyring,
            blueprint,
            database: &Ident::new(&tenant.database).unwrap(),
            tenant: Some((tenant.id, "Acme \"& Sons\"")),
            mark: None,
            attempt: None,
            template,
        })
        .await
    }

    /// Nobody is in the tenant's database any more: a session that was closed takes the server a moment.
    pub async fn is_left(&self) {
        wait_until("no session is left", async || self.sessions().await == 0).await;
    }

    /// Sessions in the tenant's database.
    pub async fn sessions(&self) -> i64 {
        let sql = format!(
            "select count(*) from pg_stat_activity where datname = '{}'",
            self.tenant().await.database
        );
        self.app.ask(&sql).await
    }
}

/// Copies a blueprint, to change something in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}
