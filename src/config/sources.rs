//! `[sources]`: who sends webhooks.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{Error, empty_secret, is_legal_name};
use crate::webhooks::{Mapping, SourceKind};

/// `[sources.<name>]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Whose webhooks these are.
    pub kind: SourceKind,
    /// Signing secrets, any of which may have signed.
    #[serde(default)]
    pub secrets: Vec<SecretString>,
    #[serde(default)]
    pub(super) secret_files: Vec<PathBuf>,
    /// How far a signature's time may be from ours, both ways, in seconds.
    #[serde(default = "default_tolerance_s")]
    pub tolerance_s: u32,
    /// Key for the provider's API; empty when not configured.
    #[serde(default = "empty_secret")]
    pub api_key: SecretString,
    #[serde(default)]
    pub(super) api_key_file: PathBuf,
    /// Base URL of the provider's API; empty for the provider's own.
    #[serde(default)]
    pub api_url: String,
    /// What a sender of kind `standard` means.
    #[serde(default)]
    pub mapping: Mapping,
}

const fn default_tolerance_s() -> u32 {
    300
}

impl Source {
    /// Refuses what cannot work.
    pub(super) fn check(&self, name: &str) -> Result<(), Error> {
        if !is_legal_name(name) {
            let expected = "names of 1 to 40 characters of a-z, 0-9, _ and -";
            return Err(Error::value("sources", name, expected));
        }
        if self.kind != SourceKind::Standard && self.mapping != Mapping::default() {
            let expected = "a mapping only where kind is \"standard\"";
            return Err(Error::value("sources", name, expected));
        }
        // a password has no place in it: it would be shown
        let works = |url: url::Url| {
            matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.password().is_none()
        };
        if !self.api_url.is_empty() && !url::Url::parse(&self.api_url).is_ok_and(works) {
            let expected =
                "http:// or https:// and a host, without a user, or nothing for the provider's own";
            return Err(Error::value("sources.api_url", "…", expected));
        }
        Ok(())
    }

    /// A source with these secrets and the default tolerance.
    pub fn new(kind: SourceKind, secrets: Vec<SecretString>) -> Self {
        Self {
            kind,
            secrets,
            secret_files: Vec::new(),
            tolerance_s: default_tolerance_s(),
            api_key: empty_secret(),
            api_key_file: PathBuf::new(),
            api_url: String::new(),
            mapping: Mapping::default(),
        }
    }

    /// Whether the provider's API can be called: it has one, and a key is configured.
    pub fn can_be_called(&self) -> bool {
        match self.kind {
            SourceKind::Workos | SourceKind::Clerk => !self.api_key.expose_secret().is_empty(),
            SourceKind::Standard => false,
        }
    }
}
