//! Clerk's side: its shapes and its rules.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{API_KEY, Answer, Request, State, fixture, position};

fn time(at: DateTime<Utc>) -> Value {
    json!(at.timestamp_millis())
}

pub(super) fn error(status: u16, code: &str, message: &str) -> Answer {
    let body = json!({
        "errors": [{ "message": message, "long_message": message, "code": code }],
        "clerk_trace_id": "trace_of_clerk",
    });
    Answer::new(status, body)
}

fn about(mut answer: Answer, param: &str) -> Answer {
    answer.body["errors"][0]["meta"] = json!({ "param_name": param });
    answer
}

fn not_found() -> Answer {
    error(404, "resource_not_found", "Resource not found")
}

pub(super) fn organization(id: &str, name: &str, updated_at: DateTime<Utc>) -> Value {
    let mut object = fixture(include_str!(
        "../../../fixtures/rest/clerk.organization.json"
    ));
    object["id"] = json!(id);
    object["name"] = json!(name);
    object["updated_at"] = time(updated_at);
    object
}

pub(super) fn user(id: &str, email: &str, now: DateTime<Utc>) -> Value {
    let mut object =
        fixture(include_str!("../../../fixtures/rest/clerk.list_users.json"))[0].take();
    object["id"] = json!(id);
    object["email_addresses"][0]["email_address"] = json!(email);
    object["created_at"] = time(now);
    object["updated_at"] = time(now);
    object
}

pub(super) fn membership(state: &mut State, org: &str, user: &str, role: &str) -> Value {
    let now = state.tick();
    let mut object = fixture(include_str!(
        "../../../fixtures/rest/clerk.list_memberships.json"
    ))["data"][0]
        .take();
    object["id"] = json!(state.new_id("orgmem"));
    object["role"] = json!(format!("org:{role}"));
    object["public_user_data"]["user_id"] = json!(user);
    object["created_at"] = time(now);
    object["updated_at"] = time(now);
    match position(&state.organizations, org) {
        Some(at) => object["organization"] = state.organizations[at].clone(),
        None => object["organization"]["id"] = json!(org),
    }
    if let Some(at) = position(&state.users, user) {
        object["public_user_data"]["identifier"] =
            state.users[at]["email_addresses"][0]["email_address"].clone();
    }
    object
}

pub(super) fn answer(state: &mut State, request: &Request) -> Answer {
    if request.header("authorization") != format!("Bearer {API_KEY}") {
        return error(401, "clerk_key_invalid", "The Secret Key is invalid.");
    }
    if request.header("clerk-api-version") != "2026-05-12" {
        return error(400, "api_version_invalid", "Another version of the API.");
    }
    let segments = request.segments();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (request.method.as_str(), &segments[..]) {
        ("GET", ["v1", "organizations"]) => list_organizations(state, request),
        ("POST", ["v1", "organizations"]) => create_organization(state, &request.body),
        ("GET", ["v1", "organizations", id]) => {
            let of_slug = |object: &&Value| object["slug"] == *id;
            match state.organizations.iter().find(of_slug) {
                Some(object) => Answer::new(200, object.clone()),
                None => get(&state.organizations, id),
            }
        }
        ("DELETE", ["v1", "organizations", id]) if state.forget_organization(id) => Answer::new(
            200,
            json!({ "object": "organization", "id": id, "deleted": true }),
        ),
        ("GET", ["v1", "users"]) => list_users(state, request),
        ("GET", ["v1", "users", id]) => get(&state.users, id),
        ("GET", ["v1", "organizations", org, "memberships"]) => {
            let found = state.memberships.iter().filter(|object| {
                object["organization"]["id"] == *org
                    && request
                        .query("user_id")
                        .is_none_or(|user| object["public_user_data"]["user_id"] == user)
            });
            page(&found.cloned().collect::<Vec<_>>(), request)
        }
        ("POST", ["v1", "organizations", org, "memberships"]) => {
            create_membership(state, org, &request.body)
        }
        ("DELETE", ["v1", "organizations", org, "memberships", user]) => {
            match position_of(state, org, user) {
                Some(at) => Answer::new(200, state.memberships.remove(at)),
                None => not_found(),
            }
        }
        ("PATCH", ["v1", "organizations", org, "memberships", user]) => {
            set_role(state, (org, user), &request.body)
        }
        ("GET", ["v1", "organizations", org, "invitations"]) => {
            let found = state.invitations.iter().filter(|object| {
                object["organization_id"] == *org
                    && request
                        .query("email_address")
                        .is_none_or(|email| object["email_address"] == email.to_lowercase())
            });
            page(&found.cloned().collect::<Vec<_>>(), request)
        }
        ("POST", ["v1", "organizations", org, "invitations"]) => invite(state, org, &request.body),
        ("POST", ["v1", "organizations", _, "invitations", id, "revoke"]) => revoke(state, id),
        _ => not_found(),
    }
}

