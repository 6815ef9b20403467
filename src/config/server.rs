//! `[server]`, `[limits]` and `[access]`: who may ask over HTTP, how often, and from where.

use ipnet::IpNet;
use serde::Deserialize;

use super::{Error, check_range};

/// `[server]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address and port to listen on.
    pub listen: String,
    /// How long a shutdown waits, in seconds.
    pub drain_timeout_s: u64,
    /// How long a connection may be idle between two requests, in seconds.
    pub idle_timeout_s: u64,
    /// How long the head of a request may take from its first byte, in seconds.
    pub head_timeout_s: u64,
    /// Connections that one address may have; 0 for any number.
    pub connections_per_address: u32,
    /// Origins whose pages may call the API from a browser.
    pub cors_origins: Vec<String>,
}

/// `[limits]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Requests a minute of one API key or end user; 0 for any number.
    pub per_principal_per_minute: u32,
    /// Requests a minute from one address without accepted credentials; 0 for any number.
    pub per_address_per_minute: u32,
    /// Requests a minute with form keys from one address; 0 for any number.
    pub per_form_address_per_minute: u32,
    /// Requests a minute with one form key; 0 for any number.
    pub per_form_key_per_minute: u32,
    /// How long an idempotency key and its answer are kept, in days.
    pub idempotency_keys_days: u32,
}

/// `[access]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Networks of the proxies whose `X-Forwarded-*` headers count.
    pub trusted_proxies: Vec<IpNet>,
    /// Paths of the application that need no token; one that ends in `*` stands for all below it.
    pub public_paths: Vec<String>,
    /// Cookies that may carry an end user's token, in the order in which they are looked for.
    pub session_cookies: Vec<String>,
    /// How long a tenant's or member's standing may be remembered, in seconds.
    pub remember_s: u64,
}

/// Whether browsers write an origin so: lower-case, no path, no port that the scheme implies.
pub fn is_origin(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.origin().ascii_serialization() == text
            && !text.contains('*')
    })
}

impl Server {
    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<(), Error> {
        // a timer of more than a day is a mistake, and one of centuries would overflow
        check_range("server.idle_timeout_s", self.idle_timeout_s, 1..=86_400)?;
        check_range("server.head_timeout_s", self.head_timeout_s, 1..=86_400)?;
        if let Some(origin) = self.cors_origins.iter().find(|text| !is_origin(text)) {
            let expected =
                "origins such as https://app.example.com: scheme and host, no path, no *";
            return Err(Error::value("server.cors_origins", origin, expected));
        }
        Ok(())
    }
}

impl Limits {
    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<(), Error> {
        // more than ten years is a mistake
        let days = self.idempotency_keys_days;
        check_range("limits.idempotency_keys_days", days, 1..=3_650)
    }
}

impl Access {
    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<(), Error> {
        check_range("access.remember_s", self.remember_s, 0..=60)?;
        // "/a*" would be /admin as well
        let is_no_path = |path: &&String| {
            let exact = path.strip_suffix("/*").unwrap_or(path);
            !path.starts_with('/')
                || exact.contains('*')
                || exact.split('/').any(|part| part == "..")
        };
        if let Some(path) = self.public_paths.iter().find(is_no_path) {
            let expected = "paths that begin with /, with at most a /* at the end";
            return Err(Error::value("access.public_paths", path, expected));
        }
        Ok(())
    }
}
