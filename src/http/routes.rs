//! Every route with who may use it, on one page.
//!
//! Guarantees: there is no other way to a handler than a row here, and the row's rule is checked before
//! the handler runs.

use axum::{
    handler::Handler,
    routing::{MethodFilter, MethodRouter, on},
};

use super::{
    AppState, access::Access, audit, connection, docs, events, fleet_run_events, fleet_runs,
    forward_auth, health, hosts, invitations, jobs, labels, members, notifications, openapi,
    registration_events, registrations, resolve, staff, tenants, webhooks,
};
use crate::api_keys::Scope;

/// Every route, and who may use it: there is no other way to a handler.
pub(super) fn routes() -> Vec<Route> {
    use Access::{ForwardAuth, KeyOrUser, Public, Signature, Visitor};
    let mut routes = vec![
        // senders
        post("/webhooks/{source}", Signature, webhooks::receive),
        post(
            "/api/clerk/webhooks",
            Signature,
            webhooks::receive_from_clerk,
        ),
        // applications and the proxies before them
        get("/v1/auth/verify", ForwardAuth, forward_auth::verify),
        get(
            "/v1/tenants/resolve",
            KeyOrUser(Scope::TenantsRead),
            resolve::resolve,
        ),
        // operations
        get("/livez", Public, health::livez),
        get("/readyz", Public, health::readyz),
        get("/metrics", Public, health::metrics),
        get("/openapi.json", Visitor, openapi::serve),
        get("/docs", Visitor, docs::redirect),
        get("/docs/", Visitor, docs::index),
        get("/docs/{*file}", Visitor, docs::asset),
    ];
    routes.extend(registration_routes());
    routes.extend(organization_routes());
    routes.extend(tenant_routes());
    routes.extend(work_routes());
    routes.extend(fleet_routes());
    routes
}

/// What sign-up forms may do.
fn registration_routes() -> Vec<Route> {
    use Access::{Key, Registrant, RegistrationReader};
    vec![
        post("/v1/registrations", Registrant, registrations::register),
        get(
            "/v1/registrations/{id}",
            RegistrationReader,
            registrations::find,
        ),
        delete(
            "/v1/registrations/{id}",
            Key(Scope::RegistrationsWrite),
            registrations::abandon,
        ),
        get(
            "/v1/registrations/{id}/events",
            RegistrationReader,
            registration_events::follow,
        ),
    ]
}

/// What an organization's administrators may do, and operators in their place.
fn organization_routes() -> Vec<Route> {
    let read = Access::KeyOrAdmin(Scope::MembersRead);
    let write = Access::KeyOrAdmin(Scope::MembersWrite);
    vec![
        get("/v1/organizations/{org}/members", read, members::list),
        get(
            "/v1/organizations/{org}/members/counts",
            read,
            members::counts,
        ),
        get(
            "/v1/organizations/{org}/members/{user}",
            read,
            members::find,
        ),
        patch(
            "/v1/organizations/{org}/members/{user}",
            write,
            members::set_role,
        ),
        delete(
            "/v1/organizations/{org}/members/{user}",
            write,
            members::remove,
        ),
        post(
            "/v1/organizations/{org}/members/{user}/restore",
            write,
            members::restore,
        ),
        get(
            "/v1/organizations/{org}/invitations",
            read,
            invitations::list,
        ),
        post(
            "/v1/organizations/{org}/invitations",
            write,
            invitations::invite,
        ),
        get(
            "/v1/organizations/{org}/invitations/{id}",
            read,
            invitations::find,
        ),
        delete(
            "/v1/organizations/{org}/invitations/{id}",
            write,
            invitations::revoke,
        ),
        post(
            "/v1/organizations/{org}/invitations/{id}/resend",
            write,
            invitations::resend,
        ),
        get(
            "/v1/organizations/{org}/staff-assignments",
            read,
            staff::list,
        ),
        post(
            "/v1/organizations/{org}/staff-assignments",
            write,
            staff::assign,
        ),
        delete(
            "/v1/organizations/{org}/staff-assignments/{user}/{customer}",
            write,
            staff::unassign,
        ),
    ]
}

