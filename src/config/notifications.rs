//! Who is told what happened: `[notifications.<name>]`.
//!
//! Guarantees: the URL is never shown whole, because its path may be a token; an endpoint that could not
//! be reached or verified by anybody is refused before anything starts.

use std::{path::PathBuf, time::Duration};

use chrono::DateTime;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::{Error, is_legal_name};
use crate::{
    addresses,
    webhooks::{self, SourceKind},
};

/// What can be told.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, utoipa::ToSchema,
)]
pub enum NotificationType {
    /// A tenant can be used from now on.
    #[serde(rename = "tenant.ready")]
    TenantReady,
    /// Making a tenant was given up.
    #[serde(rename = "tenant.failed")]
    TenantFailed,
    /// A tenant is not routed any more.
    #[serde(rename = "tenant.suspended")]
    TenantSuspended,
    /// A suspended tenant can be used again.
    #[serde(rename = "tenant.resumed")]
    TenantResumed,
    /// A tenant was archived.
    #[serde(rename = "tenant.archived")]
    TenantArchived,
    /// Somebody became an active member.
    #[serde(rename = "member.added")]
    MemberAdded,
    /// An active member is none any more.
    #[serde(rename = "member.removed")]
    MemberRemoved,
    /// A removed member is active again.
    #[serde(rename = "member.restored")]
    MemberRestored,
    /// The tenant of a registration can be used.
    #[serde(rename = "registration.completed")]
    RegistrationCompleted,
}

impl NotificationType {
    /// Every type.
    pub const ALL: [Self; 9] = [
        Self::TenantReady,
        Self::TenantFailed,
        Self::TenantSuspended,
        Self::TenantResumed,
        Self::TenantArchived,
        Self::MemberAdded,
        Self::MemberRemoved,
        Self::MemberRestored,
        Self::RegistrationCompleted,
    ];

    /// The word as it is configured, stored and sent.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TenantReady => "tenant.ready",
            Self::TenantFailed => "tenant.failed",
            Self::TenantSuspended => "tenant.suspended",
            Self::TenantResumed => "tenant.resumed",
            Self::TenantArchived => "tenant.archived",
            Self::MemberAdded => "member.added",
            Self::MemberRemoved => "member.removed",
            Self::MemberRestored => "member.restored",
            Self::RegistrationCompleted => "registration.completed",
        }
    }
}

/// The retry schedule of the Standard Webhooks specification after the immediate attempt, in seconds.
const SCHEDULE_S: [u64; 9] = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];

/// The longest wait: a month.
const MAX_WAIT_S: u64 = 30 * 24 * 60 * 60;

/// `[notifications.<name>]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Where it is told; the path may be a token.
    pub url: SecretString,
    /// Signing secrets: each of them signs.
    #[serde(default)]
    pub secrets: Vec<SecretString>,
    #[serde(default)]
    pub(super) secret_files: Vec<PathBuf>,
    /// What it is told of; empty for everything.
    #[serde(default)]
    pub types: Vec<NotificationType>,
    /// Whether its host may have an address that is not public.
    #[serde(default)]
    pub allow_private_addresses: bool,
    /// How long an attempt may take, in seconds.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u64,
    /// Waits between attempts, in seconds.
    #[serde(default = "default_schedule_s")]
    pub retry_schedule_s: Vec<u64>,
}

const fn default_timeout_s() -> u64 {
    15
}

fn default_schedule_s() -> Vec<u64> {
    SCHEDULE_S.to_vec()
}

