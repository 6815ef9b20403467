//! The effective configuration without its secrets.
//!
//! Guarantees: whatever is called `secret`, `secrets`, `keys` or `api_key` is shown as set or not set only; URLs are shown
//! without their password, those of notifications without their path, which may be a token.

use toml::{Table, Value};

/// `section.key` and value, in the order of the keys.
pub(super) fn lines(table: &Table) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    walk("", &Value::Table(table.clone()), &mut lines);
    lines
}

fn walk(path: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    let below = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match value {
        Value::Table(table) => table
            .iter()
            .for_each(|(key, value)| walk(&below(key), value, lines)),
        Value::Array(items) if items.iter().any(Value::is_table) => {
            items
                .iter()
                .enumerate()
                .for_each(|(at, item)| walk(&below(&at.to_string()), item, lines));
        }
        leaf => lines.push((path.to_owned(), shown(path, leaf))),
    }
}

fn shown(path: &str, value: &Value) -> String {
    let key = path.rsplit('.').next().unwrap_or_default();
    match (key, value) {
        ("secrets" | "keys", Value::Array(secrets)) => format!("[{} set]", secrets.len()),
        ("api_key" | "secret", Value::String(key)) if key.is_empty() => "(not set)".to_owned(),
        ("secret" | "secrets" | "keys" | "api_key", _) => "(set)".to_owned(),
        ("url", Value::String(url)) if path.starts_with("notifications.") => origin_of(url),
        ("url" | "api_url" | "jwks_url", Value::String(url)) => redact_url(url),
        (_, Value::String(text)) => text.clone(),
        (_, other) => serde_json::to_string(other).unwrap_or_default(),
    }
}

/// Scheme, host and port.
fn origin_of(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(url) => format!("{}/…", url.origin().ascii_serialization()),
        Err(_) => "(set, not a URL)".to_owned(),
    }
}

fn redact_url(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(mut url) => {
            if url.password().is_some() {
                // a URL that has a password can have another one
                let _ = url.set_password(Some("***"));
            }
            // the driver reads a password here as well
            if url.query().is_some_and(|query| query.contains("password")) {
                url.set_query(Some("***"));
            }
            url.to_string()
        }
        Err(_) if text.is_empty() => "(not set)".to_owned(),
        Err(_) => "(set, not a URL)".to_owned(),
    }
}
