//! The events of a history as `WorkOS` and Clerk write them.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use tenantry::webhooks::SourceKind;

use super::{
    Event, History, Object,
    content::{Content, Person},
    event_id,
};

/// When every history begins: 2026-11-16T09:00:00Z.
pub const BEGINNING: i64 = 1_794_819_600;

fn time(seconds: u32) -> DateTime<Utc> {
    DateTime::from_timestamp(BEGINNING, 0).unwrap() + TimeDelta::seconds(seconds.into())
}

fn text(seconds: u32) -> String {
    time(seconds).to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn millis(seconds: u32) -> i64 {
    time(seconds).timestamp_millis()
}

/// One object out of two; the second one's fields win.
fn both(first: Value, second: Value) -> Value {
    let (Value::Object(mut first), Value::Object(second)) = (first, second) else {
        unreachable!("two objects")
    };
    first.extend(second);
    Value::Object(first)
}

impl History {
    /// The body of an event.
    pub fn body(&self, at: usize) -> Vec<u8> {
        let event = &self.events[at];
        let body = match self.provider {
            SourceKind::Clerk => self.clerk(event),
            _ => both(self.workos(event), json!({"id": event_id(at)})),
        };
        serde_json::to_vec(&body).unwrap()
    }

    /// The provider's name of an event.
    pub fn event_type(&self, event: &Event) -> String {
        let (families, action) = (family(event.object), self.action(event));
        match self.provider {
            SourceKind::Clerk => format!("{}.{action}", families.1),
            _ => format!("{}.{action}", families.0),
        }
    }

    fn action(&self, event: &Event) -> &'static str {
        let is_first = event.minute == 0;
        match (event.object, self.content(event), event.is_deletion) {
            (Object::GroupMember(_), _, true) => "user_removed",
            (Object::GroupMember(_), _, false) => "user_added",
            (_, _, true) => "deleted",
            (_, Content::Invitation { state, .. }, _) => match (state, self.provider) {
                ("pending", SourceKind::Workos) if !is_first => "resent",
                ("pending", _) => "created",
                (state, _) => state,
            },
            _ if is_first => "created",
            _ => "updated",
        }
    }

    fn workos(&self, event: &Event) -> Value {
        json!({
            "object": "event",
            "event": self.event_type(event),
            "data": self.workos_data(event),
            "created_at": text(event.occurred_at()),
            "context": {},
        })
    }

    fn workos_data(&self, event: &Event) -> Value {
        let content = self.content(event);
        if matches!(content, Content::GroupMember) {
            return workos_group_member(event);
        }
        let common = json!({
            "id": event.object.id(self.provider),
            "created_at": text(0),
            "updated_at": text(event.updated_at()),
        });
        let organization = event.object.organization().id(self.provider);
        let own = match content {
            Content::Organization { name } => {
                let domain = self.along(event).map(|domain| self.workos_data(&domain));
                json!({"object": "organization", "name": name, "domains": [domain], "metadata": {}, "external_id": null})
            }
            Content::User(person) => json!({
                "object": "user", "email": person.email, "first_name": person.first_name, "last_name": person.last_name,
                "email_verified": true, "external_id": null, "last_sign_in_at": null, "metadata": {},
            }),
            Content::Membership { status, role, .. } => json!({
                "object": "organization_membership", "organization_id": organization,
                "user_id": event.object.user().id(self.provider), "status": status, "directory_managed": false,
                "role": role.map(|slug| json!({"slug": slug})), "custom_attributes": {},
            }),
            Content::Invitation {
                organization,
                email,
                state,
                role,
                accepted_by,
                ..
            } => json!({
                "object": "invitation", "email": email, "state": state, "role_slug": role, "inviter_user_id": "user_0",
                "organization_id": organization.map(|it| it.id(self.provider)), "expires_at": text(86_400),
                "accepted_user_id": accepted_by.map(|it| it.id(self.provider)), "accepted_at": null, "revoked_at": null,
            }),
            Content::Role { permissions } => return self.workos_role(event, &permissions),
            Content::Permission { slug } => {
                json!({"object": "permission", "slug": slug, "name": "Cancel jobs", "description": null, "system": false})
            }
            Content::Domain { domain, state } => {
                let state = state.map_or(json!({}), |state| json!({"state": state}));
                let domain = json!({"object": "organization_domain", "organization_id": organization, "domain": domain});
                both(domain, state)
            }
            Content::DirectoryUser { email, state } => json!({
                "directory_id": "directory_0", "organization_id": organization, "idp_id": "00u9x2m", "email": email,
                "first_name": "Wen", "last_name": "Li", "state": state, "raw_attributes": {}, "custom_attributes": {},
            }),
            Content::DirectoryGroup { name } => json!({
                "object": "directory_group", "directory_id": "directory_0", "organization_id": organization, "name": name,
            }),
            Content::GroupMember => unreachable!("answered above"),
        };
        both(common, own)
    }

    /// A role has no id there; a deleted one does not say its permissions.
    fn workos_role(&self, event: &Event, permissions: &[String]) -> Value {
        let mut data = Map::new();
        let mut say = |key: &str, value: Value| data.insert(key.to_owned(), value);
        say("slug", json!(event.object.slug()));
        say("resource_type_slug", json!("organization"));
        say("created_at", json!(text(0)));
        say("updated_at", json!(text(event.updated_at())));
        if event.object == Object::OrganizationRole {
            say("object", json!("organization_role"));
            say(
                "organization_id",
                json!(event.object.organization().id(self.provider)),
            );
            say("name", json!("Night shift"));
        } else {
            say("object", json!("role"));
        }
        if !event.is_deletion {
            say("permissions", json!(permissions));
        }
        Value::Object(data)
    }

    fn clerk(&self, event: &Event) -> Value {
        json!({
            "object": "event",
            "type": self.event_type(event),
            "data": self.clerk_data(event),
            "timestamp": millis(event.occurred_at()),
            "instance_id": "ins_0",
            "event_attributes": {"http_request": {"client_ip": "192.0.2.44", "user_agent": "Mozilla/5.0"}},
        })
    }

    fn clerk_data(&self, event: &Event) -> Value {
        let id = event.object.id(self.provider);
        if self.is_thin(event) {
            return json!({"object": family(event.object).0, "id": id, "deleted": true});
        }
        let common = json!({
            "id": id,
            "created_at": millis(0),
            "updated_at": millis(event.updated_at()),
        });
        let organization = event.object.organization().id(self.provider);
        let own = match self.content(event) {
            Content::Organization { name } => json!({
                "object": "organization", "name": name, "slug": "acme", "public_metadata": {}, "private_metadata": {},
                "has_image": false, "max_allowed_memberships": 5,
            }),
            Content::User(person) => clerk_user(&person),
            Content::Membership { role, hints, .. } => {
                let around = self.along(event).unwrap();
                let identifier = hints.email.unwrap_or_else(|| "+15555550100".to_owned());
                json!({
                    "object": "organization_membership", "organization": self.clerk_data(&around),
                    "role": role.map(|slug| format!("org:{slug}")), "permissions": ["org:jobs:read"], "public_metadata": {},
                    "public_user_data": {
                        "user_id": event.object.user().id(self.provider), "identifier": identifier,
                        "first_name": hints.first_name, "last_name": hints.last_name, "has_image": false,
                    },
                })
            }
            Content::Invitation {
                organization,
                email,
                state,
                role,
                accepted_by,
                customer,
            } => {
                let accepted = accepted_by.map(|it| json!({"user_id": it.id(self.provider)}));
                let invitation = json!({
                    "object": "organization_invitation", "email_address": email, "status": state, "inviter_id": "user_0",
                    "organization_id": organization.map(|it| it.id(self.provider)), "expires_at": millis(86_400),
                    "role": role.map(|slug| format!("org:{slug}")), "private_metadata": {},
                    "public_metadata": customer.map_or(json!({}), |id| json!({"customer_id": id})),
                });
                both(invitation, accepted.unwrap_or(json!({})))
            }
            Content::Role { permissions } => {
                let keys = permissions
                    .iter()
                    .map(|key| json!({"object": "permission", "key": key}));
                json!({
                    "object": "role", "key": format!("org:{}", event.object.slug()), "name": "Dispatcher",
                    "description": null, "permissions": keys.collect::<Vec<_>>(),
                })
            }
            Content::Permission { slug } => {
                json!({"object": "permission", "key": slug, "name": "Cancel jobs", "description": null, "type": "user"})
            }
            Content::Domain { domain, state } => json!({
                "object": "organization_domain", "organization_id": organization, "name": domain,
                "verification": state.map(|state| json!({"status": state})), "enrollment_mode": "manual_invitation",
            }),
            other => unreachable!("Clerk has no {other:?}"),
        };
        both(common, own)
    }
}

