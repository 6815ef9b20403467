//! The issuers that are believed: which one a token is of, and what was verified lately.
//!
//! Guarantees: a token's issuer is the one whose configured `iss` equals its own, byte for byte, and only that issuer's keys are
//! tried. A token that was verified lately costs a hash: it is looked at again for its end, and its key for still being its issuer's.

use std::{collections::HashMap, fmt, fs, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use chrono::{DateTime, TimeDelta, Utc};
use moka::future::Cache;
use secrecy::ExposeSecret;

use super::{
    claims::{self, EndUser},
    error::{IssuerError, JwksError, TokenError},
    jwks::{Pace, RemoteKeys},
    keys::{Key, KeySet},
    token::{self, Token},
};
use crate::{
    config::{self, Config, IssuerKeys, IssuerKind},
    metrics::Metrics,
    shutdown::Tasks,
};

/// How many verified tokens are remembered.
const REMEMBERED: u64 = 10_000;

/// How long, at most.
const REMEMBERED_FOR: Duration = Duration::from_mins(5);

/// The issuers whose tokens are believed. Clones share keys and memory.
#[derive(Clone)]
pub struct Issuers {
    all: Arc<[Issuer]>,
    by_iss: Arc<HashMap<String, usize>>,
    verified: Cache<[u8; 32], Arc<Verified>>,
}

impl fmt::Debug for Issuers {
    /// Names only: the settings hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.all.iter().map(|issuer| &issuer.name))
            .finish()
    }
}

struct Issuer {
    name: String,
    settings: config::Issuer,
    keys: Keys,
}

enum Keys {
    /// Whatever name a token gives it.
    Secret(Arc<Key>),
    File(KeySet),
    Remote(Arc<RemoteKeys>),
}

/// A token that was verified.
struct Verified {
    user: Arc<EndUser>,
    issuer: usize,
    kid: Option<String>,
    key: Arc<Key>,
    at: DateTime<Utc>,
}

/// What a look at an issuer's keys found.
#[derive(Debug)]
pub struct Probe {
    /// The issuer.
    pub issuer: String,
    /// Where its keys come from, for people.
    pub place: String,
    /// How many usable keys there are.
    pub keys: Result<usize, JwksError>,
}

impl Issuers {
    /// The configured issuers. Reads their files; connects to nothing.
    pub fn new(config: &Config, metrics: &Metrics) -> Result<Self, IssuerError> {
        Self::with_pace(config, metrics, Pace::default())
    }

    /// The same with another pace of fetching keys, for tests.
    pub fn with_pace(config: &Config, metrics: &Metrics, pace: Pace) -> Result<Self, IssuerError> {
        let issuer = |(name, settings): (&String, &config::Issuer)| {
            Ok(Issuer {
                name: name.clone(),
                settings: settings.clone(),
                keys: Keys::of(name, settings, metrics, pace)?,
            })
        };
        let all: Arc<[Issuer]> = config
            .issuers
            .iter()
            .map(issuer)
            .collect::<Result<_, IssuerError>>()?;
        let names = |(at, issuer): (usize, &Issuer)| {
            let issuers = issuer.settings.issuers();
            issuers.into_iter().map(move |iss| (iss, at))
        };
        let by_iss = all.iter().enumerate().flat_map(names).collect();
        Ok(Self {
            all,
            by_iss: Arc::new(by_iss),
            verified: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(REMEMBERED_FOR)
                .build(),
        })
    }

    /// Fetches key sets at once and keeps them fresh in the background. Without it, none is ever fetched.
    pub fn spawn_refresh(&self, tasks: &Tasks) {
        for issuer in self.all.iter() {
            if let Keys::Remote(keys) = &issuer.keys {
                // through a drain as well: open requests have tokens
                tasks.spawn_ground(Arc::clone(keys).keep_fresh());
            }
        }
    }

