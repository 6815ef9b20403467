//! What a registration needs of a provider: an organization of its own, and somebody in it.
//!
//! Guarantees that each call may be made again after any error, a lost answer included, and ends in the same organization and
//! the same membership. What makes an organization the same is its external id; at Clerk within the limits that `clerk` tells.
//! Nobody is found by an address that he has not proved to have: anybody can sign up with another's.

use serde_json::Value;

use super::{
    Api, Client, Error, MembershipRef, ObjectKind, Refusal, clerk,
    exchange::{self, shown},
    found,
    page::{self, Pages},
    unreadable, workos,
};
use crate::webhooks::{IdentityEvent, Membership, Said};

/// An organization to be created.
#[derive(Debug, Clone, Copy)]
pub struct NewOrganization<'a> {
    /// The name for people.
    pub name: &'a str,
    /// The application's own id for it, which makes the creation idempotent. `WorkOS` takes 128 ASCII characters.
    pub external_id: &'a str,
    /// An e-mail domain, not verified yet; `WorkOS` alone is told.
    pub domain: Option<&'a str>,
}

impl NewOrganization<'_> {
    /// What is attempted.
    pub(super) fn doing(&self) -> String {
        format!("creating the organization of {}", shown(self.external_id))
    }
}

/// Somebody to be in an organization.
#[derive(Debug, Clone, Copy)]
pub struct NewMember<'a> {
    /// The organization, by its provider's id.
    pub org_id: &'a str,
    /// The user, by the provider's id.
    pub user_id: &'a str,
    /// Slug of the role, without prefix.
    pub role: &'a str,
}

impl Client {
    /// Finds the organization with this external id; `None` when the provider has none.
    ///
    /// At Clerk, one that was created where slugs are switched off is found among the newest thousand.
    pub async fn find_organization_by_external_id(
        &self,
        external_id: &str,
    ) -> Result<Option<Vec<IdentityEvent>>, Error> {
        self.look_for(external_id, None).await
    }

    /// Creates an organization, or finds the one that has the external id already, whatever that is called by now.
    ///
    /// The last event is the organization's; before it come those of its domains.
    pub async fn create_organization(
        &self,
        new: &NewOrganization<'_>,
    ) -> Result<Vec<IdentityEvent>, Error> {
        if let Some(known) = self.look_for(new.external_id, Some(new.name)).await? {
            return Ok(known);
        }
        match self.make_organization(new).await {
            // an earlier attempt of ours may have been first, in whatever words that is refused
            Err(error @ Error::Refused { .. }) => {
                let known = self.look_for(new.external_id, Some(new.name)).await?;
                known.ok_or(error)
            }
            made => made,
        }
    }

    /// Deletes an organization with its memberships and invitations; one that is not there (any more) is success.
    ///
    /// `WorkOS` may take longer than its answer: for a while the organization may still be found.
    pub async fn delete_organization(&self, org_id: &str) -> Result<(), Error> {
        let call = match self.api {
            Api::Workos => workos::delete_organization(org_id),
            Api::Clerk => clerk::delete_organization(org_id),
        };
        found(self.connection.exchange(&call).await).map(|_| ())
    }

    /// Finds a user by a verified e-mail address, in whatever case; of several the one that was created first.
    ///
    /// `None` also for a user who has not verified the address: whoever wants to reach its owner invites.
    pub async fn find_user_by_email(
        &self,
        email: &str,
    ) -> Result<Option<Vec<IdentityEvent>>, Error> {
        type Has = fn(&Value, &str) -> bool;
        type CreatedAt = fn(&Value) -> Option<i64>;
        if !email.contains('@') {
            // without a filter, everybody would be listed
            return Ok(None);
        }
        let (call, has, created_at): (_, Has, CreatedAt) = match self.api {
            Api::Workos => (
                workos::find_users(email),
                workos::has_address,
                workos::created_at,
            ),
            Api::Clerk => (
                clerk::find_users(email),
                clerk::has_address,
                clerk::created_at,
            ),
        };
        let doing = call.doing.clone();
        let users = page::read_all(self.api, &self.connection, call).await?;
        let first = users
            .iter()
            .filter(|user| has(user, email))
            .min_by_key(|user| created_at(user).unwrap_or(i64::MAX));
        first
            .map(|user| self.events(&doing, ObjectKind::User, user))
            .transpose()
    }

