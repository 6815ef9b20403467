//! The REST APIs of identity providers: what a webhook did not say is asked, what we decide is told.
//!
//! ```text
//! Client ─▶ Call (workos · clerk) ─▶ exchange ─▶ answer ─▶ webhooks::read_object ─▶ the events a webhook would have brought
//!                                     timeouts    Error
//! ```
//!
//! Guarantees: every call ends within its timeout (15 s, 5 s of them for connecting; a list has that for each page); redirects
//! are not followed and answers over 1 MiB not read; ids are data and never paths; the API key is in no error, log or `Debug`;
//! after a 429 nothing is sent until the provider's `Retry-After` is over, by no clone of the client: calls fail at once with
//! [`Error::RateLimited`] and the time that is left. What is idempotent at one provider is so at both: to deactivate what is not
//! active and to reactivate what is, succeeds; so does to create an organization that is there, to delete one that is gone, and to
//! add a member.
//!
//! Does not: try again, store anything, or make two calls into one change. [`Error::is_retryable`] says when the caller should
//! come back; a call that ended in [`Error::Unavailable`] or [`Error::Unreadable`] may have had its effect.

mod answer;
mod clerk;
mod error;
mod exchange;
mod page;
mod registration;
mod workos;

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde_json::Value;

pub use error::{Error, Refusal};
pub use registration::{NewMember, NewOrganization};

use self::{
    answer::Answer,
    exchange::{Call, Connection, shown},
};
use crate::webhooks::{self, IdentityEvent, Invitation, ObjectKind, Said, SourceKind};

/// The APIs that are known here.
#[derive(Debug, Clone, Copy)]
enum Api {
    Workos,
    Clerk,
}

impl Api {
    const fn of(kind: SourceKind) -> Option<Self> {
        match kind {
            SourceKind::Workos => Some(Self::Workos),
            SourceKind::Clerk => Some(Self::Clerk),
            SourceKind::Standard => None,
        }
    }
}

/// Somebody to be invited.
#[derive(Debug, Clone, Copy)]
pub struct NewInvitation<'a> {
    /// The organization, by its provider's id.
    pub org_id: &'a str,
    /// Where the invitation goes.
    pub email: &'a str,
    /// Slug of the role, without prefix; `None`: `WorkOS` takes the environment's default, Clerk gets `member`.
    pub role: Option<&'a str>,
    /// Who invites, by the provider's id.
    pub inviter_user_id: Option<&'a str>,
    /// The application's customer that the person is for. Clerk keeps it with the invitation; `WorkOS` has no place for it, so
    /// the caller has to.
    pub customer_id: Option<&'a str>,
}

/// A membership, by everything that providers name it by.
#[derive(Debug, Clone, Copy)]
pub struct MembershipRef<'a> {
    /// The organization, by its provider's id.
    pub org_id: &'a str,
    /// The user, by the provider's id.
    pub user_id: &'a str,
    /// The membership itself, which `WorkOS` names it by.
    pub membership_id: &'a str,
    /// Slug of the role, without prefix, should the membership have to be made again.
    pub role: Option<&'a str>,
}

impl MembershipRef<'_> {
    fn shown(&self) -> String {
        let (user, org) = (shown(self.user_id), shown(self.org_id));
        format!("user {user} in organization {org}")
    }
}

/// A client of one source's API; cheap to clone.
#[derive(Clone)]
pub struct Client {
    kind: SourceKind,
    api: Api,
    connection: Connection,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("kind", &self.kind)
            .field("api_url", &self.connection.base().as_str())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Prepares a client; nothing is sent yet.
    ///
    /// `api_url` is the provider's own when empty; another one has no version in it (`https://api.clerk.com`). The key goes
    /// there, so it should be `https`; `http` is for emulators.
    pub fn new(kind: SourceKind, api_key: &SecretString, api_url: &str) -> Result<Self, Error> {
        let api = Api::of(kind).ok_or(Error::NoApi(kind))?;
        let own = match api {
            Api::Workos => workos::API_URL,
            Api::Clerk => clerk::API_URL,
        };
        let api_url = api_url.trim();
        let url = if api_url.is_empty() { own } else { api_url };
        let connection = match api {
            Api::Workos => Connection::new(url, api_key, &[]),
            Api::Clerk => {
                let url = format!("{}/{}", url.trim_end_matches('/'), clerk::PATH_VERSION);
                Connection::new(&url, api_key, &[clerk::VERSION])
            }
        }?;
        Ok(Self {
            kind,
            api,
            connection,
        })
    }

