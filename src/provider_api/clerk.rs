//! Clerk: the calls and the pages of <https://clerk.com/docs/reference/backend-api>, in the pinned version of the API.
//!
//! Guarantees that roles have Clerk's `org:` in front where Clerk sees them, and nowhere else. Pages are counted, not named: a
//! list that shrinks while it is read may miss an entry, so an absence in a list proves nothing by itself.
//!
//! Organizations have no external id at Clerk, and nothing but their id and slug is unique. So the external id is kept in
//! `public_metadata`, which only a backend can write and which every organization shows, also inside memberships; and the slug
//! is made from it, so that Clerk itself refuses a second organization and the first is found at once. Limits:
//!
//! - Where slugs are switched off, as in new instances, nothing is refused. An organization is then looked for in a list, by
//!   name where it is known, the newest [`MAX_SEARCHED_PAGES`] pages of it. One that was created while its answer was lost is
//!   found; two creations *at the same moment* make two organizations.
//! - Who changes the slug at Clerk leaves the list to find it, who removes the metadata makes it unknown.
//! - Members of the organization can read its public metadata: an external id is no secret.

use reqwest::{Method, header::HeaderName};
use serde_json::{Value, json};

use super::{
    MembershipRef, NewInvitation, NewOrganization,
    exchange::{Call, shown},
    page::{Next, Page},
};
use crate::secrets;

/// Where the API is; the version of the paths is added to it.
pub(super) const API_URL: &str = "https://api.clerk.com";

/// The version of the paths.
pub(super) const PATH_VERSION: &str = "v1";

/// The version of the answers.
pub(super) const VERSION: (HeaderName, &str) =
    (HeaderName::from_static("clerk-api-version"), "2026-05-12");

/// Clerk gives up to 500, but one entry may be 16 KiB of metadata.
const PAGE_SIZE: &str = "50";
const PAGE_LEN: usize = 50;

/// How far an organization is looked for that was made without a slug.
pub(super) const MAX_SEARCHED_PAGES: usize = 20;

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

/// What stands for an external id, whatever characters that has. 128 bits: nobody meets another's by chance.
fn slug(external_id: &str) -> String {
    let hash = secrets::sha256(external_id.as_bytes());
    format!("t-{}", hex::encode(&hash[..16]))
}

pub(super) fn find_organization_by_slug(external_id: &str) -> Call {
    let doing = format!("finding the organization of {}", shown(external_id));
    let slug = slug(external_id);
    Call::new(doing, Method::GET, &["organizations", &slug])
}

/// The newest first: what is looked for was made a moment ago, if at all.
pub(super) fn search_organizations(external_id: &str, name: Option<&str>) -> Call {
    let doing = format!("finding the organization of {}", shown(external_id));
    let call = Call::new(doing, Method::GET, &["organizations"])
        .with("order_by", "-created_at")
        .with("limit", PAGE_SIZE);
    match name {
        Some(name) => call.with("query", name),
        None => call,
    }
}

/// The domain is left out: at Clerk it would decide who may join, which is for the organization's own administrators.
pub(super) fn create_organization(new: &NewOrganization<'_>, with_slug: bool) -> Call {
    let mut body = json!({
        "name": new.name,
        "public_metadata": {"external_id": new.external_id},
    });
    if with_slug {
        body["slug"] = slug(new.external_id).into();
    }
    Call::new(new.doing(), Method::POST, &["organizations"]).with_body(body)
}

pub(super) fn delete_organization(id: &str) -> Call {
    let doing = format!("deleting organization {}", shown(id));
    Call::new(doing, Method::DELETE, &["organizations", id]).maybe_unanswered()
}

/// Clerk keeps addresses in small letters.
pub(super) fn find_users(email: &str) -> Call {
    let doing = "finding a user by e-mail address".to_owned();
    Call::new(doing, Method::GET, &["users"])
        .with("email_address", email.to_lowercase())
        .with("order_by", "+created_at")
        .with("limit", PAGE_SIZE)
}

/// Whether a user has proved to have this address, primary or not.
pub(super) fn has_address(user: &Value, email: &str) -> bool {
    let addresses = user["email_addresses"].as_array();
    addresses.into_iter().flatten().any(|address| {
        let text = address["email_address"].as_str();
        address["verification"]["status"] == "verified"
            && text.is_some_and(|text| text.eq_ignore_ascii_case(email))
    })
}

/// When an object was created, in milliseconds.
pub(super) fn created_at(object: &Value) -> Option<i64> {
    object["created_at"].as_i64()
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

/// `{data: [..], total_count}`, of which `seen` entries came before; an empty page is the last one. Users come as a bare list,
/// of which a page that is not full is the last one.
pub(super) fn page(body: Value, seen: usize) -> Result<Page, &'static str> {
    let mut body = match body {
        Value::Object(body) => body,
        Value::Array(items) => {
            let next = (items.len() >= PAGE_LEN).then(|| Next {
                name: "offset",
                value: (seen + items.len()).to_string(),
            });
            return Ok(Page { items, next });
        }
        _ => return Err("the page is neither an object nor a list"),
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
