//! The description of the API (OpenAPI 3.1), generated from the handlers.

use axum::Json;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        OpenApi as Document,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{
    Problem, audit, connection, events, forward_auth, hosts, invitations, jobs, members, resolve,
    staff, tenants,
};

/// The API.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "tenantry",
        description = "Identity events in, ready Postgres tenants out. Errors are RFC 9457 problems with a stable `code`."
    ),
    servers((url = "/")),
    paths(
        forward_auth::verify,
        resolve::resolve,
        tenants::list,
        tenants::get,
        tenants::retry,
        tenants::suspend,
        tenants::resume,
        connection::reveal,
        hosts::list,
        hosts::add,
        hosts::remove,
        events::list,
        events::get,
        events::replay,
        jobs::list,
        jobs::get,
        jobs::retry,
        jobs::cancel,
        audit::list,
        members::list,
        members::counts,
        members::find,
        members::set_role,
        members::remove,
        members::restore,
        invitations::list,
        invitations::invite,
        invitations::find,
        invitations::revoke,
        invitations::resend,
        staff::list,
        staff::assign,
        staff::unassign,
    ),
    components(schemas(Problem)),
    modifiers(&Credentials)
)]
struct Api;

/// How callers say who they are.
struct Credentials;

impl Modify for Credentials {
    fn modify(&self, document: &mut Document) {
        let bearer = |description: &str| {
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some(description))
                .build()
        };
        let components = document.components.get_or_insert_default();
        let key = bearer("An API key of an operator: `tenantry keys create`");
        components.add_security_scheme("key", SecurityScheme::Http(key));
        let token = bearer("A token of an end user, by a configured issuer");
        components.add_security_scheme("token", SecurityScheme::Http(token));
        let session = ApiKey::Cookie(ApiKeyValue::new("__session"));
        components.add_security_scheme("session", SecurityScheme::ApiKey(session));
    }
}

/// The document.
pub fn document() -> Document {
    Api::openapi()
}

pub(super) async fn serve() -> Json<Document> {
    Json(document())
}