fn get(objects: &[Value], id: &str) -> Answer {
    match position(objects, id) {
        Some(at) => Answer::new(200, objects[at].clone()),
        None => not_found(),
    }
}

fn position_of(state: &State, org: &str, user: &str) -> Option<usize> {
    state.memberships.iter().position(|object| {
        object["organization"]["id"] == org && object["public_user_data"]["user_id"] == user
    })
}

/// Pages by counting, ten entries unless more are asked for.
fn page(objects: &[Value], request: &Request) -> Answer {
    let number =
        |name, default: &str| -> usize { request.query(name).unwrap_or(default).parse().unwrap() };
    let (limit, offset) = (number("limit", "10"), number("offset", "0"));
    if !(1..=500).contains(&limit) {
        return about(
            error(422, "form_param_value_invalid", "is invalid"),
            "limit",
        );
    }
    let data: Vec<&Value> = objects.iter().skip(offset).take(limit).collect();
    let body = json!({ "data": data, "total_count": objects.len() });
    Answer::new(200, body)
}

/// The newest first; a query is a part of a name or slug.
fn list_organizations(state: &State, request: &Request) -> Answer {
    let query = request.query("query").map(str::to_lowercase);
    let has = |object: &Value, key: &str, query: &str| {
        let text = object[key].as_str().unwrap_or_default();
        text.to_lowercase().contains(query)
    };
    let found = state.organizations.iter().rev().filter(|object| {
        query
            .as_ref()
            .is_none_or(|query| has(object, "name", query) || has(object, "slug", query))
    });
    page(&found.cloned().collect::<Vec<_>>(), request)
}

fn create_organization(state: &mut State, body: &Value) -> Answer {
    let name = body["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        return about(error(422, "form_param_missing", "is missing"), "name");
    }
    if name.len() > 256 || name.contains("://") {
        let answer = error(422, "form_param_value_invalid", "is invalid");
        return about(answer, "name");
    }
    if !body["slug"].is_null() && state.has_no_slugs {
        let message = "Organization slugs are not enabled for this instance.";
        return error(403, "organization_slugs_disabled", message);
    }
    let is_taken = |object: &Value| object["slug"] == body["slug"];
    if !body["slug"].is_null() && state.organizations.iter().any(is_taken) {
        let answer = error(422, "form_identifier_exists", "That slug is taken.");
        return about(answer, "slug");
    }
    let now = state.tick();
    let mut object = organization(&state.new_id("org"), name, now);
    object["created_at"] = time(now);
    object["slug"] = body["slug"].clone();
    object["created_by"] = body["created_by"].clone();
    for place in ["public_metadata", "private_metadata"] {
        if body[place].is_object() {
            object[place] = body[place].clone();
        }
    }
    state.organizations.push(object.clone());
    Answer::new(200, object)
}

/// A bare list, the newest first unless asked otherwise. Addresses are kept in small letters, and compared as they are.
fn list_users(state: &State, request: &Request) -> Answer {
    let email = request.query("email_address");
    let has = |user: &Value, email: &str| {
        let mut addresses = user["email_addresses"].as_array().unwrap().iter();
        addresses.any(|address| address["email_address"] == email)
    };
    let users = state.users.iter();
    let found = users.filter(|user| email.is_none_or(|email| has(user, email)));
    let mut found: Vec<Value> = found.cloned().collect();
    if request.query("order_by") != Some("+created_at") {
        found.reverse();
    }
    let mut answer = page(&found, request);
    answer.body = answer.body["data"].take();
    answer
}