    /// The end user that a bearer token stands for at `now`.
    pub async fn authenticate(
        &self,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<Arc<EndUser>, TokenError> {
        token::check_length(token)?;
        let id = digest_of(token);
        if let Some(verified) = self.verified.get(&id).await
            && self.still_holds(&verified, now)
        {
            return Ok(Arc::clone(&verified.user));
        }
        match self.verify(token, now).await {
            Ok(verified) => {
                let user = Arc::clone(&verified.user);
                self.verified.insert(id, Arc::new(verified)).await;
                Ok(user)
            }
            Err(error) => {
                let (code, reason) = (error.code(), error.reason());
                tracing::debug!(error.code = code, reason, "token not accepted");
                Err(error)
            }
        }
    }

    /// Looks at each issuer's keys once, at their source.
    pub async fn probe(&self) -> Vec<Probe> {
        let mut probes = Vec::new();
        for issuer in self.all.iter() {
            let (place, keys) = match &issuer.keys {
                Keys::Secret(_) => ("a shared secret".to_owned(), Ok(1)),
                Keys::File(set) => ("a file".to_owned(), Ok(set.len())),
                Keys::Remote(keys) => {
                    let fetched = keys.fetch().await;
                    (keys.url().to_string(), fetched.map(|set| set.len()))
                }
            };
            probes.push(Probe {
                issuer: issuer.name.clone(),
                place,
                keys,
            });
        }
        probes
    }

    /// Whether what was verified is so at `now`, without a look at the token.
    fn still_holds(&self, verified: &Verified, now: DateTime<Utc>) -> bool {
        let issuer = &self.all[verified.issuer];
        let age = now - verified.at;
        let is_lately =
            age >= TimeDelta::zero() && age.to_std().is_ok_and(|age| age <= REMEMBERED_FOR);
        let leeway_s = issuer.settings.leeway_s;
        is_lately
            && !token::is_over(verified.user.expires_at, now, leeway_s)
            && issuer
                .keys
                .known(verified.kid.as_deref())
                .is_some_and(|key| key.is(&verified.key))
    }

    async fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Verified, TokenError> {
        let token = Token::parse(token)?;
        let at = self
            .by_iss
            .get(token.issuer()?)
            .ok_or(TokenError::Refused("its iss is not configured"))?;
        let issuer = &self.all[*at];
        let settings = &issuer.settings;
        let algorithm = token.algorithm_of(&settings.algorithms())?;
        let key = issuer.key(token.kid.as_deref()).await?;
        token.check_signature(&key, algorithm)?;
        let expires_at = token.check_times(now, settings.leeway_s)?;
        let category = token.category.as_deref();
        let user = claims::end_user(&issuer.name, settings, category, &token.claims, expires_at)?;
        Ok(Verified {
            user: Arc::new(user),
            issuer: *at,
            kid: token.kid,
            key,
            at: now,
        })
    }
}

impl Issuer {
    async fn key(&self, kid: Option<&str>) -> Result<Arc<Key>, TokenError> {
        let has_set = !matches!(self.keys, Keys::Secret(_));
        if has_set && kid.is_none() && self.settings.kind != IssuerKind::Custom {
            return Err(TokenError::Refused("it names no key"));
        }
        match &self.keys {
            Keys::Remote(keys) => keys.find(kid).await,
            Keys::Secret(_) | Keys::File(_) => self.keys.known(kid).ok_or(TokenError::KeyUnknown),
        }
    }
}

impl Keys {
    fn of(
        name: &str,
        settings: &config::Issuer,
        metrics: &Metrics,
        pace: Pace,
    ) -> Result<Self, IssuerError> {
        let keys = settings.keys().map_err(|problem| IssuerError::Settings {
            name: name.to_owned(),
            problem,
        })?;
        let algorithms = settings.algorithms();
        match keys {
            IssuerKeys::Secret(secret) => {
                let key = Key::of_secret(secret.expose_secret().as_bytes(), &algorithms);
                Ok(Self::Secret(Arc::new(key)))
            }
            IssuerKeys::File(file) => {
                let text = fs::read(&file).map_err(|source| IssuerError::File {
                    name: name.to_owned(),
                    file: file.clone(),
                    source,
                })?;
                let set = KeySet::parse(&text, &algorithms);
                set.map(Self::File).map_err(|source| IssuerError::Keys {
                    name: name.to_owned(),
                    source,
                })
            }
            IssuerKeys::Url(url) => RemoteKeys::new(name, url, algorithms, metrics, pace)
                .map(|keys| Self::Remote(Arc::new(keys)))
                .map_err(|source| IssuerError::Client {
                    name: name.to_owned(),
                    source,
                }),
        }
    }

    /// The key of this name, if it is here.
    fn known(&self, kid: Option<&str>) -> Option<Arc<Key>> {
        match self {
            Self::Secret(key) => Some(Arc::clone(key)),
            Self::File(set) => set.find(kid).cloned(),
            Self::Remote(keys) => keys.known(kid),
        }
    }
}

fn digest_of(token: &str) -> [u8; 32] {
    let mut id = [0; 32];
    id.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    id
}
