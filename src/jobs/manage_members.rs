//! What may be done about members, with the jobs that follow from it.
//!
//! Guarantees: the change, its audit rows and its jobs are one transaction: the tenant's database is
//! told, and so is the provider where its API can be called.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    audit::Actor,
    config::Config,
    db::Db,
    members::{self, Error, Organization, Promise},
    queue::{self, Job, NewJob},
    tenants,
};

/// Where member operations are carried out.
#[derive(Debug, Clone)]
pub struct MemberDesk {
    db: Db,
    /// Sources whose provider can be called.
    callable: Vec<String>,
    max_attempts: i32,
}

impl MemberDesk {
    /// The desk of this configuration.
    pub fn new(db: Db, config: &Config) -> Self {
        let sources = config.sources.iter();
        let callable = sources.filter(|(_, source)| source.can_be_called());
        Self {
            db,
            callable: callable.map(|(name, _)| name.clone()).collect(),
            max_attempts: config.queue.max_attempts,
        }
    }

    /// Removes a member; returns how many staff assignments ended with it.
    pub async fn remove(
        &self,
        of: Organization<'_>,
        user_id: &str,
        actor: &Actor,
    ) -> Result<u64, Error> {
        self.db
            .transaction(async |tx| {
                self.tell_provider(tx, of, user_id).await?;
                let ended = members::remove(tx, of, user_id, actor).await?;
                self.tell_tenant(tx, of).await?;
                Ok(ended)
            })
            .await
    }

    /// Takes a removal back.
    pub async fn restore(
        &self,
        of: Organization<'_>,
        user_id: &str,
        actor: &Actor,
    ) -> Result<(), Error> {
        self.db
            .transaction(async |tx| {
                self.tell_provider(tx, of, user_id).await?;
                members::restore(tx, of, user_id, actor).await?;
                self.tell_tenant(tx, of).await
            })
            .await
    }

    /// Rouses the jobs that tell the tenant's database of its members, and the provider of what was decided here.
    ///
    /// Returns of how many memberships the provider is told.
    pub async fn sync(&self, of: Organization<'_>) -> Result<usize, Error> {
        self.db
            .transaction(async |tx| {
                let mut decided = Vec::new();
                if self.is_callable(of.source) {
                    decided = members::list_decided(tx, of).await?;
                }
                for membership in &decided {
                    queue::rouse(tx, &self.push(of, membership)).await?;
                }
                self.tell_tenant(tx, of).await?;
                Ok(decided.len())
            })
            .await
    }

    /// Asks for an invitation; returns our number of it.
    pub async fn invite(
        &self,
        of: Organization<'_>,
        promise: Promise<'_>,
        actor: &Actor,
    ) -> Result<Uuid, Error> {
        if !self.is_callable(of.source) {
            return Err(Error::NoProviderApi(of.source.to_owned()));
        }
        let send = |invitation: Uuid| NewJob {
            job: Job::SendInvitation { invitation },
            concurrency_key: Some(format!("{}:{}", of.source, of.org_id)),
            unique_key: Some(format!("invite:{invitation}")),
            max_attempts: self.max_attempts,
            delay: Duration::ZERO,
        };
        self.db
            .transaction(async |tx| members::invite(tx, of, promise, actor, send).await)
            .await
    }

    fn is_callable(&self, source: &str) -> bool {
        self.callable.iter().any(|callable| callable == source)
    }

    /// Before the change: the job of a membership is locked before the membership itself, as its handler does.
    async fn tell_provider(
        &self,
        tx: &mut PgConnection,
        of: Organization<'_>,
        user_id: &str,
    ) -> Result<(), Error> {
        if !self.is_callable(of.source) {
            return Ok(());
        }
        let membership = members::find(tx, of, user_id).await?.membership_id;
        queue::rouse(tx, &self.push(of, &membership)).await?;
        Ok(())
    }

    fn push(&self, of: Organization<'_>, membership: &str) -> NewJob {
        NewJob {
            job: Job::PushMembership {
                source: of.source.to_owned(),
                membership: membership.to_owned(),
            },
            concurrency_key: Some(format!("{}:{}", of.source, of.org_id)),
            unique_key: Some(format!("push:{}:{membership}", of.source)),
            max_attempts: self.max_attempts,
            delay: Duration::ZERO,
        }
    }

    /// After the change: memberships are locked before the job that syncs them, as events do.
    async fn tell_tenant(&self, tx: &mut PgConnection, of: Organization<'_>) -> Result<(), Error> {
        let tenant = tenants::find_of_organization(tx, of.source, of.org_id).await?;
        if let Some(tenant) = tenant {
            let key = (of.source, of.org_id);
            queue::rouse(
                tx,
                &NewJob::sync_members(tenant.id.0, key, self.max_attempts),
            )
            .await?;
        }
        Ok(())
    }
}
