//! `[issuers.<name>]`: whose tokens are believed, by which keys, and what must be in them.
//!
//! Guarantees: an issuer that passed [`check_all`] has exactly one place its keys come from, algorithms that fit that place (a
//! shared secret never beside public keys), and `iss` values that no other issuer has.
//!
//! Does not: read keys or look at tokens; `auth` does.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::PathBuf,
};

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::{Host, Url};

use super::{Error, Source, empty_secret, is_legal_name};

/// Shorter secrets can be guessed from one token (bytes).
const MIN_SECRET_BYTES: usize = 32;

const MAX_LEEWAY_S: u32 = 60;

/// `[issuers.<name>]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Whose tokens these are.
    pub kind: IssuerKind,
    /// The source whose organizations and users the tokens name.
    pub source: String,
    #[serde(default, rename = "issuer")]
    iss: OneOrMore,
    #[serde(default)]
    client_id: String,
    #[serde(default)]
    jwks_url: String,
    #[serde(default)]
    jwks_file: PathBuf,
    #[serde(default = "empty_secret")]
    pub(super) secret: SecretString,
    #[serde(default)]
    pub(super) secret_file: PathBuf,
    #[serde(default)]
    algorithms: Vec<Algorithm>,
    /// Accepted `azp` values (Clerk); with any of them, a token must have one.
    #[serde(default)]
    pub authorized_parties: Vec<String>,
    #[serde(default)]
    audience: OneOrMore,
    /// How far the clocks may be apart, in seconds.
    #[serde(default = "default_leeway_s")]
    pub leeway_s: u32,
    /// Whether tokens of JWT templates, which have no session, are accepted (Clerk).
    #[serde(default)]
    pub accept_templates: bool,
    user_claim: Option<String>,
    organization_claim: Option<String>,
    role_claim: Option<String>,
    permissions_claim: Option<String>,
    email_claim: Option<String>,
}

/// Whose tokens an issuer's are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IssuerKind {
    /// Clerk's session tokens, of version 1 and 2.
    Clerk,
    /// `WorkOS` `AuthKit`'s access tokens.
    Workos,
    /// Anybody's, with claims that are named by configuration.
    Custom,
}

/// Where an issuer's keys come from.
#[derive(Debug, Clone)]
pub enum IssuerKeys {
    /// A JWKS at this address.
    Url(Url),
    /// A JWKS in this file.
    File(PathBuf),
    /// A secret that signs and verifies.
    Secret(SecretString),
}

/// A text, or a list of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

impl OneOrMore {
    /// What was given; an empty text is nothing.
    fn all(&self) -> &[String] {
        match self {
            Self::One(text) if text.is_empty() => &[],
            Self::One(text) => std::slice::from_ref(text),
            Self::More(texts) => texts,
        }
    }
}

const fn default_leeway_s() -> u32 {
    5
}

impl Issuer {
    /// The exact `iss` values of its tokens.
    pub fn issuers(&self) -> Vec<String> {
        let given = self.iss.all();
        if given.is_empty() && self.kind == IssuerKind::Workos && !self.client_id.is_empty() {
            // environments from before mid-2025 still write the short one
            return vec![
                format!("https://api.workos.com/user_management/{}", self.client_id),
                "https://api.workos.com".to_owned(),
            ];
        }
        given.to_vec()
    }

    /// Accepted `aud` values; none: `aud` is not looked at.
    pub fn audience(&self) -> &[String] {
        self.audience.all()
    }

