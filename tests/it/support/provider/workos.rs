//! WorkOS's side: its shapes and its rules.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::{API_KEY, Answer, Request, State, fixture, position};

fn time(at: DateTime<Utc>) -> Value {
    json!(at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

pub(super) fn error(status: u16, code: Option<&str>, message: &str) -> Answer {
    let mut body = json!({ "message": message });
    if let Some(code) = code {
        body["code"] = json!(code);
    }
    let mut answer = Answer::new(status, body);
    answer
        .headers
        .push(("x-request-id", "req_of_workos".to_owned()));
    answer
}

fn not_found(what: &str, id: &str) -> Answer {
    error(404, None, &format!("{what} not found: '{id}'."))
}

pub(super) fn organization(id: &str, name: &str, updated_at: DateTime<Utc>) -> Value {
    let mut object = fixture(include_str!(
        "../../../fixtures/rest/workos.organization.json"
    ));
    object["id"] = json!(id);
    object["name"] = json!(name);
    object["external_id"] = Value::Null;
    object["domains"] = json!([]);
    object["updated_at"] = time(updated_at);
    object
}

pub(super) fn user(id: &str, email: &str, now: DateTime<Utc>) -> Value {
    let mut object = fixture(include_str!(
        "../../../fixtures/rest/workos.list_users.json"
    ))["data"][0]
        .take();
    object["id"] = json!(id);
    object["email"] = json!(email);
    object["created_at"] = time(now);
    object["updated_at"] = time(now);
    object
}

pub(super) fn membership(
    state: &mut State,
    org: &str,
    user: &str,
    role: &str,
    status: &str,
) -> Value {
    let now = state.tick();
    let mut object = fixture(include_str!(
        "../../../fixtures/rest/workos.list_organization_memberships.json"
    ))["data"][0]
        .take();
    object["id"] = json!(state.new_id("om"));
    object["organization_id"] = json!(org);
    object["user_id"] = json!(user);
    object["status"] = json!(status);
    object["role"] = json!({ "slug": role });
    object["roles"] = json!([{ "slug": role }]);
    object["created_at"] = time(now);
    object["updated_at"] = time(now);
    match position(&state.users, user) {
        Some(at) => object["user"] = state.users[at].clone(),
        None => object["user"]["id"] = json!(user),
    }
    object
}

pub(super) fn answer(state: &mut State, request: &Request) -> Answer {
    if request.header("authorization") != format!("Bearer {API_KEY}") {
        return error(401, None, "Unauthorized");
    }
    let segments = request.segments();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (request.method.as_str(), &segments[..]) {
        ("POST", ["organizations"]) => create_organization(state, &request.body),
        ("GET", ["organizations", "external_id", external_id]) => {
            let of_id = |object: &&Value| object["external_id"] == *external_id;
            match state.organizations.iter().find(of_id) {
                Some(object) => Answer::new(200, object.clone()),
                None => not_found("Organization", external_id),
            }
        }
        // without a body
        ("DELETE", ["organizations", id]) if state.forget_organization(id) => {
            Answer::new(202, Value::Null)
        }
        ("DELETE", ["organizations", id]) => not_found("Organization", id),
        ("GET", ["user_management", "users"]) => list_users(state, request),
        ("GET", ["organizations", id]) => get("Organization", &state.organizations, id),
        ("GET", ["user_management", "users", id]) => get("User", &state.users, id),
        ("GET", ["user_management", "organization_memberships"]) => {
            list_memberships(state, request)
        }
        ("POST", ["user_management", "organization_memberships"]) => {
            create_membership(state, &request.body)
        }
        ("PUT", ["user_management", "organization_memberships", id]) => {
            set_role(state, id, &request.body)
        }
        ("PUT", ["user_management", "organization_memberships", id, action]) => {
            change_membership(state, id, action)
        }
        ("GET", ["user_management", "invitations"]) => list_invitations(state, request),
        ("POST", ["user_management", "invitations"]) => invite(state, &request.body),
        ("POST", ["user_management", "invitations", id, action]) => {
            change_invitation(state, id, action)
        }
        _ => error(404, None, "Cannot find the route"),
    }
}

fn get(what: &str, objects: &[Value], id: &str) -> Answer {
    match position(objects, id) {
        Some(at) => Answer::new(200, objects[at].clone()),
        None => not_found(what, id),
    }
}

/// Pages by object ids, ten entries unless more are asked for.
fn page(objects: &[Value], request: &Request) -> Answer {
    let limit: usize = request.query("limit").unwrap_or("10").parse().unwrap();
    if !(1..=100).contains(&limit) {
        return error(
            422,
            Some("invalid_request_parameters"),
            "Validation failed.",
        );
    }
    let start = match request.query("after") {
        Some(after) => position(objects, after).map_or(objects.len(), |at| at + 1),
        None => 0,
    };
    let data: Vec<&Value> = objects.iter().skip(start).take(limit).collect();
    let is_last = start + data.len() >= objects.len();
    let after = data
        .last()
        .filter(|_| !is_last)
        .map(|last| last["id"].clone());
    let body = json!({
        "object": "list",
        "data": data,
        "list_metadata": { "before": null, "after": after },
    });
    Answer::new(200, body)
}

fn invalid(field: &str) -> Answer {
    let code = "invalid_request_parameters";
    let mut answer = error(422, Some(code), "Validation failed.");
    answer.body["errors"] = json!([{ "code": "invalid", "field": field }]);
    answer
}

fn create_organization(state: &mut State, body: &Value) -> Answer {
    let (name, external_id) = (text(body, "name"), text(body, "external_id"));
    if name.is_empty() {
        return invalid("name");
    }
    if !external_id.is_ascii() || external_id.len() > 128 {
        return invalid("external_id");
    }
    let is_taken = |object: &Value| text(object, "external_id") == external_id;
    if !external_id.is_empty() && state.organizations.iter().any(is_taken) {
        let message = "Request could not be processed.";
        return error(400, Some("external_id_already_used"), message);
    }
    let wanted = body["domain_data"].as_array().cloned().unwrap_or_default();
    for domain in &wanted {
        let domain = text(domain, "domain");
        if !domain.contains('.') {
            return invalid("domain_data");
        }
        let mut known = state.organizations.iter().flat_map(domains_of);
        if known.any(|known| known["domain"] == domain) {
            let message = "The domain is used by another organization.";
            return error(422, Some("organization_domain_already_used"), message);
        }
    }
    let now = state.tick();
    let id = state.new_id("org");
    let mut object = organization(&id, name, now);
    object["created_at"] = time(now);
    if !external_id.is_empty() {
        object["external_id"] = json!(external_id);
    }
    let domain = |(at, domain): (usize, &Value)| {
        json!({
            "object": "organization_domain", "id": format!("org_domain_{id}_{at}"), "organization_id": id,
            "domain": domain["domain"], "state": domain["state"], "created_at": time(now), "updated_at": time(now),
        })
    };
    object["domains"] = wanted.iter().enumerate().map(domain).collect();
    state.organizations.push(object.clone());
    Answer::new(201, object)
}

fn domains_of(organization: &Value) -> &[Value] {
    organization["domains"].as_array().unwrap()
}

/// The newest first, unless asked otherwise.
fn list_users(state: &State, request: &Request) -> Answer {
    let email = request.query("email");
    let found = state
        .users
        .iter()
        .filter(|user| email.is_none_or(|email| text(user, "email").eq_ignore_ascii_case(email)));
    let mut found: Vec<Value> = found.cloned().collect();
    if request.query("order") != Some("asc") {
        found.reverse();
    }
    page(&found, request)
}

fn list_memberships(state: &State, request: &Request) -> Answer {
    let (org, user) = (request.query("organization_id"), request.query("user_id"));
    if org.is_none() && user.is_none() {
        return error(
            422,
            Some("invalid_request_parameters"),
            "Validation failed.",
        );
    }
    let statuses = request.query("statuses").unwrap_or("active");
    let found = state.memberships.iter().filter(|object| {
        org.is_none_or(|org| object["organization_id"] == org)
            && user.is_none_or(|user| object["user_id"] == user)
            && statuses.split(',').any(|status| object["status"] == status)
    });
    page(&found.cloned().collect::<Vec<_>>(), request)
}

fn create_membership(state: &mut State, body: &Value) -> Answer {
    let (org, user) = (text(body, "organization_id"), text(body, "user_id"));
    if position(&state.organizations, org).is_none() {
        return not_found("Organization", org);
    }
    if position(&state.users, user).is_none() {
        return not_found("User", user);
    }
    let role = body["role_slug"].as_str().unwrap_or("member");
    if !state.knows_role(role) {
        return error(400, Some("invalid_role"), "Role not found.");
    }
    let known = state
        .memberships
        .iter()
        .position(|object| object["organization_id"] == org && object["user_id"] == user);
    match known {
        Some(at) if state.memberships[at]["status"] == "inactive" => {
            let id = text(&state.memberships[at], "id").to_owned();
            change_membership(state, &id, "reactivate")
        }
        Some(_) => error(
            400,
            Some("organization_membership_already_exists"),
            "Request could not be processed.",
        ),
        None => {
            let object = membership(state, org, user, role, "active");
            state.memberships.push(object.clone());
            Answer::new(201, object)
        }
    }
}

fn change_membership(state: &mut State, id: &str, action: &str) -> Answer {
    let Some(at) = position(&state.memberships, id) else {
        return not_found("Organization membership", id);
    };
    if state.memberships[at]["status"] == "pending" {
        let code = format!("cannot_{action}_pending_organization_membership");
        return error(400, Some(&code), "Pending memberships cannot be changed.");
    }
    let status = match action {
        "deactivate" => "inactive",
        "reactivate" => "active",
        _ => return error(404, None, "Cannot find the route"),
    };
    if state.memberships[at]["status"] != status {
        let now = state.tick();
        state.memberships[at]["status"] = json!(status);
        state.memberships[at]["updated_at"] = time(now);
    }
    let mut object = state.memberships[at].clone();
    // only lists embed them
    object.as_object_mut().unwrap().remove("user");
    Answer::new(200, object)
}

/// The role takes the place of all that the membership has; one that it has changes nothing.
fn set_role(state: &mut State, id: &str, body: &Value) -> Answer {
    let Some(at) = position(&state.memberships, id) else {
        return not_found("Organization membership", id);
    };
    let role = text(body, "role_slug");
    if !state.knows_role(role) {
        return error(400, Some("invalid_role"), "Role not found.");
    }
    if state.memberships[at]["role"]["slug"] != role {
        let now = state.tick();
        let object = &mut state.memberships[at];
        object["role"] = json!({ "slug": role });
        object["roles"] = json!([{ "slug": role }]);
        object["updated_at"] = time(now);
    }
    let mut object = state.memberships[at].clone();
    object.as_object_mut().unwrap().remove("user");
    Answer::new(200, object)
}

fn list_invitations(state: &State, request: &Request) -> Answer {
    let (org, email) = (request.query("organization_id"), request.query("email"));
    let found = state.invitations.iter().filter(|object| {
        org.is_none_or(|org| object["organization_id"] == org)
            && email.is_none_or(|email| text(object, "email").eq_ignore_ascii_case(email))
    });
    page(&found.cloned().collect::<Vec<_>>(), request)
}

fn invite(state: &mut State, body: &Value) -> Answer {
    let (org, email) = (text(body, "organization_id"), text(body, "email"));
    let refused = |code: &str| error(400, Some(code), "Request could not be processed.");
    if !email.contains('@') {
        let mut answer = error(
            422,
            Some("invalid_request_parameters"),
            "Validation failed.",
        );
        answer.body["errors"] = json!([{ "code": "invalid", "field": "email" }]);
        return answer;
    }
    if position(&state.organizations, org).is_none() {
        return not_found("Organization", org);
    }
    if email.ends_with("@undeliverable.example") {
        return refused("email_domain_not_deliverable");
    }
    let is_pending = |object: &Value| {
        object["organization_id"] == org
            && object["state"] == "pending"
            && text(object, "email").eq_ignore_ascii_case(email)
    };
    if state.invitations.iter().any(is_pending) {
        return refused("email_already_invited_to_organization");
    }
    let is_member = |object: &Value| {
        object["organization_id"] == org
            && object["status"] == "active"
            && object["user"]["email"] == email
    };
    if state.memberships.iter().any(is_member) {
        return refused("user_already_organization_member");
    }
    let role = body["role_slug"].as_str().unwrap_or("member");
    if !state.knows_role(role) {
        return refused("invalid_role");
    }
    let now = state.tick();
    let mut object = fixture(include_str!(
        "../../../fixtures/rest/workos.invitation.json"
    ));
    object["id"] = json!(state.new_id("invitation"));
    object["email"] = json!(email);
    object["organization_id"] = json!(org);
    object["inviter_user_id"] = body["inviter_user_id"].clone();
    object["role_slug"] = json!(role);
    object["expires_at"] = time(super::in_days(7));
    object["created_at"] = time(now);
    object["updated_at"] = time(now);
    state.invitations.push(object.clone());
    Answer::new(201, object)
}

fn change_invitation(state: &mut State, id: &str, action: &str) -> Answer {
    let Some(at) = position(&state.invitations, id) else {
        return not_found("Invitation", id);
    };
    if state.invitations[at]["state"] != "pending" {
        return error(400, Some("invite_not_pending"), "Invite is not pending.");
    }
    let now = state.tick();
    let object = &mut state.invitations[at];
    match action {
        "revoke" => {
            object["state"] = json!("revoked");
            object["revoked_at"] = time(now);
        }
        // a day more, so that it is later also within one second
        "resend" => object["expires_at"] = time(super::in_days(8)),
        _ => return error(404, None, "Cannot find the route"),
    }
    object["updated_at"] = time(now);
    Answer::new(200, object.clone())
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}
