//! Clerk: the calls and the pages of <https://clerk.com/docs/reference/backend-api>, in the pinned version of the API.
//!
//! Guarantees that roles have Clerk's `org:` in front where Clerk sees them, and nowhere else. Pages are counted, not named: a
//! list that shrinks while it is read may miss an entry, so an absence in a list proves nothing by itself.

use reqwest::{Method, header::HeaderName};
use serde_json::{Value, json};

use super::{
    MembershipRef, NewInvitation,
    exchange::{Call, shown},
    page::{Next, Page},
};

/// Where the API is; the version of the paths is added to it.
pub(super) const API_URL: &str = "https://api.clerk.com";

/// The version of the paths.
pub(super) const PATH_VERSION: &str = "v1";

/// The version of the answers.
pub(super) const VERSION: (HeaderName, &str) =
    (HeaderName::from_static("clerk-api-version"), "2026-05-12");

/// Clerk gives up to 500, but one entry may be 16 KiB of metadata.
const PAGE_SIZE: &str = "50";

/// The role that Clerk makes for every instance; Clerk wants one to be named.
const DEFAULT_ROLE: &str = "member";

/// Clerk's name of a role.
fn role(slug: Option<&str>) -> String {
    let slug = slug.unwrap_or(DEFAULT_ROLE);
    format!("org:{}", slug.strip_prefix("org:").unwrap_or(slug))
}

pub(super) fn find_organization(id: &str) -> Call {
    let doing = format!("finding organization {}", shown(id));
    Call::new(doing, Method::GET, &["organizations", id])
}

pub(super) fn find_user(id: &str) -> Call {
    let doing = format!("finding user {}", shown(id));
    Call::new(doing, Method::GET, &["users", id])
}

/// The oldest first, so that who joins meanwhile comes at the end.
pub(super) fn list_memberships(org_id: &str) -> Call {
    let doing = format!("listing memberships of organization {}", shown(org_id));
    Call::new(
        doing,
        Method::GET,
        &["organizations", org_id, "memberships"],
    )
    .with("order_by", "+created_at")
    .with("limit", PAGE_SIZE)
}

/// The oldest first; without a status, all are listed.
pub(super) fn list_invitations(org_id: &str, email: Option<&str>) -> Call {
    let doing = format!("listing invitations of organization {}", shown(org_id));
    let call = Call::new(
        doing,
        Method::GET,
        &["organizations", org_id, "invitations"],
    )
    .with("order_by", "+created_at")
    .with("limit", PAGE_SIZE);
    match email {
        Some(email) => call.with("email_address", email),
        None => call,
    }
}

/// The customer goes into the public metadata, where the webhook's reader looks for it: the invited person can see it.
pub(super) fn send_invitation(new: &NewInvitation<'_>) -> Call {
    let doing = format!("inviting to organization {}", shown(new.org_id));
    let mut body = json!({"email_address": new.email, "role": role(new.role)});
    if let Some(inviter) = new.inviter_user_id {
        body["inviter_user_id"] = inviter.into();
    }
    if let Some(customer) = new.customer_id {
        body["public_metadata"] = json!({"customer_id": customer});
    }
    let path = ["organizations", new.org_id, "invitations"];
    Call::new(doing, Method::POST, &path).with_body(body)
}

pub(super) fn revoke_invitation(org_id: &str, id: &str) -> Call {
    let doing = format!("revoking invitation {}", shown(id));
    let path = ["organizations", org_id, "invitations", id, "revoke"];
    Call::new(doing, Method::POST, &path).with_body(json!({}))
}

/// Clerk has no inactive memberships: this one ends, and its answer is the membership as it was.
pub(super) fn delete_membership(membership: &MembershipRef<'_>) -> Call {
    let doing = format!("ending the membership of {}", membership.shown());
    let path = [
        "organizations",
        membership.org_id,
        "memberships",
        membership.user_id,
    ];
    Call::new(doing, Method::DELETE, &path)
}

pub(super) fn create_membership(membership: &MembershipRef<'_>) -> Call {
    let doing = format!("creating a membership of {}", membership.shown());
    let path = ["organizations", membership.org_id, "memberships"];
    let body = json!({"user_id": membership.user_id, "role": role(membership.role)});
    Call::new(doing, Method::POST, &path).with_body(body)
}

pub(super) fn set_role(membership: &MembershipRef<'_>, slug: &str) -> Call {
    let doing = format!("giving a role to {}", membership.shown());
    let path = [
        "organizations",
        membership.org_id,
        "memberships",
        membership.user_id,
    ];
    Call::new(doing, Method::PATCH, &path).with_body(json!({"role": role(Some(slug))}))
}

pub(super) fn find_membership(membership: &MembershipRef<'_>) -> Call {
    let doing = format!("finding the membership of {}", membership.shown());
    list_memberships(membership.org_id)
        .doing(doing)
        .with("user_id", membership.user_id)
}

/// `{data: [..], total_count}`, of which `seen` entries came before; an empty page is the last one.
pub(super) fn page(body: Value, seen: usize) -> Result<Page, &'static str> {
    let Value::Object(mut body) = body else {
        return Err("the page is not an object");
    };
    let Some(Value::Array(items)) = body.remove("data") else {
        return Err("the page has no list");
    };
    let total = body.get("total_count").and_then(Value::as_u64);
    let total = total.ok_or("the page has no total count")?;
    let seen = seen + items.len();
    let is_last = items.is_empty() || u64::try_from(seen).is_ok_and(|seen| seen >= total);
    let next = (!is_last).then(|| Next {
        name: "offset",
        value: seen.to_string(),
    });
    Ok(Page { items, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_the_prefix_once() {
        assert_eq!(role(Some("admin")), "org:admin");
        assert_eq!(role(Some("org:admin")), "org:admin");
        assert_eq!(role(None), "org:member");
    }
}
