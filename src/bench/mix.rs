//! What providers send all day: people, with a few organizations among them.
//!
//! Guarantees: the shares are the same in every stretch of a hundred events; the later an event, the
//! newer its description; bodies have the fields and the size that `WorkOS` gives them.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::sender::{Event, now};

/// What the accept measures send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Events {
    /// Nothing but new organizations
    #[default]
    Organizations,
    /// 10 % organizations, 35 % users, 40 % memberships, 10 % invitations, 5 % roles and ignored types
    Mixed,
}

impl Events {
    /// An event of these; `run` and `number` make it unlike any other.
    pub(super) fn event(self, run: &str, number: u64) -> Event {
        match self {
            Self::Organizations => Event::created(run, number),
            Self::Mixed => Mix::new(300, 600).event(run, number, now()),
        }
    }
}

/// Objects that events speak of: every user is a member of one organization.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mix {
    organizations: u64,
    users: u64,
}

/// Coprime to the ranges it is taken modulo of: every stretch has every kind.
const STEP: u64 = 37;

impl Mix {
    pub(super) const fn new(organizations: u64, users: u64) -> Self {
        Self {
            organizations,
            users,
        }
    }

    /// One of all kinds.
    pub(super) fn event(self, run: &str, number: u64, at: DateTime<Utc>) -> Event {
        self.of(number * STEP % 100, run, number, at)
    }

    /// One about people or roles; its description is `number` ms newer than `start`.
    pub(super) fn people(self, run: &str, number: u64, start: DateTime<Utc>) -> Event {
        let age = TimeDelta::milliseconds(number.cast_signed());
        self.of(10 + number * STEP % 87, run, number, start + age)
    }

    /// Each organization as it was created.
    pub(super) fn organizations(self, run: &str, at: DateTime<Utc>) -> impl Iterator<Item = Event> {
        (0..self.organizations).map(move |number| {
            Draft::new(run, number, number, number, at).organization("organization.created")
        })
    }

    /// Each user as it was created.
    pub(super) fn users(self, run: &str, at: DateTime<Utc>) -> impl Iterator<Item = Event> {
        (0..self.users).map(move |number| {
            Draft::new(run, number, number % self.organizations, number, at).user("user.created")
        })
    }

    fn of(self, pick: u64, run: &str, number: u64, at: DateTime<Utc>) -> Event {
        // a multiplicative hash: neighbours speak of different people
        let user = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % self.users;
        let draft = Draft::new(run, number, user % self.organizations, user, at);
        match pick {
            0..3 => draft.organization("organization.created"),
            3..10 => draft.organization("organization.updated"),
            10..20 => draft.user("user.created"),
            20..45 => draft.user("user.updated"),
            45..60 => draft.membership("organization_membership.created"),
            60..85 => draft.membership("organization_membership.updated"),
            85..90 => draft.invitation("invitation.created", "pending"),
            90..95 => draft.invitation("invitation.accepted", "accepted"),
            95..97 => draft.role(),
            _ => draft.session(),
        }
    }
}

/// What an event is made of.
struct Draft<'a> {
    run: &'a str,
    number: u64,
    organization: String,
    user: String,
    email: String,
    occurred_at: DateTime<Utc>,
    at: String,
}

impl<'a> Draft<'a> {
    fn new(
        run: &'a str,
        number: u64,
        organization: u64,
        user: u64,
        occurred_at: DateTime<Utc>,
    ) -> Self {
        Self {
            run,
            number,
            organization: format!("org_bench_{organization:010}"),
            user: format!("{user:010}"),
            email: format!("person.{user}@{organization}.example.com"),
            occurred_at,
            at: occurred_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        }
    }

    fn organization(self, kind: &'static str) -> Event {
        let (organization, at) = (&self.organization, &self.at);
        let data = format!(
            r#"{{"object":"organization","id":"{organization}","name":"Bench {organization}","domains":[],"metadata":{{"plan":"enterprise","region":"eu-central"}},"external_id":null,"created_at":"{at}","updated_at":"{at}"}}"#
        );
        self.event(kind, true, &data)
    }

    fn user(self, kind: &'static str) -> Event {
        let (user, email, at, number) = (&self.user, &self.email, &self.at, self.number);
        let data = format!(
            r#"{{"object":"user","id":"user_bench_{user}","first_name":"Person","last_name":"Number {number}","name":"Person Number {number}","profile_picture_url":null,"email":"{email}","email_verified":true,"external_id":null,"metadata":{{}},"last_sign_in_at":"{at}","locale":"en-US","created_at":"{at}","updated_at":"{at}"}}"#
        );
        self.event(kind, false, &data)
    }

