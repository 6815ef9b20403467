//! Senders without a provider of their own: their words are mapped to ours by a [`Mapping`].
//!
//! Guarantees that a type which is not mapped is ignored.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::{
    Mapping,
    event::{
        IdentityEvent, Invitation, Meaning, Membership, MembershipStatus, Organization, Reading,
        Role, Said, UnreadableReason, User,
    },
    json,
    mapping::Subject,
    object::{Events, Object, invitation_state, joined_id, membership_status},
};

/// Reads a body by a mapping; where neither event nor object has a time, it is as of `received_at`.
pub(super) fn read(mapping: &Mapping, body: &[u8], received_at: Option<DateTime<Utc>>) -> Reading {
    Reading::of(body, |payload, reading| {
        read_payload(mapping, &Value::Object(payload), received_at, reading)
    })
}

fn read_payload(
    mapping: &Mapping,
    payload: &Value,
    received_at: Option<DateTime<Utc>>,
    reading: &mut Reading,
) -> Result<Meaning, UnreadableReason> {
    let time = Map::from_iter([("at".to_owned(), mapping.occurred_at(payload))]);
    reading.occurred_at = json::any_time(&time, "at");
    reading.event_type = mapping.event_type(payload)?;
    let Some(target) = mapping.target(&reading.event_type) else {
        return Ok(Meaning::Ignored);
    };
    let data = mapping.project(&reading.event_type, target, payload);
    let organization_id = match target.subject {
        Subject::Organization => "id",
        _ => "organization_id",
    };
    reading.organization_id = json::optional_slug(&data, organization_id);
    let object = Object {
        data: &data,
        action: target.action,
        occurred_at: reading.occurred_at.or(received_at),
        read_time: json::any_time,
    };
    let events = match target.subject {
        Subject::Organization => organization(&object),
        Subject::User => user(&object),
        Subject::Membership => membership(&object),
        Subject::Invitation => invitation(&object),
        Subject::Role => role(&object),
    };
    events.map(Meaning::Events)
}

fn organization(object: &Object<'_>) -> Events {
    let data = object.data;
    let id = json::id(data, "id", "organization id")?;
    let content = json::display_text(data, "name", "organization name").map(|name| Organization {
        name,
        external_id: json::optional_slug(data, "external_id"),
        metadata: json::pairs(data, "metadata"),
        created_by: json::optional_slug(data, "created_by"),
    });
    let said = object.said("organization", id, content)?;
    Ok(vec![IdentityEvent::Organization(said)])
}

fn user(object: &Object<'_>) -> Events {
    let data = object.data;
    let content = User {
        email: json::email(data, "email"),
        first_name: json::optional_text(data, "first_name"),
        last_name: json::optional_text(data, "last_name"),
        external_id: json::optional_slug(data, "external_id"),
    };
    let id = json::id(data, "id", "user id")?;
    let said = object.said("user", id, Ok(content))?;
    Ok(vec![IdentityEvent::User(said)])
}

/// Without an id of its own it is named by organization and user, and may begin again after it ended.
fn membership(object: &Object<'_>) -> Events {
    let data = object.data;
    let content = || {
        Ok(Membership {
            organization_id: json::id(data, "organization_id", "organization id")?,
            user_id: json::id(data, "user_id", "user id")?,
            status: membership_status(data.get("status")),
            role: json::optional_slug(data, "role"),
            email: json::email(data, "email"),
            first_name: json::optional_text(data, "first_name"),
            last_name: json::optional_text(data, "last_name"),
        })
    };
    let said = if let Some(id) = json::optional_id(data, "id", "membership id")? {
        object.said("membership", id, content())?
    } else {
        let mut content: Membership = content()?;
        if object.is_deleted() {
            content.status = MembershipStatus::Gone;
        }
        let id = joined_id(&content.organization_id, &content.user_id, "membership id")?;
        Said::described(id, content, object.changed_at("membership")?)
    };
    Ok(vec![IdentityEvent::Membership(said)])
}

fn invitation(object: &Object<'_>) -> Events {
    let data = object.data;
    let id = json::id(data, "id", "invitation id")?;
    let content = || {
        Ok(Invitation {
            organization_id: json::optional_id(data, "organization_id", "organization id")?,
            email: json::email(data, "email"),
            role: json::optional_slug(data, "role"),
            state: invitation_state(object.action, data.get("status")),
            inviter_user_id: json::optional_slug(data, "inviter_user_id"),
            accepted_user_id: json::optional_slug(data, "accepted_user_id"),
            customer_id: json::optional_slug(data, "customer_id"),
            expires_at: object.time("expires_at"),
        })
    };
    let said = object.said("invitation", id, content())?;
    Ok(vec![IdentityEvent::Invitation(said)])
}

fn role(object: &Object<'_>) -> Events {
    let data = object.data;
    let slug = json::id(data, "slug", "role slug")?;
    let organization_id = json::optional_id(data, "organization_id", "organization id")?;
    let id = match &organization_id {
        Some(organization_id) => joined_id(organization_id, &slug, "role id")?,
        None => slug.clone(),
    };
    let is_gone = object.is_deleted();
    let content = Role {
        organization_id,
        slug: Some(slug),
        name: json::optional_text(data, "name"),
        description: json::optional_text(data, "description"),
        permissions: json::slugs(json::items(data, "permissions").iter()),
        is_gone,
    };
    let said = Said::described(id, content, object.changed_at("role")?);
    Ok(vec![IdentityEvent::Role(said)])
}