fn workos_group_member(event: &Event) -> Value {
    let id = event.object.id(SourceKind::Workos);
    let (group, user) = id.split_once('/').unwrap();
    // what they look like is told by events of their own
    json!({
        "directory_id": "directory_0",
        "user": {"object": "directory_user", "id": user, "organization_id": "org_0", "state": "active"},
        "group": {"object": "directory_group", "id": group, "organization_id": "org_0", "name": "Planners"},
    })
}

fn clerk_user(person: &Person) -> Value {
    let addresses = person.email.iter().map(|email| {
        json!({"id": "idn_1", "email_address": email, "verification": {"status": "verified"}})
    });
    let other = json!({"id": "idn_0", "email_address": "other@c.example"});
    let addresses: Vec<Value> = [other].into_iter().chain(addresses).collect();
    json!({
        "object": "user", "first_name": person.first_name, "last_name": person.last_name, "external_id": null,
        "primary_email_address_id": person.email.as_ref().map(|_| "idn_1"), "username": null,
        "email_addresses": addresses, "phone_numbers": [],
    })
}

/// What `WorkOS` and Clerk call events of an object.
const fn family(object: Object) -> (&'static str, &'static str) {
    match object {
        Object::Organization(_) => ("organization", "organization"),
        Object::User(_) => ("user", "user"),
        Object::Membership(_) => ("organization_membership", "organizationMembership"),
        Object::Invitation(_) => ("invitation", "organizationInvitation"),
        Object::Role(_) => ("role", "role"),
        Object::OrganizationRole => ("organization_role", ""),
        Object::Permission => ("permission", "permission"),
        Object::Domain(_) => ("organization_domain", "organizationDomain"),
        Object::DirectoryUser(_) => ("dsync.user", ""),
        Object::DirectoryGroup | Object::GroupMember(_) => ("dsync.group", ""),
    }
}
