//! Checks of the issuers: whether their keys can be had, and are of use.

use super::Check;
use crate::{
    auth::{IssuerError, Issuers, JwksError, Probe},
    causes::chain,
    config::Config,
    metrics::Metrics,
};

pub(super) async fn check(config: &Config) -> Vec<Check> {
    match Issuers::new(config, &Metrics::new()) {
        Ok(issuers) => issuers.probe().await.iter().map(probed).collect(),
        Err(error) => {
            let fix = match &error {
                IssuerError::File { name, .. } | IssuerError::Keys { name, .. } => {
                    format!(
                        "check issuers.{name}.jwks_file: {{\"keys\": […]}}, as the issuer gives it"
                    )
                }
                IssuerError::Settings { name, .. } | IssuerError::Client { name, .. } => {
                    format!("check issuers.{name}")
                }
            };
            vec![Check::fail("issuers", chain(&error), fix)]
        }
    }
}

fn probed(probe: &Probe) -> Check {
    let Probe {
        issuer,
        place,
        keys,
    } = probe;
    let error = match keys {
        Ok(keys) => {
            return Check::pass("issuers", format!("{issuer}: {keys} key(s) from {place}"));
        }
        Err(error) => error,
    };
    let fix = match error {
        JwksError::Unreachable(_) => {
            format!(
                "let this machine reach {place}: until it does, tokens of {issuer} are answered 503"
            )
        }
        JwksError::NoUsableKey => format!(
            "set issuers.{issuer}.algorithms to what its keys are for, or issuers.{issuer}.jwks_url to where its keys are"
        ),
        JwksError::Status(_)
        | JwksError::TooLarge(_)
        | JwksError::NotJwks
        | JwksError::TooManyKeys { .. }
        | JwksError::RepeatedKid => {
            format!("check issuers.{issuer}: its keys are looked for at {place}")
        }
    };
    Check::fail("issuers", format!("{issuer}: {}", chain(error)), fix)
}