fn role_of(state: &State, body: &Value) -> Result<String, Answer> {
    let slug = body["role"]
        .as_str()
        .and_then(|role| role.strip_prefix("org:"));
    match slug {
        Some(slug) if state.knows_role(slug) => Ok(slug.to_owned()),
        _ => Err(about(
            error(404, "resource_not_found", "Organization role not found"),
            "role",
        )),
    }
}

fn create_membership(state: &mut State, org: &str, body: &Value) -> Answer {
    let user = body["user_id"].as_str().unwrap_or_default();
    let known = position(&state.organizations, org).and(position(&state.users, user));
    if known.is_none() {
        return not_found();
    }
    let role = match role_of(state, body) {
        Ok(role) => role,
        Err(answer) => return answer,
    };
    if position_of(state, org, user).is_some() {
        let message = format!("{user} is already a member of the organization.");
        return error(400, "already_a_member_in_organization", &message);
    }
    let object = membership(state, org, user, &role);
    state.memberships.push(object.clone());
    Answer::new(200, object)
}

/// Somebody who may do everything has to stay.
fn set_role(state: &mut State, (org, user): (&str, &str), body: &Value) -> Answer {
    let role = match role_of(state, body) {
        Ok(role) => format!("org:{role}"),
        Err(answer) => return answer,
    };
    let Some(at) = position_of(state, org, user) else {
        return not_found();
    };
    let is_admin = |object: &Value| {
        object["organization"]["id"] == org
            && object["role"] == "org:admin"
            && object["public_user_data"]["user_id"] != user
    };
    if role != "org:admin"
        && state.memberships[at]["role"] == "org:admin"
        && !state.memberships.iter().any(is_admin)
    {
        let message = "There has to be at least one member with the minimum set of permissions.";
        return error(400, "organization_minimum_permissions_needed", message);
    }
    let now = state.tick();
    state.memberships[at]["role"] = json!(role);
    state.memberships[at]["updated_at"] = time(now);
    Answer::new(200, state.memberships[at].clone())
}

fn invite(state: &mut State, org: &str, body: &Value) -> Answer {
    let email = body["email_address"]
        .as_str()
        .unwrap_or_default()
        .to_lowercase();
    if !email.contains('@') {
        let answer = error(422, "form_param_format_invalid", "is invalid");
        return about(answer, "email_address");
    }
    if position(&state.organizations, org).is_none() {
        return not_found();
    }
    let role = match role_of(state, body) {
        Ok(role) => role,
        Err(answer) => return answer,
    };
    let is_pending = |object: &Value| {
        object["organization_id"] == org
            && object["status"] == "pending"
            && object["email_address"] == email
    };
    if state.invitations.iter().any(is_pending) {
        let message = "Organizations cannot have duplicate pending invitations.";
        return error(400, "organization_invitation_not_unique", message);
    }
    let is_member = |object: &Value| {
        object["organization"]["id"] == org && object["public_user_data"]["identifier"] == email
    };
    if state.memberships.iter().any(is_member) {
        let message = format!("{email} is already a member of the organization.");
        return error(400, "already_a_member_in_organization", &message);
    }
    let now = state.tick();
    let mut object = fixture(include_str!("../../../fixtures/rest/clerk.invitation.json"));
    object["id"] = json!(state.new_id("orginv"));
    object["email_address"] = json!(email);
    object["organization_id"] = json!(org);
    object["inviter_id"] = body["inviter_user_id"].clone();
    object["role"] = json!(format!("org:{role}"));
    if body["private_metadata"].is_object() {
        object["private_metadata"] = body["private_metadata"].clone();
    }
    if body["public_metadata"].is_object() {
        object["public_metadata"] = body["public_metadata"].clone();
    }
    object["expires_at"] = time(super::in_days(30));
    object["created_at"] = time(now);
    object["updated_at"] = time(now);
    state.invitations.push(object.clone());
    Answer::new(200, object)
}

fn revoke(state: &mut State, id: &str) -> Answer {
    let Some(at) = position(&state.invitations, id) else {
        return error(404, "organization_invitation_not_found", "not found");
    };
    if state.invitations[at]["status"] != "pending" {
        return error(404, "organization_invitation_not_pending", "not pending");
    }
    let now = state.tick();
    state.invitations[at]["status"] = json!("revoked");
    state.invitations[at]["updated_at"] = time(now);
    Answer::new(200, state.invitations[at].clone())
}
