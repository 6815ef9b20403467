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
