//! `WorkOS`' objects, in events and in answers of its API.
//!
//! Guarantees that an object reads the same wherever it comes from. The last of several events is the one that the object is
//! about; those before it are of what is embedded in it: an organization's domains, a membership's user.

use serde_json::{Map, Value};

use super::event::{
    DirectoryGroup, DirectoryUser, Domain, GroupMember, IdentityEvent, Invitation, Membership,
    Organization, Permission, Role, Said, UnreadableReason, User,
};
use super::object::{
    Events, Object, directory_state, invitation_state, joined_id, membership_status,
};
use super::{ObjectKind, json};

/// Reads the object of an event.
pub(super) type Reader = fn(&Object<'_>) -> Events;

/// The reader for an event's type, if the type has a meaning here.
pub(super) fn reader(family: &str, action: &str) -> Option<Reader> {
    let is_change = matches!(action, "created" | "updated" | "deleted");
    let reader: Reader = match (family, action) {
        ("organization_domain", "verified") => domain,
        ("organization_domain", "verification_failed") => failed_domain,
        ("invitation", "created" | "accepted" | "resent" | "revoked") => invitation,
        ("dsync.group", "user_added" | "user_removed") => group_member,
        ("organization", _) if is_change => organization,
        ("organization_domain", _) if is_change => domain,
        ("organization_membership", _) if is_change => membership,
        ("user", _) if is_change => user,
        ("role", _) if is_change => role,
        ("organization_role", _) if is_change => organization_role,
        ("permission", _) if is_change => permission,
        ("dsync.user", _) if is_change => directory_user,
        ("dsync.group", _) if is_change => directory_group,
        _ => return None,
    };
    Some(reader)
}

/// Reads an object that the API answered with.
pub(super) fn read(kind: ObjectKind, data: &Map<String, Value>) -> Events {
    let object = Object::answered(data, json::time);
    match kind {
        ObjectKind::Organization => organization(&object),
        ObjectKind::User => user(&object),
        ObjectKind::Membership => membership(&object),
        ObjectKind::Invitation => invitation(&object),
    }
}

fn organization(object: &Object<'_>) -> Events {
    let data = object.data;
    let id = json::id(data, "id", "organization id")?;
    let content = json::display_text(data, "name", "organization name").map(|name| Organization {
        name,
        external_id: json::optional_slug(data, "external_id"),
        metadata: json::pairs(data, "metadata"),
        created_by: None,
    });
    let mut events: Vec<_> = json::items(data, "domains")
        .iter()
        .filter_map(Value::as_object)
        .filter_map(|data| embedded_domain(&object.embedded(data), &id))
        .collect();
    let said = object.said("organization", id, content)?;
    events.push(IdentityEvent::Organization(said));
    Ok(events)
}

/// A domain inside an organization; samples of the documentation have no times, and so no version.
fn embedded_domain(object: &Object<'_>, organization_id: &str) -> Option<IdentityEvent> {
    let dated = object.is_dated().then_some(object)?;
    said_domain(dated, Some(organization_id)).ok()
}

fn domain(object: &Object<'_>) -> Events {
    said_domain(object, None).map(|event| vec![event])
}

fn failed_domain(object: &Object<'_>) -> Events {
    let inside = "organization_domain";
    domain(&object.inside(json::required_object(object.data, inside, inside)?))
}

fn said_domain(
    object: &Object<'_>,
    around: Option<&str>,
) -> Result<IdentityEvent, UnreadableReason> {
    let data = object.data;
    let id = json::id(data, "id", "domain id")?;
    let content = || {
        let organization_id = json::optional_id(data, "organization_id", "organization id")?;
        Ok(Domain {
            organization_id: match organization_id.or_else(|| around.map(str::to_owned)) {
                Some(id) => id,
                None => json::id(data, "organization_id", "organization id")?,
            },
            domain: json::id(data, "domain", "domain name")?,
            state: json::optional_slug(data, "state"),
        })
    };
    object
        .said("domain", id, content())
        .map(IdentityEvent::Domain)
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

fn membership(object: &Object<'_>) -> Events {
    let data = object.data;
    let id = json::id(data, "id", "membership id")?;
    let content = || {
        Ok(Membership {
            organization_id: json::id(data, "organization_id", "organization id")?,
            user_id: json::id(data, "user_id", "user id")?,
            status: membership_status(data.get("status")),
            role: role_slug(data),
            email: None,
            first_name: None,
            last_name: None,
        })
    };
    let embedded = data.get("user").and_then(Value::as_object);
    let mut events = embedded
        .and_then(|data| user(&object.embedded(data)).ok())
        .unwrap_or_default();
    let said = object.said("membership", id, content())?;
    events.push(IdentityEvent::Membership(said));
    Ok(events)
}

/// `role.slug`, else the first of `roles`.
fn role_slug(data: &Map<String, Value>) -> Option<String> {
    let one = data.get("role").and_then(Value::as_object);
    let first = || json::items(data, "roles").first()?.as_object();
    json::optional_slug(one.or_else(first)?, "slug")
}

fn invitation(object: &Object<'_>) -> Events {
    let data = object.data;
    let id = json::id(data, "id", "invitation id")?;
    let content = || {
        Ok(Invitation {
            organization_id: json::optional_id(data, "organization_id", "organization id")?,
            email: json::email(data, "email"),
            role: json::optional_slug(data, "role_slug"),
            state: invitation_state(object.action, data.get("state")),
            inviter_user_id: json::optional_slug(data, "inviter_user_id"),
            accepted_user_id: json::optional_slug(data, "accepted_user_id"),
            customer_id: None,
            expires_at: object.time("expires_at"),
        })
    };
    let said = object.said("invitation", id, content())?;
    Ok(vec![IdentityEvent::Invitation(said)])
}

fn role(object: &Object<'_>) -> Events {
    let slug = json::id(object.data, "slug", "role slug")?;
    said_role(object, slug.clone(), slug, None)
}

fn organization_role(object: &Object<'_>) -> Events {
    let slug = json::id(object.data, "slug", "role slug")?;
    let organization_id = json::id(object.data, "organization_id", "organization id")?;
    let id = joined_id(&organization_id, &slug, "role id")?;
    said_role(object, id, slug, Some(organization_id))
}

/// A slug may be used again, so that a deleted role is described as gone, not deleted for ever.
fn said_role(
    object: &Object<'_>,
    id: String,
    slug: String,
    organization_id: Option<String>,
) -> Events {
    let data = object.data;
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

fn permission(object: &Object<'_>) -> Events {
    let data = object.data;
    let id = json::id(data, "id", "permission id")?;
    let content = json::id(data, "slug", "permission slug").map(|slug| Permission {
        slug,
        name: json::optional_text(data, "name"),
        description: json::optional_text(data, "description"),
    });
    let said = object.said("permission", id, content)?;
    Ok(vec![IdentityEvent::Permission(said)])
}

fn directory_user(object: &Object<'_>) -> Events {
    let data = object.data;
    let id = json::id(data, "id", "directory user id")?;
    let organization_id = json::optional_id(data, "organization_id", "organization id");
    let content = organization_id.map(|organization_id| DirectoryUser {
        directory_id: json::optional_slug(data, "directory_id"),
        organization_id,
        email: json::email(data, "email"),
        first_name: json::optional_text(data, "first_name"),
        last_name: json::optional_text(data, "last_name"),
        state: directory_state(data.get("state")),
        role: role_slug(data),
    });
    let said = object.said("directory user", id, content)?;
    Ok(vec![IdentityEvent::DirectoryUser(said)])
}

fn directory_group(object: &Object<'_>) -> Events {
    let data = object.data;
    let id = json::id(data, "id", "directory group id")?;
    let organization_id = json::optional_id(data, "organization_id", "organization id");
    let content = organization_id.map(|organization_id| DirectoryGroup {
        directory_id: json::optional_slug(data, "directory_id"),
        organization_id,
        name: json::optional_text(data, "name"),
    });
    let said = object.said("directory group", id, content)?;
    Ok(vec![IdentityEvent::DirectoryGroup(said)])
}

/// Versioned by the event's time: neither the user nor the group in it changed.
fn group_member(object: &Object<'_>) -> Events {
    let group = json::required_object(object.data, "group", "directory group")?;
    let user = json::required_object(object.data, "user", "directory user")?;
    let content = GroupMember {
        group_id: json::id(group, "id", "directory group id")?,
        directory_user_id: json::id(user, "id", "directory user id")?,
        is_gone: object.action == "user_removed",
    };
    let id = joined_id(
        &content.group_id,
        &content.directory_user_id,
        "group member id",
    )?;
    let said = Said::described(id, content, object.version("group member")?);
    Ok(vec![IdentityEvent::GroupMember(said)])
}
