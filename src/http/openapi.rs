//! The description of the API (OpenAPI 3.1), generated from the handlers.

use axum::Json;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        OpenApi as Document, RefOr, Schema, Type,
        path::{Parameter, ParameterIn},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{
    Problem, audit, connection, events, fleet_run_events, fleet_runs, forward_auth, health, hosts,
    invitations, jobs, labels, members, mutation, notifications, registration_events,
    registrations, resolve, staff, tenants, webhooks,
};
use crate::page::{DEFAULT_LIMIT, MAX_LIMIT};

/// Base64 as in the addresses of pages.
const CURSOR: &str = "^[A-Za-z0-9_-]+$";

/// A host name, with a final point and a port where there is one; the last label is no number.
const HOST: &str = r"^(?!(?:[^:]*\.)?[0-9]+\.?(?::|$))(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?(?::[0-9]{0,5})?$";

/// Characters of the longest host name.
const MAX_HOST: usize = 253;

/// Visible ASCII characters, or a string of RFC 8941 of such.
const IDEMPOTENCY_KEY: &str = r#"^(?:[!#-~][!-~]{0,254}|"(?:[!#-\[\]-~]|\\["\\]){1,255}")$"#;

/// A text; Postgres keeps any character but one.
const TEXT: &str = r"^[^\u0000]*$";

/// The API.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "tenantry",
        description = "Identity events in, ready Postgres tenants out. Errors are RFC 9457 problems with a stable `code`."
    ),
    servers((url = "/")),
    paths(
        webhooks::receive,
        webhooks::receive_from_clerk,
        forward_auth::verify,
        resolve::resolve,
        registrations::register,
        registrations::find,
        registrations::abandon,
        registration_events::follow,
        tenants::list,
        tenants::get,
        tenants::retry,
        tenants::suspend,
        tenants::resume,
        connection::reveal,
        labels::replace,
        labels::merge,
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
        notifications::list,
        notifications::get,
        notifications::replay,
        fleet_runs::list,
        fleet_runs::create,
        fleet_runs::get,
        fleet_runs::targets,
        fleet_run_events::follow,
        fleet_runs::pause,
        fleet_runs::resume,
        fleet_runs::retry,
        fleet_runs::first,
        fleet_runs::abort,
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
        health::livez,
        health::readyz,
        health::metrics,
        serve,
    ),
    components(schemas(Problem)),
    modifiers(&Credentials, &Bounds)
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
        let form_key =
            bearer("A form key, from a page of its origins: `tenantry keys create --form`");
        components.add_security_scheme("form_key", SecurityScheme::Http(form_key));
        let status_token = bearer("The `status_token` of a registration");
        components.add_security_scheme("status_token", SecurityScheme::Http(status_token));
        let in_query = ApiKey::Query(ApiKeyValue::with_description(
            "status_token",
            "The same, for `EventSource`, which sends no header",
        ));
        components.add_security_scheme("status_token_in_query", SecurityScheme::ApiKey(in_query));
        let token = bearer("A token of an end user, by a configured issuer");
        components.add_security_scheme("token", SecurityScheme::Http(token));
        let session = ApiKey::Cookie(ApiKeyValue::new("__session"));
        components.add_security_scheme("session", SecurityScheme::ApiKey(session));
    }
}

/// What a parameter may be, which is the same on every route that has one of its name.
struct Bounds;

impl Modify for Bounds {
    fn modify(&self, document: &mut Document) {
        for path in document.paths.paths.values_mut() {
            let operations = [
                &mut path.get,
                &mut path.put,
                &mut path.post,
                &mut path.delete,
                &mut path.patch,
            ];
            let operations = operations.into_iter().filter_map(Option::as_mut);
            let parameters = operations.filter_map(|operation| operation.parameters.as_mut());
            for parameter in parameters.flatten() {
                if let RefOr::T(parameter) = parameter {
                    bound(parameter);
                }
            }
        }
    }
}

fn bound(parameter: &mut Parameter) {
    let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema else {
        return;
    };
    match parameter.name.as_str() {
        "limit" => {
            schema.minimum = Some(1.into());
            schema.maximum = Some(MAX_LIMIT.into());
            schema.default = Some(DEFAULT_LIMIT.into());
        }
        "cursor" => schema.pattern = Some(CURSOR.to_owned()),
        "host" => {
            schema.max_length = Some(MAX_HOST);
            schema.pattern = Some(HOST.to_owned());
        }
        mutation::IDEMPOTENCY_KEY => {
            // a header is left out, and never null
            schema.schema_type = Type::String.into();
            schema.pattern = Some(IDEMPOTENCY_KEY.to_owned());
        }
        _ if schema.format.is_none() && schema.enum_values.is_none() => {
            schema.pattern = Some(TEXT.to_owned());
            if parameter.parameter_in == ParameterIn::Path {
                schema.min_length = Some(1);
            }
        }
        _ => {}
    }
}

/// The document.
pub fn document() -> Document {
    Api::openapi()
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = "operations",
    responses(
        (status = 200, description = "This document", body = Object),
        (status = 429, description = "Asked too often", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn serve() -> Json<Document> {
    Json(document())
}
