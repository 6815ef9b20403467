//! What may be done about members, with the jobs that follow from it.
//!
//! Guarantees: the change, its audit rows and its jobs are one transaction, which is the caller's: the
//! tenant's database is told, so is whoever listens, and the provider where its API can be called. An error means that
//! nothing was decided; jobs that were roused all the same find nothing to do.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    audit::Actor,
    config::Config,
    identity::MemberKey,
    jobs,
    members::{self, Error, Organization, Promise},
    notifications,
    queue::{self, NewJob},
    webhooks::SourceKind,
};

/// Where member operations are carried out.
#[derive(Debug, Clone)]
pub struct MemberDesk {
    /// Sources whose provider can be called, and whose API it is.
    callable: BTreeMap<String, SourceKind>,
    max_attempts: i32,
}

impl MemberDesk {
    /// The desk of this configuration.
    pub fn new(config: &Config) -> Self {
        let sources = config.sources.iter();
        let callable = sources.filter(|(_, source)| source.can_be_called());
        Self {
            callable: callable
                .map(|(name, source)| (name.clone(), source.kind))
                .collect(),
            max_attempts: config.queue.max_attempts,
        }
    }

    /// Removes a member; returns how many staff assignments ended with it.
    pub async fn remove(
        &self,
        tx: &mut PgConnection,
        of: Organization<'_>,
        user_id: &str,
        actor: &Actor,
    ) -> Result<u64, Error> {
        self.tell_provider(tx, of, user_id).await?;
        let ended = members::remove(tx, of, user_id, actor).await?;
        self.tell_tenant(tx, of).await?;
        tell_listeners(tx, of, user_id).await?;
        Ok(ended)
    }

    /// Takes a removal back.
    pub async fn restore(
        &self,
        tx: &mut PgConnection,
        of: Organization<'_>,
        user_id: &str,
        actor: &Actor,
    ) -> Result<(), Error> {
        self.tell_provider(tx, of, user_id).await?;
        members::restore(tx, of, user_id, actor).await?;
        self.tell_tenant(tx, of).await?;
        tell_listeners(tx, of, user_id).await
    }

    /// Gives a member another role; false when the member has it already.
    pub async fn set_role(
        &self,
        tx: &mut PgConnection,
        of: Organization<'_>,
        (user_id, role): (&str, &str),
        actor: &Actor,
    ) -> Result<bool, Error> {
        members::find(tx, of, user_id).await?;
        // of whom the provider is not told, it would undo the decision with its next word
        self.api(of)?;
        self.tell_provider(tx, of, user_id).await?;
        let is_changed = members::set_role(tx, of, user_id, role, actor).await?;
        self.tell_tenant(tx, of).await?;
        Ok(is_changed)
    }

    /// Rouses the jobs that tell the tenant's database of its members, and the provider of what was decided here.
    ///
    /// Returns of how many memberships the provider is told.
    pub async fn sync(&self, tx: &mut PgConnection, of: Organization<'_>) -> Result<usize, Error> {
        let mut decided = Vec::new();
        if self.callable.contains_key(of.source) {
            decided = members::list_decided(tx, of).await?;
        }
        for membership in &decided {
            queue::rouse(tx, &self.push(of, membership)).await?;
        }
        self.tell_tenant(tx, of).await?;
        Ok(decided.len())
    }

    /// Asks for an invitation; returns our id of it.
    pub async fn invite(
        &self,
        tx: &mut PgConnection,
        of: Organization<'_>,
        promise: Promise<'_>,
        actor: &Actor,
    ) -> Result<Uuid, Error> {
        self.api(of)?;
        let organization = (of.source, of.org_id);
        let send =
            |invitation| NewJob::send_invitation(invitation, organization, self.max_attempts);
        members::invite(tx, of, promise, actor, send).await
    }

    /// Takes an invitation back that is requested or pending.
    pub async fn revoke(
        &self,
        tx: &mut PgConnection,
        of: Organization<'_>,
        invitation: Uuid,
        actor: &Actor,
    ) -> Result<(), Error> {
        let is_unsent = members::is_unsent(tx, of, invitation).await?;
        // the jobs of an invitation are locked before the invitation itself, as their handlers do
        let is_never_sent =
            is_unsent && queue::withdraw(tx, &queue::invite_key(invitation)).await?;
        let organization = (of.source, of.org_id);
        let tell = NewJob::revoke_invitation(invitation, organization, self.max_attempts);
        if !is_never_sent {
            self.api(of)?;
            queue::rouse(tx, &tell).await?;
        }
        let is_still_unsent = members::revoke(tx, of, invitation, actor).await?;
        if is_never_sent && !is_still_unsent {
            // the provider had one of this address all the same, and told of it in this moment
            queue::enqueue(tx, &tell).await?;
        }
        Ok(())
    }

    /// Has an invitation sent again that is pending or has expired.
    pub async fn resend(
        &self,
        tx: &mut PgConnection,
        of: Organization<'_>,
        invitation: Uuid,
        actor: &Actor,
    ) -> Result<(), Error> {
        members::find_invitation(tx, of, invitation).await?;
        if self.api(of)? == SourceKind::Clerk {
            return Err(Error::CannotResend(of.source.to_owned()));
        }
        members::resend(tx, of, invitation, actor).await?;
        let organization = (of.source, of.org_id);
        let job = NewJob::resend_invitation(invitation, organization, self.max_attempts);
        queue::enqueue(tx, &job).await?;
        Ok(())
    }

    /// Whose API can be called.
    fn api(&self, of: Organization<'_>) -> Result<SourceKind, Error> {
        let kind = self.callable.get(of.source).copied();
        kind.ok_or_else(|| Error::NoProviderApi(of.source.to_owned()))
    }

    /// Before the change: the job of a membership is locked before the membership itself, as its handler does.
    async fn tell_provider(
        &self,
        tx: &mut PgConnection,
        of: Organization<'_>,
        user_id: &str,
    ) -> Result<(), Error> {
        if !self.callable.contains_key(of.source) {
            return Ok(());
        }
        let membership = members::find(tx, of, user_id).await?.membership_id;
        queue::rouse(tx, &self.push(of, &membership)).await?;
        Ok(())
    }

    fn push(&self, of: Organization<'_>, membership: &str) -> NewJob {
        NewJob::push_membership(membership, (of.source, of.org_id), self.max_attempts)
    }

    /// After the change: memberships are locked before the job that syncs them, as events do.
    async fn tell_tenant(&self, tx: &mut PgConnection, of: Organization<'_>) -> Result<(), Error> {
        jobs::rouse_sync(tx, (of.source, of.org_id), self.max_attempts).await?;
        Ok(())
    }
}

/// After everything else: it locks what the commits of others wait for.
async fn tell_listeners(
    tx: &mut PgConnection,
    of: Organization<'_>,
    user_id: &str,
) -> Result<(), Error> {
    if notifications::are_members_told(tx).await? {
        let member = MemberKey {
            source: of.source.to_owned(),
            org_id: of.org_id.to_owned(),
            user_id: user_id.to_owned(),
        };
        notifications::announce_members(tx, &[member], of.admin_role).await?;
    }
    Ok(())
}