    fn membership(self, kind: &'static str) -> Event {
        let (organization, user, at) = (&self.organization, &self.user, &self.at);
        let role = ["member", "dispatcher", "admin"][usize::from(self.number.to_le_bytes()[0]) % 3];
        let data = format!(
            r#"{{"object":"organization_membership","id":"om_bench_{user}","user_id":"user_bench_{user}","organization_id":"{organization}","status":"active","role":{{"slug":"{role}"}},"roles":[{{"slug":"{role}"}}],"custom_attributes":{{}},"directory_managed":false,"created_at":"{at}","updated_at":"{at}"}}"#
        );
        self.event(kind, true, &data)
    }

    fn invitation(self, kind: &'static str, state: &str) -> Event {
        let (organization, user, email, at) =
            (&self.organization, &self.user, &self.email, &self.at);
        let (accepted_at, accepted_user) = if state == "accepted" {
            (format!(r#""{at}""#), format!(r#""user_bench_{user}""#))
        } else {
            ("null".to_owned(), "null".to_owned())
        };
        let data = format!(
            r#"{{"object":"invitation","id":"invitation_bench_{user}","email":"{email}","state":"{state}","accepted_at":{accepted_at},"revoked_at":null,"expires_at":"{at}","organization_id":"{organization}","inviter_user_id":"user_bench_0000000000","accepted_user_id":{accepted_user},"role_slug":"member","created_at":"{at}","updated_at":"{at}"}}"#
        );
        self.event(kind, true, &data)
    }

    fn role(self) -> Event {
        let (at, number) = (&self.at, self.number);
        let data = format!(
            r#"{{"object":"role","slug":"role-{}","resource_type_slug":"organization","permissions":["jobs:read","jobs:assign","jobs:at-{number}"],"created_at":"{at}","updated_at":"{at}"}}"#,
            number % 20
        );
        self.event("role.updated", false, &data)
    }

    /// Of a type that has no meaning.
    fn session(self) -> Event {
        let (organization, user, at, run, number) = (
            &self.organization,
            &self.user,
            &self.at,
            self.run,
            self.number,
        );
        let data = format!(
            r#"{{"object":"session","id":"session_{run}_{number}","ip_address":"192.0.2.10","organization_id":"{organization}","user_agent":"Mozilla/5.0","user_id":"user_bench_{user}","auth_method":"password","status":"active","expires_at":"{at}","ended_at":null,"created_at":"{at}","updated_at":"{at}"}}"#
        );
        self.event("session.created", true, &data)
    }

    fn event(self, kind: &'static str, names_organization: bool, data: &str) -> Event {
        let (id, at) = (format!("event_{}_{:010}", self.run, self.number), &self.at);
        let body = format!(
            r#"{{"object":"event","id":"{id}","event":"{kind}","data":{data},"created_at":"{at}","context":{{}}}}"#
        );
        Event {
            id,
            kind,
            organization_id: names_organization.then_some(self.organization),
            occurred_at: self.occurred_at,
            body: body.into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::webhooks::{self, Mapping, Meaning, SourceKind};

    fn shares(events: impl Iterator<Item = Event>) -> BTreeMap<&'static str, u32> {
        let mut shares = BTreeMap::new();
        for event in events {
            let reading = webhooks::read(SourceKind::Workos, &Mapping::default(), &event.body);
            assert_eq!(reading.event_id.as_deref(), Some(event.id.as_str()));
            if event.kind == "session.created" {
                assert!(matches!(reading.meaning, Meaning::Ignored));
            } else {
                assert!(matches!(reading.meaning, Meaning::Events(_)));
                assert_eq!(reading.organization_id, event.organization_id);
            }
            let family = event.kind.split('.').next().unwrap_or_default();
            *shares.entry(family).or_default() += 1;
        }
        shares
    }

    #[test]
    fn the_mix_is_what_it_says() {
        let expected = [
            ("invitation", 10),
            ("organization", 10),
            ("organization_membership", 40),
            ("role", 2),
            ("session", 3),
            ("user", 35),
        ];
        let events = (0..100).map(|number| Events::Mixed.event("r", number));
        assert_eq!(shares(events), BTreeMap::from(expected));
    }

    #[test]
    fn people_are_people() {
        let expected = [
            ("invitation", 10),
            ("organization_membership", 40),
            ("role", 2),
            ("user", 35),
        ];
        let events = (0..87).map(|number| Mix::new(7, 90).people("r", number, now()));
        assert_eq!(shares(events), BTreeMap::from(expected));
    }
}
