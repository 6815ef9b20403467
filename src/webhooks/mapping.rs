//! What a sender of kind `standard` means, by configuration.
//!
//! Without a mapping, types are called as here (`organization.created`, `membership.deleted`) and fields stand under `/data` by
//! the names here. A [`Mapping`] says where a sender puts them instead, in JSON pointers ([RFC 6901]).
//!
//! Guarantees that a mapping which cannot work is refused when it is read, not when an event comes. Does not compute: a value is
//! taken as it stands, or is absent.
//!
//! [RFC 6901]: https://www.rfc-editor.org/rfc/rfc6901

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use super::{
    event::{FieldProblem, UnreadableReason},
    json,
};

/// What an event may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Organization,
    User,
    Membership,
    Invitation,
    Role,
}

impl Subject {
    const ALL: [Self; 5] = [
        Self::Organization,
        Self::User,
        Self::Membership,
        Self::Invitation,
        Self::Role,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::User => "user",
            Self::Membership => "membership",
            Self::Invitation => "invitation",
            Self::Role => "role",
        }
    }

    /// What is read of it; the first ones make its id.
    const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Organization => &[
                "id",
                "name",
                "external_id",
                "metadata",
                "created_by",
                "created_at",
                "updated_at",
            ],
            Self::User => &[
                "id",
                "email",
                "first_name",
                "last_name",
                "external_id",
                "created_at",
                "updated_at",
            ],
            Self::Membership => &[
                "id",
                "organization_id",
                "user_id",
                "status",
                "role",
                "email",
                "first_name",
                "last_name",
                "created_at",
                "updated_at",
            ],
            Self::Invitation => &[
                "id",
                "organization_id",
                "email",
                "role",
                "status",
                "inviter_user_id",
                "accepted_user_id",
                "customer_id",
                "expires_at",
                "created_at",
                "updated_at",
            ],
            Self::Role => &[
                "slug",
                "organization_id",
                "name",
                "description",
                "permissions",
                "created_at",
                "updated_at",
            ],
        }
    }

    /// What a mapping must point at.
    const fn required(self, is_deletion: bool) -> &'static [&'static str] {
        match self {
            Self::Organization | Self::User | Self::Invitation => &["id"],
            Self::Membership if is_deletion => &[],
            Self::Membership => &["organization_id", "user_id"],
            Self::Role => &["slug"],
        }
    }
}

/// One of our events: what it is about, and what happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) subject: Subject,
    pub(super) action: &'static str,
}

impl Target {
    /// The words for what happened: for mappings the first two, for a sender that speaks as we do all of them.
    const ACTIONS: [&'static str; 6] = [
        "upserted", "deleted", "created", "updated", "accepted", "revoked",
    ];

    fn parse(name: &str) -> Option<Self> {
        let (subject, action) = name.split_once('.')?;
        let subject = Subject::ALL.into_iter().find(|it| it.name() == subject)?;
        let action = Self::ACTIONS.into_iter().find(|it| *it == action)?;
        let fits = subject == Subject::Invitation || !matches!(action, "accepted" | "revoked");
        fits.then_some(Self { subject, action })
    }

    fn is_deletion(self) -> bool {
        self.action == "deleted"
    }

    /// What a mapping may name.
    fn known() -> String {
        let names = Subject::ALL.map(|subject| {
            let name = subject.name();
            format!("{name}.upserted, {name}.deleted")
        });
        format!(
            "{}, invitation.accepted, invitation.revoked",
            names.join(", ")
        )
    }
}

/// Where something stands in a body (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Pointer(String);

impl TryFrom<String> for Pointer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let escapes_hold = text
            .split('~')
            .skip(1)
            .all(|rest| rest.starts_with(['0', '1']));
        if text.starts_with('/') && escapes_hold {
            Ok(Self(text))
        } else {
            Err(format!(
                "{text:?} is no JSON pointer: it begins with / and has ~ only as ~0 and ~1 (RFC 6901)"
            ))
        }
    }
}

/// How a sender's words become ours.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mapping {
    #[serde(rename = "type", deserialize_with = "one_or_several")]
    event_type: Vec<Pointer>,
    occurred_at: Pointer,
    events: BTreeMap<String, MappedEvent>,
}

impl Default for Mapping {
    fn default() -> Self {
        Self {
            event_type: vec![Pointer("/type".to_owned())],
            occurred_at: Pointer("/timestamp".to_owned()),
            events: BTreeMap::new(),
        }
    }
}

/// What one of the sender's types means.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawEvent")]
struct MappedEvent {
    target: Target,
    fields: BTreeMap<String, Pointer>,
}

/// The same as it is written.
#[derive(Deserialize)]
struct RawEvent {
    event: String,
    #[serde(flatten)]
    fields: BTreeMap<String, Pointer>,
}

impl TryFrom<RawEvent> for MappedEvent {
    type Error = String;