    /// Makes a user a member with this role; who is a member already is given the role.
    ///
    /// The membership may be a pending one, where the user was invited before; `WorkOS` may also refuse then, with
    /// [`Refusal::MembershipPending`]. The last event is the membership's.
    pub async fn add_member(&self, new: &NewMember<'_>) -> Result<Vec<IdentityEvent>, Error> {
        let wanted = MembershipRef {
            org_id: new.org_id,
            user_id: new.user_id,
            membership_id: "",
            role: Some(new.role),
        };
        let (create, find) = match self.api {
            Api::Workos => (
                workos::create_membership(&wanted),
                workos::find_membership(&wanted),
            ),
            Api::Clerk => (
                clerk::create_membership(&wanted),
                clerk::find_membership(&wanted),
            ),
        };
        let doing = create.doing.clone();
        let events = match self.connection.exchange(&create).await {
            Ok(answer) => self.events(&doing, ObjectKind::Membership, &answer.body)?,
            Err(error) if error.reason() == Some(Refusal::AlreadyMember) => {
                self.memberships(find).await?
            }
            Err(error) => return Err(error),
        };
        let left = || unreadable(&doing, "a member of whom nothing is known".to_owned());
        // whoever else is listed, should the provider not filter, keeps the role he has
        let of_user = |event| membership_of(event, new.user_id);
        let membership = events.iter().rev().find_map(of_user);
        let membership = membership.ok_or_else(left)?;
        let described = membership.described.as_ref();
        let role = described.and_then(|described| described.content.role.as_deref());
        if role == Some(new.role) {
            return Ok(events);
        }
        // was a member before, or was inactive and came back with the role of then
        let known = MembershipRef {
            membership_id: &membership.id,
            ..wanted
        };
        let events = self.set_role(&known, new.role).await?;
        if events.is_empty() {
            return Err(left());
        }
        Ok(events)
    }

    async fn look_for(
        &self,
        external_id: &str,
        name: Option<&str>,
    ) -> Result<Option<Vec<IdentityEvent>>, Error> {
        if external_id.trim().is_empty() || !exchange::is_id(external_id) {
            let doing = format!("finding the organization of {}", shown(external_id));
            return Err(Error::BadId { doing });
        }
        let call = match self.api {
            Api::Workos => workos::find_organization_by_external_id(external_id),
            Api::Clerk => clerk::find_organization_by_slug(external_id),
        };
        let known = self.find(ObjectKind::Organization, &call).await?;
        match self.api {
            Api::Workos => Ok(known),
            Api::Clerk => match known.filter(|events| is_of(events, external_id)) {
                Some(events) => Ok(Some(events)),
                None => self.search(external_id, name).await,
            },
        }
    }

    /// Looks through Clerk's list of organizations.
    async fn search(
        &self,
        external_id: &str,
        name: Option<&str>,
    ) -> Result<Option<Vec<IdentityEvent>>, Error> {
        let call = clerk::search_organizations(external_id, name);
        let doing = call.doing.clone();
        let mut pages = Pages::new(self.api, &self.connection, call);
        for _ in 0..clerk::MAX_SEARCHED_PAGES {
            let Some(items) = pages.next().await? else {
                break;
            };
            for item in &items {
                let events = self.events(&doing, ObjectKind::Organization, item)?;
                if is_of(&events, external_id) {
                    return Ok(Some(events));
                }
            }
        }
        Ok(None)
    }

    async fn make_organization(
        &self,
        new: &NewOrganization<'_>,
    ) -> Result<Vec<IdentityEvent>, Error> {
        let call = match self.api {
            Api::Workos => workos::create_organization(new),
            Api::Clerk => clerk::create_organization(new, true),
        };
        let answer = match (self.api, self.connection.exchange(&call).await) {
            (Api::Clerk, Err(error)) if error.reason() == Some(Refusal::SlugsDisabled) => {
                let call = clerk::create_organization(new, false);
                self.connection.exchange(&call).await?
            }
            (_, answer) => answer?,
        };
        self.events(&call.doing, ObjectKind::Organization, &answer.body)
    }
}

/// Whether it is the organization of this external id that the events speak of.
fn is_of(events: &[IdentityEvent], external_id: &str) -> bool {
    events.iter().any(|event| match event {
        IdentityEvent::Organization(said) => said
            .described
            .as_ref()
            .is_some_and(|described| described.content.external_id.as_deref() == Some(external_id)),
        _ => false,
    })
}

/// The user's membership, if that is what the event speaks of.
fn membership_of<'a>(event: &'a IdentityEvent, user_id: &str) -> Option<&'a Said<Membership>> {
    match event {
        IdentityEvent::Membership(said) => {
            let described = said.described.as_ref();
            described
                .is_some_and(|described| described.content.user_id == user_id)
                .then_some(said)
        }
        _ => None,
    }
}
