//! One object of an event: what the event's name and its times make of it.
//!
//! Guarantees that every provider's objects are versioned by one rule: by the object's own `updated_at`, else by the event's
//! time, else by `created_at`. A deletion happened at the later of the first two, and is for what has an id, readable or not.
//! The *name* of an event says what happened, the object only how things look: a deleted membership may call itself active.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::event::{
    DirectoryState, IdentityEvent, InvitationState, MembershipStatus, Said, UnreadableReason,
};
use super::json;

/// What a body, or an answer of a provider's API, speaks of.
pub(super) type Events = Result<Vec<IdentityEvent>, UnreadableReason>;

/// How a provider writes its times.
pub(super) type ReadTime = fn(&Map<String, Value>, &str) -> Option<DateTime<Utc>>;

/// An object, and what happened to it.
#[derive(Clone, Copy)]
pub(super) struct Object<'a> {
    /// The object.
    pub(super) data: &'a Map<String, Value>,
    /// The last word of the event's name, such as `created`.
    pub(super) action: &'a str,
    /// When the event says it happened.
    pub(super) occurred_at: Option<DateTime<Utc>>,
    /// How times are written in it.
    pub(super) read_time: ReadTime,
}

impl<'a> Object<'a> {
    /// An object that an API answered with: there is no event.
    pub(super) fn answered(data: &'a Map<String, Value>, read_time: ReadTime) -> Self {
        Self {
            data,
            action: "updated",
            occurred_at: None,
            read_time,
        }
    }

