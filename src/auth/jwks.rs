//! An issuer's keys at a URL, kept fresh in the background.
//!
//! ```text
//! spawn ─▶ fetch ─▶ sleep until 5 min after it (30 s if it failed) ─▶ fetch …
//!            ▲           └─ or until a token names an unknown key, and 30 s have passed
//!            └── one task per issuer, so never two fetches at once
//! ```
//!
//! Guarantees: whoever names a known key never waits; no lock is held across a fetch; between the beginnings of two fetches lie at
//! least [`Pace::min_interval`], whatever tokens arrive, however a fetch ends, and whoever goes away meanwhile; a set that cannot be
//! replaced serves for [`Pace::stale_for`] and no longer.
//!
//! Does not: fetch anything before [`RemoteKeys::keep_fresh`] runs, or follow redirects.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::Algorithm;
use reqwest::redirect;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};
use url::Url;

use super::{
    error::{JwksError, TokenError},
    keys::{Key, KeySet},
};
use crate::{causes::chain, config::is_loopback, metrics::Metrics};

/// Larger than any real set (bytes).
const MAX_BODY_BYTES: usize = 256 * 1024;

/// What a request that waits for a fetch grants it beyond its own limit.
const SLACK: Duration = Duration::from_millis(500);

/// How often keys are fetched, and how long they serve. Tests shorten it; everybody else takes the default.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Least time between the beginnings of two fetches.
    pub min_interval: Duration,
    /// Age at which a set is fetched anew.
    pub refresh_after: Duration,
    /// Age at which a set that could not be fetched anew serves no more.
    pub stale_for: Duration,
    /// How long one fetch may take.
    pub fetch_timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            min_interval: Duration::from_secs(30),
            refresh_after: Duration::from_mins(5),
            stale_for: Duration::from_hours(24),
            fetch_timeout: Duration::from_secs(3),
        }
    }
}

/// What is known at a moment.
#[derive(Debug, Clone, Default)]
struct State {
    set: Option<(Arc<KeySet>, Instant)>,
    started_at: Option<Instant>,
    is_running: bool,
    /// Whether the last fetch that ended brought keys.
    has_succeeded: bool,
    /// How many fetches have ended.
    ended: u64,
}

impl State {
    fn find(&self, kid: Option<&str>, pace: &Pace) -> Option<Arc<Key>> {
        let (set, fetched_at) = self.set.as_ref()?;
        if fetched_at.elapsed() > pace.stale_for {
            return None;
        }
        set.find(kid).cloned()
    }

    /// How long until the next fetch may begin.
    fn pause(&self, pace: &Pace) -> Duration {
        self.started_at.map_or(Duration::ZERO, |started_at| {
            pace.min_interval.saturating_sub(started_at.elapsed())
        })
    }

    /// Why a key is not there.
    fn without(&self, pace: &Pace) -> TokenError {
        if self.has_succeeded {
            return TokenError::KeyUnknown;
        }
        let seconds = self.pause(pace).as_secs_f64().ceil().max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the pause is at least 1 s and far below 2^32 s"
        )]
        TokenError::IssuerUnavailable {
            retry_after_s: seconds as u32,
        }
    }
}

/// The keys of one issuer, from its JWKS.
#[derive(Debug)]
pub(super) struct RemoteKeys {
    issuer: String,
    url: Url,
    algorithms: Vec<Algorithm>,
    http: reqwest::Client,
    metrics: Metrics,
    pace: Pace,
    state: watch::Sender<State>,
    wanted: Notify,
}

impl RemoteKeys {
    /// Prepares; nothing is fetched yet.
    pub(super) fn new(
        issuer: &str,
        url: Url,
        algorithms: Vec<Algorithm>,
        metrics: &Metrics,
        pace: Pace,
    ) -> Result<Self, reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("tenantry/", env!("CARGO_PKG_VERSION")))
            .timeout(pace.fetch_timeout)
            .redirect(redirect::Policy::none());
        if is_loopback(&url) {
            builder = builder.no_proxy();
        }
        Ok(Self {
            issuer: issuer.to_owned(),
            url,
            algorithms,
            http: builder.build()?,
            metrics: metrics.clone(),
            pace,
            state: watch::Sender::default(),
            wanted: Notify::new(),
        })
    }

    /// Where the keys are.
    pub(super) const fn url(&self) -> &Url {
        &self.url
    }

    /// The key of this name, if it is here.
    pub(super) fn known(&self, kid: Option<&str>) -> Option<Arc<Key>> {
        self.state.borrow().find(kid, &self.pace)
    }

    /// The key of this name; an unknown one is asked for, if it is time.
    pub(super) async fn find(&self, kid: Option<&str>) -> Result<Arc<Key>, TokenError> {
        let (seen, may_ask) = {
            let state = self.state.borrow();
            if let Some(key) = state.find(kid, &self.pace) {
                return Ok(key);
            }
            let may_ask = state.is_running || state.pause(&self.pace).is_zero();
            (state.ended, may_ask)
        };
        if may_ask {
            let mut states = self.state.subscribe();
            self.wanted.notify_one();
            // the fetch is the task's: it goes on when whoever wants the key goes away
            let ended = states.wait_for(|state| state.ended != seen);
            let _ = timeout(self.pace.fetch_timeout + SLACK, ended).await;
        }
        let state = self.state.borrow();
        let found = state.find(kid, &self.pace);
        found.ok_or_else(|| state.without(&self.pace))
    }

    /// Fetches the keys now and whenever it is time, until it is dropped.
    pub(super) async fn keep_fresh(self: Arc<Self>) {
        loop {
            let started_at = Instant::now();
            self.refresh(started_at).await;
            let has_succeeded = self.state.borrow().has_succeeded;
            let pause = if has_succeeded {
                self.pace.refresh_after.max(self.pace.min_interval)
            } else {
                self.pace.min_interval
            };
            let due = sleep_until(started_at + pause);
            tokio::select! {
                () = due => {}
                () = self.wanted_in_time() => {}
            }
        }
    }

    /// Resolves when a key is wanted and a fetch may begin.
    async fn wanted_in_time(&self) {
        loop {
            self.wanted.notified().await;
            if self.state.borrow().pause(&self.pace).is_zero() {
                return;
            }
        }
    }

    async fn refresh(&self, started_at: Instant) {
        self.state.send_modify(|state| {
            state.started_at = Some(started_at);
            state.is_running = true;
        });
        let fetched = self.fetch().await;
        match &fetched {
            Ok(_) => self.metrics.jwks_refreshed(&self.issuer),
            Err(error) => {
                self.metrics.jwks_failed(&self.issuer);
                tracing::warn!(issuer = %self.issuer, "keys not refreshed: {}", chain(error));
            }
        }
        self.state.send_modify(|state| {
            state.is_running = false;
            state.has_succeeded = fetched.is_ok();
            state.ended += 1;
            if let Ok(set) = fetched {
                state.set = Some((Arc::new(set), Instant::now()));
            }
        });
    }

    /// Fetches the keys once, whatever was fetched before.
    pub(super) async fn fetch(&self) -> Result<KeySet, JwksError> {
        let lost = |error: reqwest::Error| JwksError::Unreachable(error.without_url());
        let request = self.http.get(self.url.clone()).send();
        let mut response = request.await.map_err(lost)?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(JwksError::Status(status));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(JwksError::TooLarge(MAX_BODY_BYTES));
            }
            body.extend_from_slice(&chunk);
        }
        KeySet::parse(&body, &self.algorithms)
    }
}
