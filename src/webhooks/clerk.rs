//! Clerk's objects, in events and in answers of its API; its signatures are [`standard_webhooks`](super::standard_webhooks).
//!
//! Sources: [webhooks](https://clerk.com/docs/guides/development/webhooks/overview) and the schemas in
//! [openapi-specs](https://github.com/clerk/openapi-specs). The body has no id of the event: that is the `svix-id` header. Times
//! are milliseconds; some samples of the schemas have seconds, and both are read. Of `private_metadata` nothing is read but an
//! organization's `external_id`; `unsafe_metadata`, which end users write, not at all. Of several events the last is the one
//! that the body is about.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::event::{
    Domain, IdentityEvent, Invitation, Meaning, Membership, MembershipStatus, Organization,
    Permission, Reading, Role, Said, UnreadableReason, User,
};
use super::object::{Events, Object, invitation_state};
use super::{ObjectKind, json};

/// What roles of organizations begin with, in some places and not in others.
const ROLE_PREFIX: &str = "org:";

type Reader = fn(&Object<'_>) -> Events;

/// Reads the envelope `{type, data, timestamp}`.
///
/// What has no time of its own counts as of `received_at`, if that is given.
pub(super) fn read(body: &[u8], received_at: Option<DateTime<Utc>>) -> Reading {
    Reading::of(body, |envelope, reading| {
        read_envelope(&envelope, received_at, reading)
    })
}

/// Reads an object that the API answered with.
pub(super) fn read_object(kind: ObjectKind, data: &Map<String, Value>) -> Events {
    let object = Object::answered(data, json::unix_time);
    match kind {
        ObjectKind::Organization => organization(&object),
        ObjectKind::User => user(&object),
        ObjectKind::Membership => membership(&object),
        ObjectKind::Invitation => invitation(&object),
    }
}

fn read_envelope(
    envelope: &Map<String, Value>,
    received_at: Option<DateTime<Utc>>,
    reading: &mut Reading,
) -> Result<Meaning, UnreadableReason> {
    reading.occurred_at = json::unix_time(envelope, "timestamp");
    let event_type = json::id(envelope, "type", "event type");
    if let Ok(event_type) = &event_type {
        reading.event_type.clone_from(event_type);
    }
    let data = json::required_object(envelope, "data", "event data");
    if let Ok(data) = data {
        reading.organization_id = organization_id(&reading.event_type, data);
    }
    let event_type = event_type?;
    let Some((family, action)) = event_type.rsplit_once('.') else {
        return Ok(Meaning::Ignored);
    };
    let Some(reader) = reader(family, action) else {
        return Ok(Meaning::Ignored);
    };
    let object = Object {
        data: data?,
        action,
        occurred_at: reading.occurred_at,
        read_time: json::unix_time,
    };
    object.read_with(reader, received_at).map(Meaning::Events)
}

fn reader(family: &str, action: &str) -> Option<Reader> {
    let is_change = matches!(action, "created" | "updated" | "deleted");
    let reader: Reader = match (family, action) {
        ("organizationInvitation", "created" | "accepted" | "revoked") => invitation,
        ("organization", _) if is_change => organization,
        ("user", _) if is_change => user,
        ("organizationMembership", _) if is_change => membership,
        ("organizationDomain", _) if is_change => domain,
        ("role", _) if is_change => role,
        ("permission", _) if is_change => permission,
        _ => return None,
    };
    Some(reader)
}

/// The organization that an event of any type is about, as far as it says.
fn organization_id(event_type: &str, data: &Map<String, Value>) -> Option<String> {
    if event_type.starts_with("organization.") {
        return json::optional_slug(data, "id");
    }
    let inside = data.get("organization").and_then(Value::as_object);
    json::optional_slug(data, "organization_id").or_else(|| json::optional_slug(inside?, "id"))
}

fn organization(object: &Object<'_>) -> Events {
    let data = object.data;
    let id = json::id(data, "id", "organization id")?;
    let content = json::display_text(data, "name", "organization name").map(|name| Organization {
        name,
        external_id: external_id(data),
        metadata: json::pairs(data, "public_metadata"),
        created_by: json::optional_slug(data, "created_by"),
    });
    let said = object.said("organization", id, content)?;
    Ok(vec![IdentityEvent::Organization(said)])
}

/// An organization's: Clerk has no field for it, so it is kept in metadata that only the application's backend can write.
///
/// A field of Clerk's own would win. Public metadata is in every organization, also inside memberships; private metadata may be
/// left out, and so comes last.
fn external_id(data: &Map<String, Value>) -> Option<String> {
    let kept = |place: &str| json::optional_slug(data.get(place)?.as_object()?, "external_id");
    json::optional_slug(data, "external_id")
        .or_else(|| kept("public_metadata"))
        .or_else(|| kept("private_metadata"))
}

fn user(object: &Object<'_>) -> Events {
    let data = object.data;
    let content = User {
        email: primary_email(data),
        first_name: json::optional_text(data, "first_name"),
        last_name: json::optional_text(data, "last_name"),
        external_id: json::optional_slug(data, "external_id"),
    };
    let id = json::id(data, "id", "user id")?;
    let said = object.said("user", id, Ok(content))?;
    Ok(vec![IdentityEvent::User(said)])
}

/// Who signed up by phone has none.
fn primary_email(data: &Map<String, Value>) -> Option<String> {
    let primary = data.get("primary_email_address_id")?.as_str()?;
    let mut addresses = json::items(data, "email_addresses")
        .iter()
        .filter_map(Value::as_object);
    let address =
        addresses.find(|address| address.get("id").and_then(Value::as_str) == Some(primary))?;
    json::email(address, "email_address")
}

/// The organization comes along whole, so that a membership which overtakes it is not lost. After a deletion it is not passed
/// on: it may be the organization that is going.
fn membership(object: &Object<'_>) -> Events {
    let data = object.data;
    let id = json::id(data, "id", "membership id")?;
    let inside = json::required_object(data, "organization", "membership's organization");
    let content = || {
        let user = json::required_object(data, "public_user_data", "membership's user")?;
        Ok(Membership {
            organization_id: json::id(inside.clone()?, "id", "organization id")?,
            user_id: json::id(user, "user_id", "user id")?,
            status: MembershipStatus::Active,
            role: role_slug(data, "role"),
            // a user name or a phone number where there is no address
            email: json::email(user, "identifier").filter(|identifier| identifier.contains('@')),
            first_name: json::optional_text(user, "first_name"),
            last_name: json::optional_text(user, "last_name"),
        })
    };
    let said = object.said("membership", id, content())?;
    let mut events = Vec::new();
    if let (Ok(inside), false) = (&inside, object.is_deleted()) {
        events = organization(&object.embedded(inside)).unwrap_or_default();
    }
    events.push(IdentityEvent::Membership(said));
    Ok(events)
}

fn invitation(object: &Object<'_>) -> Events {
    let data = object.data;
    let id = json::id(data, "id", "invitation id")?;
    let metadata = data.get("public_metadata").and_then(Value::as_object);
    let content = || {
        Ok(Invitation {
            organization_id: json::optional_id(data, "organization_id", "organization id")?,
            email: json::email(data, "email_address"),
            role: role_slug(data, "role"),
            state: invitation_state(object.action, data.get("status")),
            inviter_user_id: json::optional_slug(data, "inviter_id"),
            accepted_user_id: json::optional_slug(data, "user_id"),
            customer_id: metadata.and_then(|map| json::optional_slug(map, "customer_id")),
            expires_at: object.time("expires_at"),
        })
    };
    let said = object.said("invitation", id, content())?;
    Ok(vec![IdentityEvent::Invitation(said)])
}

fn domain(object: &Object<'_>) -> Events {
    let data = object.data;
    let id = json::id(data, "id", "domain id")?;
    let verification = data.get("verification").and_then(Value::as_object);
    let content = || {
        Ok(Domain {
            organization_id: json::id(data, "organization_id", "organization id")?,
            domain: json::id(data, "name", "domain name")?,
            state: verification.and_then(|map| json::optional_slug(map, "status")),
        })
    };
    let said = object.said("domain", id, content())?;
    Ok(vec![IdentityEvent::Domain(said)])
}

/// Described as gone where it was deleted, as roles of every provider are. A deletion may have nothing but the id.
fn role(object: &Object<'_>) -> Events {
    let data = object.data;
    let id = json::id(data, "id", "role id")?;
    let is_gone = object.is_deleted();
    let slug = if is_gone {
        json::optional_slug(data, "key")
    } else {
        Some(json::id(data, "key", "role key")?)
    };
    let keys = json::items(data, "permissions")
        .iter()
        .map(|item| item.get("key").unwrap_or(item));
    let content = Role {
        organization_id: None,
        slug: slug.map(without_prefix),
        name: json::optional_text(data, "name"),
        description: json::optional_text(data, "description"),
        permissions: json::slugs(keys),
        is_gone,
    };
    let said = Said::described(id, content, object.changed_at("role")?);
    Ok(vec![IdentityEvent::Role(said)])
}

fn permission(object: &Object<'_>) -> Events {
    let data = object.data;
    let id = json::id(data, "id", "permission id")?;
    let content = json::id(data, "key", "permission key").map(|slug| Permission {
        slug,
        name: json::optional_text(data, "name"),
        description: json::optional_text(data, "description"),
    });
    let said = object.said("permission", id, content)?;
    Ok(vec![IdentityEvent::Permission(said)])
}

fn role_slug(data: &Map<String, Value>, key: &str) -> Option<String> {
    json::optional_slug(data, key).map(without_prefix)
}

/// A role that is called nothing but the prefix keeps it.
fn without_prefix(slug: String) -> String {
    match slug.strip_prefix(ROLE_PREFIX) {
        Some(short) if !short.is_empty() => short.to_owned(),
        _ => slug,
    }
}
