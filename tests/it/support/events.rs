//! Events as WorkOS sends them.

use serde_json::{Value, json};

/// An `organization.*` event with a fresh id.
pub fn organization(kind: &str, org: &str, name: &str, updated_at: &str) -> Value {
    json!({
        "object": "event",
        "id": format!("event_{:016x}", rand::random::<u64>()),
        "event": format!("organization.{kind}"),
        "data": {
            "object": "organization",
            "id": org,
            "name": name,
            "domains": [],
            "metadata": {},
            "external_id": null,
            "created_at": "2026-11-16T09:00:00.000Z",
            "updated_at": updated_at,
        },
        "created_at": updated_at,
        "context": {},
    })
}

/// `organization.created`.
pub fn created(org: &str, name: &str) -> Value {
    organization("created", org, name, "2026-11-16T09:00:00.000Z")
}

/// `organization.updated`, at a minute after the creation.
pub fn updated(org: &str, name: &str, minute: u32) -> Value {
    organization("updated", org, name, &minute_after(minute))
}

/// `organization.deleted`, at a minute after the creation.
pub fn deleted(org: &str, name: &str, minute: u32) -> Value {
    organization("deleted", org, name, &minute_after(minute))
}

fn minute_after(minute: u32) -> String {
    format!("2026-11-16T09:{minute:02}:00.000Z")
}

/// An event about an object, at a minute after the organization's creation.
fn event(kind: &str, minute: u32, mut data: Value) -> Value {
    data["created_at"] = "2026-11-16T09:00:00.000Z".into();
    data["updated_at"] = minute_after(minute).into();
    json!({
        "object": "event",
        "id": format!("event_{:016x}", rand::random::<u64>()),
        "event": kind,
        "data": data,
        "created_at": minute_after(minute),
        "context": {},
    })
}

/// `user.created` of a user with an e-mail address and this given and family name.
pub fn user(user: &str, name: (&str, &str)) -> Value {
    renamed(user, name, 0)
}

/// `user.updated`, at a minute after the creation.
pub fn renamed(user: &str, (first, last): (&str, &str), minute: u32) -> Value {
    let data = json!({
        "object": "user",
        "id": user,
        "email": format!("{user}@example.com"),
        "first_name": first,
        "last_name": last,
        "email_verified": true,
        "profile_picture_url": null,
        "external_id": null,
        "metadata": {},
    });
    event("user.updated", minute, data)
}

/// `organization_membership.updated`: active, in a role, at a minute after the creation.
pub fn member(org: &str, user: &str, role: &str, minute: u32) -> Value {
    membership("updated", (org, user), ("active", role), minute)
}

/// `organization_membership.*` of a user in an organization, with status and role.
pub fn membership(
    kind: &str,
    (org, user): (&str, &str),
    (status, role): (&str, &str),
    minute: u32,
) -> Value {
    let data = json!({
        "object": "organization_membership",
        "id": format!("om_{user}"),
        "organization_id": org,
        "user_id": user,
        "status": status,
        "role": { "slug": role },
    });
    event(&format!("organization_membership.{kind}"), minute, data)
}