/// What operators may do about tenants.
fn tenant_routes() -> Vec<Route> {
    let read = Access::Key(Scope::TenantsRead);
    let write = Access::Key(Scope::TenantsWrite);
    vec![
        get("/v1/tenants", read, tenants::list),
        get("/v1/tenants/{id}", read, tenants::get),
        post("/v1/tenants/{id}/retry", write, tenants::retry),
        post("/v1/tenants/{id}/suspend", write, tenants::suspend),
        post("/v1/tenants/{id}/resume", write, tenants::resume),
        get(
            "/v1/tenants/{id}/connection",
            Access::Key(Scope::TenantsConnect),
            connection::reveal,
        ),
        put("/v1/tenants/{id}/labels", write, labels::replace),
        patch("/v1/tenants/{id}/labels", write, labels::merge),
        get("/v1/tenants/{id}/hosts", read, hosts::list),
        put("/v1/tenants/{id}/hosts/{host}", write, hosts::add),
        delete("/v1/tenants/{id}/hosts/{host}", write, hosts::remove),
    ]
}

/// What operators may see of the work, and do about it.
fn work_routes() -> Vec<Route> {
    let read = Access::Key(Scope::EventsRead);
    let write = Access::Key(Scope::EventsWrite);
    vec![
        get("/v1/events", read, events::list),
        get("/v1/events/{id}", read, events::get),
        post("/v1/events/{id}/replay", write, events::replay),
        get("/v1/jobs", read, jobs::list),
        get("/v1/jobs/{id}", read, jobs::get),
        post("/v1/jobs/{id}/retry", write, jobs::retry),
        post("/v1/jobs/{id}/cancel", write, jobs::cancel),
        get("/v1/notifications", read, notifications::list),
        get("/v1/notifications/{id}", read, notifications::get),
        post(
            "/v1/notifications/{id}/replay",
            write,
            notifications::replay,
        ),
        get("/v1/audit", Access::Key(Scope::AuditRead), audit::list),
    ]
}

/// What operators may see of fleet runs, and do about them.
fn fleet_routes() -> Vec<Route> {
    let read = Access::Key(Scope::FleetRead);
    let write = Access::Key(Scope::FleetWrite);
    vec![
        get("/v1/fleet-runs", read, fleet_runs::list),
        post("/v1/fleet-runs", write, fleet_runs::create),
        get("/v1/fleet-runs/{id}", read, fleet_runs::get),
        get("/v1/fleet-runs/{id}/targets", read, fleet_runs::targets),
        get("/v1/fleet-runs/{id}/events", read, fleet_run_events::follow),
        post("/v1/fleet-runs/{id}/pause", write, fleet_runs::pause),
        post("/v1/fleet-runs/{id}/resume", write, fleet_runs::resume),
        post("/v1/fleet-runs/{id}/retry", write, fleet_runs::retry),
        post("/v1/fleet-runs/{id}/first", write, fleet_runs::first),
        post("/v1/fleet-runs/{id}/abort", write, fleet_runs::abort),
    ]
}

/// A route, and who may use it.
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) access: Access,
    pub(super) handler: MethodRouter<AppState>,
}

fn get<H: Handler<T, AppState>, T: 'static>(
    path: &'static str,
    access: Access,
    handler: H,
) -> Route {
    route("GET", MethodFilter::GET, (path, access), handler)
}

fn post<H: Handler<T, AppState>, T: 'static>(
    path: &'static str,
    access: Access,
    handler: H,
) -> Route {
    route("POST", MethodFilter::POST, (path, access), handler)
}

fn put<H: Handler<T, AppState>, T: 'static>(
    path: &'static str,
    access: Access,
    handler: H,
) -> Route {
    route("PUT", MethodFilter::PUT, (path, access), handler)
}

fn patch<H: Handler<T, AppState>, T: 'static>(
    path: &'static str,
    access: Access,
    handler: H,
) -> Route {
    route("PATCH", MethodFilter::PATCH, (path, access), handler)
}

fn delete<H: Handler<T, AppState>, T: 'static>(
    path: &'static str,
    access: Access,
    handler: H,
) -> Route {
    route("DELETE", MethodFilter::DELETE, (path, access), handler)
}

fn route<H: Handler<T, AppState>, T: 'static>(
    method: &'static str,
    filter: MethodFilter,
    (path, access): (&'static str, Access),
    handler: H,
) -> Route {
    Route {
        method,
        path,
        access,
        handler: on(filter, handler),
    }
}