    /// The algorithms that may have signed.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        match (self.algorithms.is_empty(), self.has_secret()) {
            (false, _) => self.algorithms.clone(),
            (true, true) => vec![Algorithm::HS256],
            (true, false) => vec![Algorithm::RS256],
        }
    }

    /// The claim with the user's id.
    pub fn user_claim(&self) -> &str {
        self.user_claim.as_deref().unwrap_or("sub")
    }

    /// The claim with the organization's id.
    pub fn organization_claim(&self) -> &str {
        self.organization_claim.as_deref().unwrap_or("org_id")
    }

    /// The claim with the role.
    pub fn role_claim(&self) -> &str {
        self.role_claim.as_deref().unwrap_or("role")
    }

    /// The claim with the permissions.
    pub fn permissions_claim(&self) -> &str {
        self.permissions_claim.as_deref().unwrap_or("permissions")
    }

    /// The claim with the e-mail address.
    pub fn email_claim(&self) -> &str {
        self.email_claim.as_deref().unwrap_or("email")
    }

    /// Where the keys come from; or what is wrong with the settings that say so.
    pub fn keys(&self) -> Result<IssuerKeys, &'static str> {
        let (url, file) = (&self.jwks_url, &self.jwks_file);
        let has_file = !file.as_os_str().is_empty();
        if self.has_secret() {
            if !url.is_empty() || has_file {
                return Err("a secret and a JWKS exclude each other: give one of them");
            }
            self.check_secret()?;
            return Ok(IssuerKeys::Secret(self.secret.clone()));
        }
        if !url.is_empty() && has_file {
            return Err("jwks_url and jwks_file exclude each other: give one of them");
        }
        if has_file {
            return Ok(IssuerKeys::File(file.clone()));
        }
        let url = if url.is_empty() {
            self.default_jwks_url()?
        } else {
            url.clone()
        };
        jwks_url(&url).map(IssuerKeys::Url)
    }

    fn has_secret(&self) -> bool {
        !self.secret.expose_secret().is_empty()
    }

    fn check_secret(&self) -> Result<(), &'static str> {
        let secret = self.secret.expose_secret();
        if self.kind != IssuerKind::Custom {
            return Err("a secret is for kind \"custom\" only: this kind signs with its own keys");
        }
        if secret.len() < MIN_SECRET_BYTES {
            return Err(
                "the secret is shorter than 32 bytes and could be guessed: make one with openssl rand -base64 32",
            );
        }
        // whoever has a public key could sign with it
        if secret.contains("-----BEGIN ") {
            return Err("the secret is a key or certificate: public keys go into a JWKS");
        }
        Ok(())
    }

    fn default_jwks_url(&self) -> Result<String, &'static str> {
        match (self.kind, self.iss.all()) {
            (IssuerKind::Clerk, [issuer]) => {
                let base = issuer.trim_end_matches('/');
                Ok(format!("{base}/.well-known/jwks.json"))
            }
            (IssuerKind::Clerk, _) => Err("jwks_url is needed where issuer is not exactly one"),
            (IssuerKind::Workos, _) if !self.client_id.is_empty() => Ok(format!(
                "https://api.workos.com/sso/jwks/{}",
                self.client_id
            )),
            (IssuerKind::Workos, _) => Err("client_id is needed, or jwks_url and issuer"),
            (IssuerKind::Custom, _) => {
                Err("its keys are needed: jwks_url, jwks_file, secret or secret_file")
            }
        }
    }

    /// Says what cannot work.
    fn check(&self, sources: &BTreeMap<String, Source>) -> Result<(), &'static str> {
        if !sources.contains_key(&self.source) {
            return Err("its source is not configured: name one of [sources]");
        }
        self.check_kind()?;
        let issuers = self.issuers();
        if issuers.is_empty() {
            return Err("issuer is needed: the iss of its tokens, exactly");
        }
        if issuers.iter().any(String::is_empty) || self.audience().iter().any(String::is_empty) {
            return Err("issuer and audience cannot hold empty texts");
        }
        if self.leeway_s > MAX_LEEWAY_S {
            return Err("leeway_s is at most 60");
        }
        self.keys()?;
        let by_secret = |algorithm: &Algorithm| algorithm.family() == AlgorithmFamily::Hmac;
        if self
            .algorithms()
            .iter()
            .any(|algorithm| by_secret(algorithm) != self.has_secret())
        {
            return Err("HS256, HS384 and HS512 go with a secret, all others with a JWKS");
        }
        Ok(())
    }

    /// Refuses settings that have no meaning for this kind: whoever wrote them believes that they are checked.
    fn check_kind(&self) -> Result<(), &'static str> {
        let clerk = !self.authorized_parties.is_empty() || self.accept_templates;
        if clerk && self.kind != IssuerKind::Clerk {
            return Err("authorized_parties and accept_templates are for kind \"clerk\" only");
        }
        if self.authorized_parties.iter().any(String::is_empty) {
            return Err("authorized_parties cannot hold empty texts");
        }
        if !self.client_id.is_empty() && self.kind != IssuerKind::Workos {
            return Err("client_id is for kind \"workos\" only");
        }
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !self.client_id.chars().all(word) {
            return Err("client_id has characters that no client id has");
        }
        let names = [
            &self.user_claim,
            &self.organization_claim,
            &self.role_claim,
            &self.permissions_claim,
        ];
        if self.kind != IssuerKind::Custom && names.iter().any(|name| name.is_some()) {
            return Err("claims are named for kind \"custom\" only, but for email_claim");
        }
        let mut names = names.into_iter().chain([&self.email_claim]).flatten();
        if names.any(String::is_empty) {
            return Err("the name of a claim cannot be empty");
        }
        Ok(())
    }
}

/// Refuses issuers that cannot work, and two that could be taken for each other.
pub(super) fn check_all(
    issuers: &BTreeMap<String, Issuer>,
    sources: &BTreeMap<String, Source>,
) -> Result<(), Error> {
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    for (name, issuer) in issuers {
        let refuse = |problem: String| Error::Issuer {
            name: name.clone(),
            problem,
        };
        if !is_legal_name(name) {
            let expected = "names have 1 to 40 characters of a-z, 0-9, _ and -";
            return Err(refuse(expected.to_owned()));
        }
        issuer
            .check(sources)
            .map_err(|problem| refuse(problem.to_owned()))?;
        for iss in issuer.issuers() {
            match owners.entry(iss) {
                Entry::Vacant(free) => {
                    free.insert(name);
                }
                Entry::Occupied(taken) if *taken.get() == name => {}
                Entry::Occupied(taken) => {
                    let (iss, other) = (taken.key(), taken.get());
                    return Err(refuse(format!(
                        "issuers.{other} has the issuer {iss} as well"
                    )));
                }
            }
        }
    }
    Ok(())
}