    fn try_from(RawEvent { event, fields }: RawEvent) -> Result<Self, String> {
        let target = Target::parse(&event)
            .filter(|target| !matches!(target.action, "created" | "updated"))
            .ok_or_else(|| {
                format!(
                    "there is no event {event:?}; there are: {}",
                    Target::known()
                )
            })?;
        let known = target.subject.fields();
        if let Some(field) = fields.keys().find(|field| !known.contains(&field.as_str())) {
            let known = known.join(", ");
            return Err(format!("{event} has no field {field:?}; it has: {known}"));
        }
        let is_deletion = target.is_deletion();
        let missing = |field: &&&str| !fields.contains_key(**field);
        if let Some(field) = target.subject.required(is_deletion).iter().find(missing) {
            return Err(format!("{event} needs a pointer for {field}"));
        }
        let has = |field: &str| fields.contains_key(field);
        let names_one = has("id") || (has("organization_id") && has("user_id"));
        if target.subject == Subject::Membership && !names_one {
            return Err(format!(
                "{event} needs a pointer for id, or for organization_id and user_id"
            ));
        }
        Ok(Self { target, fields })
    }
}

/// One pointer, or several whose texts are joined with dots.
fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Pointer>, D::Error> {
    let pointers = match toml::Value::deserialize(deserializer)? {
        toml::Value::String(one) => vec![one],
        toml::Value::Array(several) if !several.is_empty() => several
            .into_iter()
            .map(toml::Value::try_into)
            .collect::<Result<_, _>>()
            .map_err(de::Error::custom)?,
        _ => return Err(de::Error::custom("type takes a JSON pointer or several")),
    };
    pointers
        .into_iter()
        .map(|text| Pointer::try_from(text).map_err(de::Error::custom))
        .collect()
}

impl Mapping {
    /// What a type of the sender means.
    pub(super) fn target(&self, event_type: &str) -> Option<Target> {
        if self.events.is_empty() {
            return Target::parse(event_type);
        }
        self.events.get(event_type).map(|event| event.target)
    }

    /// The fields of an event under our names.
    pub(super) fn project(
        &self,
        event_type: &str,
        target: Target,
        body: &Value,
    ) -> Map<String, Value> {
        let mapped = self.events.get(event_type);
        let find = |field: &str| match mapped {
            Some(event) => body.pointer(&event.fields.get(field)?.0),
            None => body.get("data")?.get(field),
        };
        let fields = target.subject.fields().iter();
        fields
            .filter_map(|field| Some(((*field).to_owned(), find(field)?.clone())))
            .collect()
    }

    /// When the body says that it was sent; null where it does not.
    pub(super) fn occurred_at(&self, body: &Value) -> Value {
        body.pointer(&self.occurred_at.0)
            .cloned()
            .unwrap_or_default()
    }

    /// The sender's type.
    pub(super) fn event_type(&self, body: &Value) -> Result<String, UnreadableReason> {
        let field = "event type";
        let mut parts = Vec::new();
        for Pointer(pointer) in &self.event_type {
            match body.pointer(pointer) {
                None | Some(Value::Null) => return Err(json::reason(field, FieldProblem::Missing)),
                Some(Value::String(part)) => parts.push(part.as_str()),
                Some(other) => return Err(json::wrong_type(field, other, "a string")),
            }
        }
        json::checked_id(&parts.join("."), field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(text: &str) -> Result<Mapping, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_mapping_that_cannot_work_says_why() {
        let event = |text: &str| format!("[events.\"a.b\"]\n{text}\n");
        for (text, reason) in [
            (
                "typ = \"/type\"".to_owned(),
                "unknown field `typ`, expected one of `type`, `occurred_at`, `events`",
            ),
            ("type = \"type\"".to_owned(), "\"type\" is no JSON pointer"),
            ("type = \"\"".to_owned(), "\"\" is no JSON pointer"),
            (
                "type = []".to_owned(),
                "type takes a JSON pointer or several",
            ),
            (
                "type = [\"/a\", \"b\"]".to_owned(),
                "\"b\" is no JSON pointer",
            ),
            (
                "occurred_at = \"/a~2\"".to_owned(),
                "\"/a~2\" is no JSON pointer",
            ),
            (event("id = \"/id\""), "missing field `event`"),
            (
                event("event = \"organization.created\"\nid = \"/id\""),
                "there is no event \"organization.created\"; there are: organization.upserted, ",
            ),
            (
                event("event = \"user.accepted\"\nid = \"/id\""),
                "there is no event \"user.accepted\"",
            ),
            (
                event("event = \"organization.upserted\"\nname = \"/name\""),
                "organization.upserted needs a pointer for id",
            ),
            (
                event("event = \"organization.upserted\"\nid = \"/id\"\nmail = \"/m\""),
                "organization.upserted has no field \"mail\"; it has: id, name, external_id",
            ),
            (
                event("event = \"membership.upserted\"\nid = \"/id\"\nuser_id = \"/u\""),
                "membership.upserted needs a pointer for organization_id",
            ),
            (
                event("event = \"membership.deleted\"\nuser_id = \"/u\""),
                "membership.deleted needs a pointer for id, or for organization_id and user_id",
            ),
        ] {
            let error = mapping(&text).expect_err(&text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn nothing_written_is_the_default() {
        assert_eq!(mapping(""), Ok(Mapping::default()));
        assert_eq!(mapping("type = \"/type\""), mapping("type = [\"/type\"]"));
    }
}
