//! Checks of the sources: their secrets, and whether their providers' APIs accept our key.

use secrecy::ExposeSecret;

use super::Check;
use crate::{
    causes::chain,
    config::{Config, Source},
    provider_api::{Client, Error},
    webhooks,
};

/// An organization that no provider knows: asking for it changes nothing and needs a good key.
const NOBODY: &str = "org_tenantry_doctor";

pub(super) async fn check(config: &Config) -> Vec<Check> {
    let mut checks = secrets(config);
    let callable = config.sources.iter();
    for (name, source) in callable.filter(|(_, source)| source.can_be_called()) {
        checks.push(provider_api(name, source).await);
    }
    checks
}

async fn provider_api(name: &str, source: &Source) -> Check {
    let asked = match Client::new(source.kind, &source.api_key, &source.api_url) {
        Ok(client) => client.find_organization(NOBODY).await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(_) => Check::pass(
            "provider api",
            format!("{name} answers and accepts the key"),
        ),
        Err(error @ (Error::Unauthorized { .. } | Error::BadKey(_) | Error::BadUrl(_))) => {
            let fix = format!("check sources.{name}.api_key and sources.{name}.api_url");
            Check::fail("provider api", chain(&error), fix)
        }
        // webhooks and tenants need no API: a provider that is away is no reason not to start
        Err(error) => {
            let fix = "invitations and removals wait until it answers";
            Check::warn("provider api", chain(&error), fix)
        }
    }
}

/// Secrets shorter than this can be guessed (bytes).
const SHORT_SECRET: usize = 16;

fn secrets(config: &Config) -> Vec<Check> {
    if config.routed_sources().next().is_none() {
        let fix = "set WORKOS_WEBHOOK_SECRET or CLERK_WEBHOOK_SECRET, or a [sources.<name>] section with secrets";
        return vec![Check::warn(
            "sources",
            "no source has a secret: no webhook is routed",
            fix,
        )];
    }
    let check = |(name, source): (&String, &Source)| {
        let short = source
            .secrets
            .iter()
            .any(|secret| secret.expose_secret().len() < SHORT_SECRET);
        let usable = |secret| webhooks::is_usable(source.kind, secret);
        if !source.secrets.iter().all(usable) {
            return Check::warn(
                "sources",
                format!("a secret of {name} is no key: nothing that it signs is accepted"),
                "copy the whole secret, whsec_ and what follows",
            );
        }
        match (source.secrets.len(), short) {
            (0, _) => Check::warn(
                "sources",
                format!("{name} has no secret: POST /webhooks/{name} is 404"),
                "give it secrets",
            ),
            (_, true) => Check::warn(
                "sources",
                format!("a secret of {name} is shorter than {SHORT_SECRET} bytes"),
                "use the one that the provider generated",
            ),
            (count, false) => Check::pass(
                "sources",
                format!(
                    "POST /webhooks/{name} ({}, {count} secret(s))",
                    source.kind.name()
                ),
            ),
        }
    };
    config.sources.iter().map(check).collect()
}
