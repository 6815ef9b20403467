//! `WorkOS`: the calls and the pages of <https://workos.com/docs/reference>.

use chrono::DateTime;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    MembershipRef, NewInvitation, NewOrganization,
    exchange::{Call, shown},
    page::{Next, Page},
};

/// Where the API is.
pub(super) const API_URL: &str = "https://api.workos.com";

/// The largest page that `WorkOS` gives.
const PAGE_SIZE: &str = "100";

const INVITATIONS: [&str; 2] = ["user_management", "invitations"];
const MEMBERSHIPS: [&str; 2] = ["user_management", "organization_memberships"];

pub(super) fn find_organization(id: &str) -> Call {
    let doing = format!("finding organization {}", shown(id));
    Call::new(doing, Method::GET, &["organizations", id])
}

pub(super) fn find_user(id: &str) -> Call {
    let doing = format!("finding user {}", shown(id));
    Call::new(doing, Method::GET, &["user_management", "users", id])
}

pub(super) fn find_organization_by_external_id(external_id: &str) -> Call {
    let doing = format!("finding the organization of {}", shown(external_id));
    let path = ["organizations", "external_id", external_id];
    Call::new(doing, Method::GET, &path)
}

/// Whoever has the domain's DNS proves it later: until then it lets nobody in.
pub(super) fn create_organization(new: &NewOrganization<'_>) -> Call {
    let mut body = json!({"name": new.name, "external_id": new.external_id});
    if let Some(domain) = new.domain {
        body["domain_data"] = json!([{"domain": domain, "state": "pending"}]);
    }
    Call::new(new.doing(), Method::POST, &["organizations"]).with_body(body)
}

/// 202 where it takes longer than the answer.
pub(super) fn delete_organization(id: &str) -> Call {
    let doing = format!("deleting organization {}", shown(id));
    Call::new(doing, Method::DELETE, &["organizations", id]).maybe_unanswered()
}

pub(super) fn find_users(email: &str) -> Call {
    let doing = "finding a user by e-mail address".to_owned();
    Call::new(doing, Method::GET, &["user_management", "users"])
        .with("email", email)
        .with("order", "asc")
        .with("limit", PAGE_SIZE)
}

/// Whether a user has proved to have this address.
pub(super) fn has_address(user: &Value, email: &str) -> bool {
    let address = user["email"].as_str();
    user["email_verified"] == true
        && address.is_some_and(|address| address.eq_ignore_ascii_case(email))
}

/// When an object was created, in milliseconds.
pub(super) fn created_at(object: &Value) -> Option<i64> {
    let time = DateTime::parse_from_rfc3339(object["created_at"].as_str()?).ok()?;
    Some(time.timestamp_millis())
}

/// All statuses: without saying so, only active ones are listed.
pub(super) fn list_memberships(org_id: &str) -> Call {
    let doing = format!("listing memberships of organization {}", shown(org_id));
    Call::new(doing, Method::GET, &MEMBERSHIPS)
        .with("organization_id", org_id)
        .with("statuses", "active,inactive,pending")
        .with("limit", PAGE_SIZE)
}

pub(super) fn list_invitations(org_id: &str, email: Option<&str>) -> Call {
    let doing = format!("listing invitations of organization {}", shown(org_id));
    let call = Call::new(doing, Method::GET, &INVITATIONS)
        .with("organization_id", org_id)
        .with("limit", PAGE_SIZE);
    match email {
        Some(email) => call.with("email", email),
        None => call,
    }
}

pub(super) fn send_invitation(new: &NewInvitation<'_>) -> Call {
    let doing = format!("inviting to organization {}", shown(new.org_id));
    let mut body = json!({"email": new.email, "organization_id": new.org_id});
    if let Some(role) = new.role {
        body["role_slug"] = role.into();
    }
    if let Some(inviter) = new.inviter_user_id {
        body["inviter_user_id"] = inviter.into();
    }
    Call::new(doing, Method::POST, &INVITATIONS).with_body(body)
}

pub(super) fn revoke_invitation(id: &str) -> Call {
    on_invitation("revoking", id, "revoke")
}

pub(super) fn resend_invitation(id: &str) -> Call {
    on_invitation("resending", id, "resend")
}

fn on_invitation(verb: &str, id: &str, action: &str) -> Call {
    let [area, objects] = INVITATIONS;
    let doing = format!("{verb} invitation {}", shown(id));
    Call::new(doing, Method::POST, &[area, objects, id, action])
}

/// Of an inactive membership it changes nothing and is no error.
pub(super) fn deactivate_membership(membership: &MembershipRef<'_>) -> Call {
    on_membership("deactivating", membership.membership_id, "deactivate")
}

/// Of an active membership it changes nothing and is no error.
pub(super) fn reactivate_membership(membership: &MembershipRef<'_>) -> Call {
    on_membership("reactivating", membership.membership_id, "reactivate")
}

fn on_membership(verb: &str, id: &str, action: &str) -> Call {
    let [area, objects] = MEMBERSHIPS;
    let doing = format!("{verb} membership {}", shown(id));
    Call::new(doing, Method::PUT, &[area, objects, id, action])
}

/// The role takes the place of every role that the membership has.
pub(super) fn set_role(membership: &MembershipRef<'_>, role: &str) -> Call {
    let [area, objects] = MEMBERSHIPS;
    let doing = format!("giving a role to {}", membership.shown());
    let path = [area, objects, membership.membership_id];
    Call::new(doing, Method::PUT, &path).with_body(json!({"role_slug": role}))
}

/// For a membership that was deleted meanwhile.
pub(super) fn create_membership(membership: &MembershipRef<'_>) -> Call {
    let doing = format!("creating a membership of {}", membership.shown());
    let mut body = json!({
        "user_id": membership.user_id,
        "organization_id": membership.org_id,
    });
    if let Some(role) = membership.role {
        body["role_slug"] = role.into();
    }
    Call::new(doing, Method::POST, &MEMBERSHIPS).with_body(body)
}

pub(super) fn find_membership(membership: &MembershipRef<'_>) -> Call {
    let doing = format!("finding the membership of {}", membership.shown());
    list_memberships(membership.org_id)
        .doing(doing)
        .with("user_id", membership.user_id)
}

/// `{data: [..], list_metadata: {after}}`; an empty page is the last one, whatever it names.
pub(super) fn page(body: Value) -> Result<Page, &'static str> {
    let Value::Object(mut body) = body else {
        return Err("the page is not an object");
    };
    let Some(Value::Array(items)) = body.remove("data") else {
        return Err("the page has no list");
    };
    let next = match after(&body) {
        Some(after) if !items.is_empty() => Some(Next {
            name: "after",
            value: after,
        }),
        _ => None,
    };
    Ok(Page { items, next })
}

fn after(body: &Map<String, Value>) -> Option<String> {
    let after = body.get("list_metadata")?.get("after")?.as_str()?;
    (!after.is_empty()).then(|| after.to_owned())
}
