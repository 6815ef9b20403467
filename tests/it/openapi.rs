//! The description of the API is true: as committed, of every route, and of who may use it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::Value;
use tenantry::http::{self, Access, access_table};

use crate::support::{App, Deployment, TinyBlueprint};

const COMMITTED: &str = "docs/openapi.json";

fn document() -> Value {
    serde_json::to_value(http::document()).unwrap()
}

/// Every operation by its method and path.
fn operations(document: &Value) -> BTreeMap<(String, String), &Value> {
    let mut found = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            found.insert((method.to_uppercase(), path.clone()), operation);
        }
    }
    found
}

/// The page about the document is no part of it.
fn is_page(path: &str) -> bool {
    path.starts_with("/docs")
}

/// The schemes of which one is needed, as the rule of a route says.
fn schemes(access: Access) -> BTreeSet<&'static str> {
    let schemes: &[_] = match access {
        Access::Public | Access::Visitor | Access::Signature => &[],
        Access::ForwardAuth => &["session", "token"],
        Access::Key(_) => &["key"],
        Access::KeyOrUser(_) | Access::KeyOrAdmin(_) => &["key", "token"],
        Access::Registrant => &["form_key", "key"],
        Access::RegistrationReader => &["key", "status_token", "status_token_in_query"],
    };
    schemes.iter().copied().collect()
}

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let committed = fs::read_to_string(COMMITTED).unwrap();
    assert!(
        committed.trim_end() == http::document().to_pretty_json().unwrap(),
        "{COMMITTED} is out of date: cargo run -- openapi > {COMMITTED}"
    );
    assert!(document()["openapi"].as_str().unwrap().starts_with("3.1"));
}

#[test]
fn every_route_is_an_operation_and_every_operation_a_route() {
    let document = document();
    let described: BTreeSet<_> = operations(&document).into_keys().collect();
    let routed: BTreeSet<_> = access_table()
        .into_iter()
        .filter(|(_, path, _)| !is_page(path))
        .map(|(method, path, _)| (method.to_owned(), path.to_owned()))
        .collect();
    assert_eq!(described, routed);
}

#[test]
fn an_operation_asks_for_the_credentials_of_its_route() {
    let document = document();
    let operations = operations(&document);
    for (method, path, access) in access_table() {
        let Some(operation) = operations.get(&(method.to_owned(), path.to_owned())) else {
            continue;
        };
        let alternatives = operation["security"].as_array().into_iter().flatten();
        let asked: BTreeSet<_> = alternatives
            .flat_map(|alternative| alternative.as_object().unwrap().keys())
            .map(String::as_str)
            .collect();
        assert_eq!(asked, schemes(access), "{method} {path}");
    }
}

#[test]
fn an_operation_has_a_name_of_its_own_and_says_what_may_go_wrong() {
    let document = document();
    let mut names = BTreeSet::new();
    for ((method, path), operation) in operations(&document) {
        let name = operation["operationId"].as_str().unwrap();
        assert!(names.insert(name), "{name} is there twice");
        let responses = operation["responses"].as_object().unwrap();
        let problems = responses
            .iter()
            .filter(|(status, _)| !status.starts_with('2'));
        let mut count = 0;
        for (status, problem) in problems {
            let schema = &problem["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(
                schema, "#/components/schemas/Problem",
                "{method} {path} {status}"
            );
            count += 1;
        }
        // liveness has no way to fail
        assert!(count > 0 || path == "/livez", "{method} {path}");
    }
}

#[test]
fn nothing_refers_to_what_is_not_there() {
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let client = reqwest::Client::new();
    let load = async |path: &str| {
        let url = format!("http://{}{path}", app.address);
        let answer = client.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let policy = answer.headers()["content-security-policy"]
            .to_str()
            .unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"));
        assert!(!policy.contains("http"), "{policy}");
        answer.text().await.unwrap()
    };
    let page = load("/docs/").await;
    let addresses = ["src=\"", "href=\""].map(|name| page.split(name).skip(1));
    let addresses = addresses.into_iter().flatten();
    let mut loaded = 0;
    for address in addresses.filter_map(|rest| Some(rest.split_once('"')?.0)) {
        assert!(!address.contains("//"), "{address} is not one of our files");
        load(&format!("/docs/{}", address.trim_start_matches("./"))).await;
        loaded += 1;
    }
    assert!(loaded > 3 && !page.contains("://"), "{page}");
    let start = load("/docs/swagger-initializer.js").await;
    assert!(start.contains("\"/openapi.json\"") && !start.contains("://"));
    // else it would have somebody else look at the document
    assert!(start.contains("\"validatorUrl\": \"none\""), "{start}");
}