/// A JWKS's address: nobody on the way can put keys of their own in, and it holds no password.
fn jwks_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "the address of its JWKS is not a URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the address of its JWKS has a user name or password in it");
    }
    if url.fragment().is_some() {
        return Err("the address of its JWKS has a fragment");
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        _ => Err("the address of its JWKS must be https://, or http:// on this machine"),
    }
}

/// Whether a URL leads to this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Why an issuer of these lines is refused; `None`: it is not.
    fn problem(lines: &str) -> Option<String> {
        let issuer: Issuer = match toml::from_str(&format!("source = \"main\"\n{lines}")) {
            Ok(issuer) => issuer,
            Err(error) => return Some(error.message().to_owned()),
        };
        let source = Source::new(crate::webhooks::SourceKind::Clerk, Vec::new());
        let sources = BTreeMap::from([("main".to_owned(), source)]);
        let issuers = BTreeMap::from([("it".to_owned(), issuer)]);
        let refused = check_all(&issuers, &sources).err();
        refused.map(|error| error.to_string())
    }

    fn keys(lines: &str) -> IssuerKeys {
        let issuer: Issuer = toml::from_str(&format!("source = \"main\"\n{lines}")).unwrap();
        issuer.keys().unwrap()
    }

    const CLERK: &str = "kind = \"clerk\"\nissuer = \"https://clerk.example\"\n";
    const WORKOS: &str = "kind = \"workos\"\nclient_id = \"client_1\"\n";
    const CUSTOM: &str = "kind = \"custom\"\nissuer = \"us\"\n";

    #[test]
    fn a_provider_needs_little() {
        assert_eq!(problem(CLERK), None);
        assert_eq!(problem(WORKOS), None);
        let IssuerKeys::Url(url) = keys(CLERK) else {
            panic!("a URL")
        };
        assert_eq!(url.as_str(), "https://clerk.example/.well-known/jwks.json");
        let IssuerKeys::Url(url) = keys(WORKOS) else {
            panic!("a URL")
        };
        assert_eq!(url.as_str(), "https://api.workos.com/sso/jwks/client_1");
    }

    #[test]
    fn a_secret_is_long_and_alone() {
        let long = "secret = \"0123456789abcdef0123456789abcdef\"\n";
        assert_eq!(problem(&format!("{CUSTOM}{long}")), None);
        for (lines, says) in [
            (
                format!("{CUSTOM}secret = \"0123456789abcdef0123456789abcde\""),
                "shorter than 32 bytes",
            ),
            (
                format!("{CUSTOM}{long}jwks_file = \"x\""),
                "exclude each other",
            ),
            (
                format!("{CUSTOM}{long}algorithms = [\"HS256\", \"RS256\"]"),
                "go with a secret",
            ),
            (format!("{CLERK}{long}"), "for kind \"custom\" only"),
            (
                format!("{CLERK}algorithms = [\"HS256\"]"),
                "go with a secret",
            ),
            (format!("{CLERK}algorithms = [\"none\"]"), "unknown variant"),
            (
                format!("{CUSTOM}secret = \"-----BEGIN PUBLIC KEY-----0123456789\""),
                "public keys go into a JWKS",
            ),
        ] {
            let problem = problem(&lines).unwrap_or_else(|| panic!("accepted: {lines}"));
            assert!(problem.contains(says), "{lines}: {problem}");
            assert!(!problem.contains("0123456789"), "the secret is told");
        }
    }

    #[test]
    fn keys_come_from_a_safe_place() {
        for good in [
            "https://keys.example/a",
            "http://127.0.0.1:1/",
            "http://[::1]/",
        ] {
            assert_eq!(problem(&format!("{CLERK}jwks_url = \"{good}\"")), None);
        }
        for bad in [
            "http://keys.example/",
            "http://localhost.example/",
            "ftp://keys.example/",
            "https://user@keys.example/",
            "keys.example",
        ] {
            let lines = format!("{CLERK}jwks_url = \"{bad}\"");
            let problem = problem(&lines).unwrap_or_else(|| panic!("accepted: {bad}"));
            assert!(problem.contains("the address of its JWKS"), "{problem}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for lines in [
            format!("{WORKOS}authorized_parties = [\"https://app.example\"]"),
            format!("{WORKOS}user_claim = \"id\""),
            format!("{CLERK}client_id = \"client_1\""),
            format!("{CLERK}leeway_s = 61"),
            format!("{CLERK}leway_s = 6"),
            CUSTOM.to_owned(),
            "kind = \"clerk\"".to_owned(),
            "kind = \"workos\"".to_owned(),
            "kind = \"workos\"\nclient_id = \"../x\"".to_owned(),
        ] {
            assert!(problem(&lines).is_some(), "accepted: {lines}");
        }
    }
}
