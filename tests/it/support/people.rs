//! Events about people as WorkOS sends them; minutes count from one fixed hour.

use serde_json::{Value, json};

fn at(minute: u32) -> String {
    format!("2026-11-16T12:{minute:02}:00.000Z")
}

fn event(name: &str, data: &Value, minute: u32) -> Value {
    json!({
        "object": "event",
        "id": format!("event_{:016x}", rand::random::<u64>()),
        "event": name,
        "data": data,
        "created_at": at(minute),
        "context": {},
    })
}

/// A fresh id with this beginning.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}_{:016x}", rand::random::<u64>())
}

/// `user.created`, `user.updated` or `user.deleted`.
pub fn user(kind: &str, id: &str, email: &str, (first, last): (&str, &str), minute: u32) -> Value {
    let data = json!({
        "object": "user",
        "id": id,
        "email": email,
        "email_verified": true,
        "first_name": Some(first).filter(|name| !name.is_empty()),
        "last_name": Some(last).filter(|name| !name.is_empty()),
        "created_at": at(0),
        "updated_at": at(minute),
    });
    event(&format!("user.{kind}"), &data, minute)
}

/// Who is what in which organization.
#[derive(Debug, Clone, Copy)]
pub struct Belongs<'a> {
    pub id: &'a str,
    pub org: &'a str,
    pub user: &'a str,
    pub role: &'a str,
}

/// `organization_membership.created`, `.updated` or `.deleted`.
pub fn membership(kind: &str, belongs: Belongs<'_>, status: &str, minute: u32) -> Value {
    let data = json!({
        "object": "organization_membership",
        "id": belongs.id,
        "user_id": belongs.user,
        "organization_id": belongs.org,
        "status": status,
        "role": { "slug": belongs.role },
        "created_at": at(0),
        "updated_at": at(minute),
    });
    event(&format!("organization_membership.{kind}"), &data, minute)
}

/// `invitation.accepted` by a user, without the role, as the documentation's sample is.
pub fn accepted(id: &str, (org, email): (&str, &str), user: &str, minute: u32) -> Value {
    let data = json!({
        "object": "invitation",
        "id": id,
        "email": email,
        "state": "accepted",
        "accepted_at": at(minute),
        "organization_id": org,
        "accepted_user_id": user,
        "created_at": at(0),
        "updated_at": at(minute),
    });
    event("invitation.accepted", &data, minute)
}