impl Endpoint {
    /// Where it is told. The configuration was checked: there is one.
    pub fn parsed_url(&self) -> Result<Url, String> {
        let url = Url::parse(self.url.expose_secret())
            .map_err(|error| format!("url is not one: {error}"))?;
        let schemes: &[&str] = if self.allow_private_addresses {
            &["https", "http"]
        } else {
            &["https"]
        };
        if !schemes.contains(&url.scheme()) {
            let problem =
                "url must begin with https://, or http:// where allow_private_addresses is true";
            return Err(problem.to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "url has a user or password in it; the signature says who sent it".to_owned(),
            );
        }
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            Some(Host::Domain(_)) | None => None,
        };
        match address {
            Some(address) if !self.allow_private_addresses && !addresses::is_public(address) => {
                Err(format!(
                    "{address} is no public address; set allow_private_addresses = true if it is meant"
                ))
            }
            _ => Ok(url),
        }
    }

    /// Waits between attempts.
    pub fn schedule(&self) -> Vec<Duration> {
        let waits = self.retry_schedule_s.iter();
        waits.map(|&wait| Duration::from_secs(wait)).collect()
    }

    /// Refuses what cannot work.
    pub(super) fn check(&self, name: &str) -> Result<(), Error> {
        self.find_problem(name).map_or(Ok(()), |problem| {
            Err(Error::Endpoint {
                name: name.to_owned(),
                problem,
            })
        })
    }

    fn find_problem(&self, name: &str) -> Option<String> {
        if !is_legal_name(name) {
            return Some("its name must have 1 to 40 characters of a-z, 0-9, _ and -".to_owned());
        }
        if let Err(problem) = self.parsed_url() {
            return Some(problem);
        }
        let signs = |secret| {
            !webhooks::sign(SourceKind::Standard, secret, "id", DateTime::default(), b"").is_empty()
        };
        if self.secrets.is_empty() || !self.secrets.iter().all(signs) {
            let problem = "it needs secrets (or secret_files), each whsec_ and 24 to 64 random bytes in base64; \
                make one with: echo whsec_$(openssl rand -base64 32)";
            return Some(problem.to_owned());
        }
        if !(1..=60).contains(&self.timeout_s) {
            return Some(format!("timeout_s = {} is not 1 to 60", self.timeout_s));
        }
        let too_long = self.retry_schedule_s.iter().any(|&wait| wait > MAX_WAIT_S);
        if too_long || self.retry_schedule_s.len() > 50 {
            return Some(format!(
                "retry_schedule_s takes at most 50 waits of 0 to {MAX_WAIT_S} seconds"
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        let secret = "whsec_dGVzdF9vZl90ZW5hbnRyeV8wMTIzNDU2Nzg5";
        let table = toml::toml! { url = url secrets = [secret] };
        table.try_into().unwrap()
    }

    #[test]
    fn a_type_has_one_name_everywhere() {
        for kind in NotificationType::ALL {
            assert_eq!(serde_json::json!(kind), kind.name());
        }
    }

    #[test]
    fn only_what_is_public_and_encrypted_is_told() {
        assert_eq!(
            endpoint("https://app.example.com/hooks").find_problem("app"),
            None
        );
        for (url, problem) in [
            ("app.example.com", "is not one"),
            ("http://app.example.com", "https://"),
            ("ftp://app.example.com", "https://"),
            ("https://me:pw@app.example.com", "user or password"),
            ("https://127.0.0.1/", "no public address"),
            ("https://2130706433/", "no public address"),
            ("https://0x7f.1/", "no public address"),
            ("https://[::1]/", "no public address"),
            ("https://[::ffff:10.0.0.1]/", "no public address"),
            ("https://169.254.169.254/latest", "no public address"),
        ] {
            let found = endpoint(url).find_problem("app").unwrap_or_default();
            assert!(found.contains(problem), "{url}: {found}");
        }
        let mut allowed = endpoint("http://127.0.0.1:8080/");
        allowed.allow_private_addresses = true;
        assert_eq!(allowed.find_problem("app"), None);
    }

    #[test]
    fn without_a_key_nothing_could_be_verified() {
        for secret in ["", "whsec_", "whpk_Xg", "not base64!"] {
            let mut endpoint = endpoint("https://app.example.com/hooks");
            endpoint.secrets = vec![SecretString::from(secret)];
            let problem = endpoint.find_problem("app").unwrap();
            assert!(problem.contains("openssl rand"), "{secret}: {problem}");
        }
    }

    #[test]
    fn the_url_is_not_shown() {
        let shown = format!("{:?}", endpoint("https://hooks.example.com/T0/s3cr3t"));
        assert!(!shown.contains("s3cr3t"), "{shown}");
    }
}