    /// Reads it; when nothing gives a time, it counts as of `received_at`, if that is given.
    pub(super) fn read_with(
        &self,
        reader: fn(&Object<'_>) -> Events,
        received_at: Option<DateTime<Utc>>,
    ) -> Events {
        reader(self).or_else(|reason| match (reason, received_at) {
            (UnreadableReason::NoTime { .. }, Some(_)) => reader(&Self {
                occurred_at: received_at,
                ..*self
            }),
            (reason, _) => Err(reason),
        })
    }

    /// An object inside this one.
    pub(super) fn inside(&self, data: &'a Map<String, Value>) -> Self {
        Self { data, ..*self }
    }

    /// The same, but a description, whatever the event does to the object around it.
    pub(super) fn embedded(&self, data: &'a Map<String, Value>) -> Self {
        Self {
            data,
            action: "updated",
            ..*self
        }
    }

    /// A time of the object itself.
    pub(super) fn time(&self, key: &str) -> Option<DateTime<Utc>> {
        (self.read_time)(self.data, key)
    }

    /// Whether the event says that it is gone.
    pub(super) fn is_deleted(&self) -> bool {
        self.action == "deleted"
    }

    /// Whether it says itself since when it looks as it does.
    pub(super) fn is_dated(&self) -> bool {
        self.time("updated_at")
            .or_else(|| self.time("created_at"))
            .is_some()
    }

    /// Since when it looks as it does.
    pub(super) fn version(&self, object: &'static str) -> Result<DateTime<Utc>, UnreadableReason> {
        self.time("updated_at")
            .or(self.occurred_at)
            .or_else(|| self.time("created_at"))
            .ok_or(UnreadableReason::NoTime { object })
    }

    /// When it went.
    pub(super) fn deletion(&self, object: &'static str) -> Result<DateTime<Utc>, UnreadableReason> {
        // `None` is less than any time
        match self.occurred_at.max(self.time("updated_at")) {
            Some(time) => Ok(time),
            None => self.version(object),
        }
    }

    /// Since when it looks as it does, or is gone: for what may come again and so is only described.
    pub(super) fn changed_at(
        &self,
        object: &'static str,
    ) -> Result<DateTime<Utc>, UnreadableReason> {
        if self.is_deleted() {
            self.deletion(object)
        } else {
            self.version(object)
        }
    }

    /// What the event says of it.
    ///
    /// A deletion needs no more than the id: what else there is describes the object only if it has a time of its own and can be
    /// read.
    pub(super) fn said<T>(
        &self,
        object: &'static str,
        id: String,
        content: Result<T, UnreadableReason>,
    ) -> Result<Said<T>, UnreadableReason> {
        if !self.is_deleted() {
            return Ok(Said::described(id, content?, self.version(object)?));
        }
        let deleted_at = Some(self.deletion(object)?);
        let described = match (content, self.is_dated()) {
            (Ok(content), true) => {
                Said::described(String::new(), content, self.version(object)?).described
            }
            _ => None,
        };
        Ok(Said {
            id,
            described,
            deleted_at,
        })
    }
}

/// An id made of two, where the provider has none.
pub(super) fn joined_id(
    first: &str,
    second: &str,
    field: &'static str,
) -> Result<String, UnreadableReason> {
    // a slash inside one of them must not look like the one between
    let part = |id: &str| id.replace('%', "%25").replace('/', "%2F");
    json::checked_id(&format!("{}/{}", part(first), part(second)), field)
}

/// In force where nothing is said; what is said in an unknown word does not let anybody in.
pub(super) fn membership_status(word: Option<&Value>) -> MembershipStatus {
    match lower(word).as_deref() {
        None | Some("active") => MembershipStatus::Active,
        Some("pending" | "invited") => MembershipStatus::Pending,
        Some("gone" | "deleted" | "removed") => MembershipStatus::Gone,
        Some(_) => MembershipStatus::Inactive,
    }
}

/// Likewise.
pub(super) fn directory_state(word: Option<&Value>) -> DirectoryState {
    match lower(word).as_deref() {
        None | Some("active") => DirectoryState::Active,
        Some("suspended") => DirectoryState::Suspended,
        Some(_) => DirectoryState::Inactive,
    }
}

/// The event's name where it decides, else the object's word.
pub(super) fn invitation_state(action: &str, word: Option<&Value>) -> InvitationState {
    match (action, lower(word).as_deref()) {
        ("accepted", _) | (_, Some("accepted")) => InvitationState::Accepted,
        ("revoked", _) | (_, Some("revoked")) => InvitationState::Revoked,
        (_, Some("expired")) => InvitationState::Expired,
        _ => InvitationState::Pending,
    }
}

/// The word in small letters; null is none, and what is no text is no known word.
fn lower(word: Option<&Value>) -> Option<String> {
    match word? {
        Value::Null => None,
        word => Some(word.as_str().unwrap_or_default().to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_word_lets_nobody_in() {
        let word = |text: &str| Value::from(text);
        for (given, status) in [
            (None, MembershipStatus::Active),
            (Some(Value::Null), MembershipStatus::Active),
            (Some(word("ACTIVE")), MembershipStatus::Active),
            (Some(word("invited")), MembershipStatus::Pending),
            (Some(word("")), MembershipStatus::Inactive),
            (Some(word("locked")), MembershipStatus::Inactive),
            (Some(7.into()), MembershipStatus::Inactive),
        ] {
            assert_eq!(membership_status(given.as_ref()), status, "{given:?}");
        }
        assert_eq!(
            directory_state(Some(&word("locked"))),
            DirectoryState::Inactive
        );
        assert_eq!(directory_state(None), DirectoryState::Active);
    }

    #[test]
    fn the_name_of_an_event_decides_over_the_word() {
        let pending = Value::from("pending");
        for (action, state) in [
            ("accepted", InvitationState::Accepted),
            ("revoked", InvitationState::Revoked),
            ("resent", InvitationState::Pending),
        ] {
            assert_eq!(invitation_state(action, Some(&pending)), state);
        }
        let expired = Value::from("expired");
        assert_eq!(
            invitation_state("updated", Some(&expired)),
            InvitationState::Expired
        );
    }

    #[test]
    fn a_deletion_is_at_the_later_of_two_times() {
        let at = |text: &str| DateTime::parse_from_rfc3339(text).expect("a time").to_utc();
        let data = serde_json::json!({"updated_at": "2026-01-02T00:00:00Z"});
        let data = data.as_object().expect("an object");
        for (occurred_at, expected) in [
            (None, "2026-01-02T00:00:00Z"),
            (Some("2026-01-01T00:00:00Z"), "2026-01-02T00:00:00Z"),
            (Some("2026-01-03T00:00:00Z"), "2026-01-03T00:00:00Z"),
        ] {
            let object = Object {
                data,
                action: "deleted",
                occurred_at: occurred_at.map(at),
                read_time: json::time,
            };
            assert_eq!(object.deletion("user"), Ok(at(expected)));
            let said = object
                .said("user", "u".to_owned(), Ok(()))
                .expect("a deletion");
            let described = said.described.expect("dated");
            assert_eq!(described.updated_at, at("2026-01-02T00:00:00Z"));
        }
    }
}