    /// The same client with another limit for a whole call, or for each page of a list.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self {
            connection: self.connection.with_timeout(timeout),
            ..self
        }
    }

    /// Whose API it is.
    pub const fn kind(&self) -> SourceKind {
        self.kind
    }

    /// Finds an organization; `None` when the provider does not know it (404).
    pub async fn find_organization(
        &self,
        org_id: &str,
    ) -> Result<Option<Vec<IdentityEvent>>, Error> {
        let call = match self.api {
            Api::Workos => workos::find_organization(org_id),
            Api::Clerk => clerk::find_organization(org_id),
        };
        self.find(ObjectKind::Organization, &call).await
    }

    /// Finds a user; `None` when the provider does not know it (404).
    pub async fn find_user(&self, user_id: &str) -> Result<Option<Vec<IdentityEvent>>, Error> {
        let call = match self.api {
            Api::Workos => workos::find_user(user_id),
            Api::Clerk => clerk::find_user(user_id),
        };
        self.find(ObjectKind::User, &call).await
    }

    /// Lists all memberships of an organization, of every status, all pages.
    ///
    /// One that cannot be read fails the whole list: who is missing in it would look removed. An organization that the provider
    /// does not know has none, or is refused with [`Refusal::NotFound`].
    pub async fn list_memberships(&self, org_id: &str) -> Result<Vec<IdentityEvent>, Error> {
        self.memberships(match self.api {
            Api::Workos => workos::list_memberships(org_id),
            Api::Clerk => clerk::list_memberships(org_id),
        })
        .await
    }

    /// Lists all invitations to an organization, of every state, all pages; with `email` only those to that address, in
    /// whatever case.
    pub async fn list_invitations(
        &self,
        org_id: &str,
        email: Option<&str>,
    ) -> Result<Vec<Said<Invitation>>, Error> {
        let call = match self.api {
            Api::Workos => workos::list_invitations(org_id, email),
            Api::Clerk => clerk::list_invitations(org_id, email),
        };
        let doing = call.doing.clone();
        let items = page::read_all(self.api, &self.connection, call).await?;
        let mut found = Vec::new();
        for item in &items {
            let events = self.events(&doing, ObjectKind::Invitation, item)?;
            found.extend(events.into_iter().filter_map(as_invitation));
        }
        if let Some(email) = email {
            // the providers filter, but do not promise how they compare
            found.retain(|said| goes_to(said, email));
        }
        Ok(found)
    }

    /// Invites somebody to an organization; the provider sends the e-mail.
    ///
    /// Neither provider makes this idempotent: after [`Error::Unavailable`] look with [`Client::list_invitations`], or take
    /// [`Refusal::AlreadyInvited`] for the answer.
    pub async fn send_invitation(
        &self,
        new: &NewInvitation<'_>,
    ) -> Result<Said<Invitation>, Error> {
        self.invitation(&match self.api {
            Api::Workos => workos::send_invitation(new),
            Api::Clerk => clerk::send_invitation(new),
        })
        .await
    }

    /// Revokes a pending invitation; any other is refused with [`Refusal::InvitationNotPending`].
    pub async fn revoke_invitation(
        &self,
        org_id: &str,
        invitation_id: &str,
    ) -> Result<Said<Invitation>, Error> {
        self.invitation(&match self.api {
            Api::Workos => workos::revoke_invitation(invitation_id),
            Api::Clerk => clerk::revoke_invitation(org_id, invitation_id),
        })
        .await
    }

    /// Sends a pending invitation's e-mail again.
    ///
    /// Clerk cannot: [`Error::Unsupported`], before anything is sent. Revoking and inviting anew is not the same, because it
    /// is two changes with a moment in between and an invitation of another id; who wants it does both and stores both.
    pub async fn resend_invitation(
        &self,
        _org_id: &str,
        invitation_id: &str,
    ) -> Result<Said<Invitation>, Error> {
        match self.api {
            Api::Workos => {
                self.invitation(&workos::resend_invitation(invitation_id))
                    .await
            }
            Api::Clerk => Err(Error::Unsupported {
                doing: format!("resending invitation {}", shown(invitation_id)),
                kind: self.kind,
            }),
        }
    }

    /// Takes a membership out of force: `WorkOS` keeps it as inactive, Clerk ends it.
    ///
    /// Empty when the provider does not know the membership (any more), which is success.
    pub async fn deactivate_membership(
        &self,
        membership: &MembershipRef<'_>,
    ) -> Result<Vec<IdentityEvent>, Error> {
        let call = match self.api {
            Api::Workos => workos::deactivate_membership(membership),
            Api::Clerk => clerk::delete_membership(membership),
        };
        let Some(answer) = found(self.connection.exchange(&call).await)? else {
            return Ok(Vec::new());
        };
        let events = self.events(&call.doing, ObjectKind::Membership, &answer.body)?;
        Ok(match self.api {
            Api::Workos => events,
            Api::Clerk => ended(events, answer.date),
        })
    }

    /// Puts a membership into force again, or makes it anew with the role where the provider has none to reactivate.
    pub async fn reactivate_membership(
        &self,
        membership: &MembershipRef<'_>,
    ) -> Result<Vec<IdentityEvent>, Error> {
        let (create, find) = match self.api {
            Api::Workos => {
                let call = workos::reactivate_membership(membership);
                if let Some(answer) = found(self.connection.exchange(&call).await)? {
                    return self.events(&call.doing, ObjectKind::Membership, &answer.body);
                }
                (
                    workos::create_membership(membership),
                    workos::find_membership(membership),
                )
            }
            Api::Clerk => (
                clerk::create_membership(membership),
                clerk::find_membership(membership),
            ),
        };
        match self.connection.exchange(&create).await {
            Ok(answer) => self.events(&create.doing, ObjectKind::Membership, &answer.body),
            // an earlier attempt of ours, or somebody else, was there first
            Err(error) if error.reason() == Some(Refusal::AlreadyMember) => {
                self.memberships(find).await
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a membership this role, a slug without prefix. One that it has already is no error.
    ///
    /// Empty when the provider does not know the membership (any more): there is nothing left to have a role.
    pub async fn set_role(
        &self,
        membership: &MembershipRef<'_>,
        role: &str,
    ) -> Result<Vec<IdentityEvent>, Error> {
        let call = match self.api {
            Api::Workos => workos::set_role(membership, role),
            Api::Clerk => clerk::set_role(membership, role),
        };
        match found(self.connection.exchange(&call).await)? {
            Some(answer) => self.events(&call.doing, ObjectKind::Membership, &answer.body),
            None => Ok(Vec::new()),
        }
    }

    async fn find(
        &self,
        object: ObjectKind,
        call: &Call,
    ) -> Result<Option<Vec<IdentityEvent>>, Error> {
        match found(self.connection.exchange(call).await)? {
            Some(answer) => self.events(&call.doing, object, &answer.body).map(Some),
            None => Ok(None),
        }
    }

    async fn memberships(&self, call: Call) -> Result<Vec<IdentityEvent>, Error> {
        let doing = call.doing.clone();
        let items = page::read_all(self.api, &self.connection, call).await?;
        let mut events = Vec::new();
        for item in &items {
            events.extend(self.events(&doing, ObjectKind::Membership, item)?);
        }
        Ok(events)
    }

    async fn invitation(&self, call: &Call) -> Result<Said<Invitation>, Error> {
        let answer = self.connection.exchange(call).await?;
        let events = self.events(&call.doing, ObjectKind::Invitation, &answer.body)?;
        let invitation = events.into_iter().find_map(as_invitation);
        invitation.ok_or_else(|| unreadable(&call.doing, "there is no invitation in it".to_owned()))
    }

    /// Reads one object as the webhook would have been read.
    fn events(
        &self,
        doing: &str,
        object: ObjectKind,
        value: &Value,
    ) -> Result<Vec<IdentityEvent>, Error> {
        let Value::Object(map) = value else {
            return Err(unreadable(doing, "it is not an object".to_owned()));
        };
        webhooks::read_object(self.kind, object, map)
            .map_err(|reason| unreadable(doing, reason.to_string()))
    }
}

/// The answer, unless the provider does not know what was asked about.
fn found(answer: Result<Answer, Error>) -> Result<Option<Answer>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.reason() == Some(Refusal::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn unreadable(doing: &str, problem: String) -> Error {
    Error::Unreadable {
        doing: doing.to_owned(),
        problem,
        request: String::new(),
    }
}

fn as_invitation(event: IdentityEvent) -> Option<Said<Invitation>> {
    match event {
        IdentityEvent::Invitation(said) => Some(said),
        _ => None,
    }
}

fn goes_to(said: &Said<Invitation>, email: &str) -> bool {
    let address = said.described.as_ref();
    address
        .and_then(|described| described.content.email.as_deref())
        .is_some_and(|address| address.eq_ignore_ascii_case(email))
}

/// The events of a membership as it was, now that it has ended: what its deletion's webhook says.
///
/// `date` is cut to the second and so may lie before the membership's last change; the later of the two counts. The
/// organization around it is left out, as it is there: it may be the organization that is going.
fn ended(events: Vec<IdentityEvent>, date: Option<DateTime<Utc>>) -> Vec<IdentityEvent> {
    let ended = events.into_iter().filter_map(|event| match event {
        IdentityEvent::Membership(mut said) => {
            let described = said.described.as_ref();
            said.deleted_at = date.max(described.map(|described| described.updated_at));
            Some(IdentityEvent::Membership(said))
        }
        _ => None,
    });
    ended.collect()
}
