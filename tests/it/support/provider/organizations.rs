//! Organizations that were created by the API, and what the provider's webhook says of them.

use serde_json::{Value, json};

use super::{Provider, clerk, position, put, workos};

impl Provider {
    /// All organizations, in the provider's own shape, the first created first.
    pub fn organizations(&self) -> Vec<Value> {
        self.state().organizations.clone()
    }

    /// The body of the webhook `organization.created` about an organization as it is now; the event's id is always the same
    /// for it. Clerk sends that in a header.
    pub fn created_event(&self, org: &str) -> Value {
        let state = self.state();
        let data = &state.organizations[position(&state.organizations, org).unwrap()];
        if self.is_clerk() {
            json!({
                "object": "event", "type": "organization.created", "timestamp": data["updated_at"],
                "instance_id": "ins_test", "data": data,
            })
        } else {
            json!({
                "object": "event", "id": format!("event_created_{org}"), "event": "organization.created",
                "created_at": data["updated_at"], "context": {}, "data": data,
            })
        }
    }

    /// Clerk with its slugs switched off, as a new instance has them.
    pub fn has_no_slugs(&self) {
        self.state().has_no_slugs = true;
    }

    /// Whether Clerk has slugs, or this is another provider.
    pub fn has_slugs(&self) -> bool {
        !self.state().has_no_slugs
    }

    /// All users, in the provider's own shape.
    pub fn users(&self) -> Vec<Value> {
        self.state().users.clone()
    }

    /// An organization looks like this now.
    pub fn replaces_organization(&self, object: Value) {
        put(&mut self.state().organizations, object);
    }

    /// Somebody calls an organization otherwise.
    pub fn renames_organization(&self, org: &str, name: &str) {
        let mut state = self.state();
        let at = position(&state.organizations, org).unwrap();
        state.organizations[at]["name"] = json!(name);
    }

    /// Somebody who signed up with an address without proving to have it.
    pub fn has_unverified_user(&self, id: &str, email: &str) {
        let mut state = self.state();
        let now = state.tick();
        let object = if self.is_clerk() {
            let mut object = clerk::user(id, email, now);
            object["email_addresses"][0]["verification"]["status"] = json!("unverified");
            object
        } else {
            let mut object = workos::user(id, email, now);
            object["email_verified"] = json!(false);
            object
        };
        put(&mut state.users, object);
    }
}
