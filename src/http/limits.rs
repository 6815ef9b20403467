//! How often somebody may ask: a caller who is known by who they are, all others by their address, and who
//! comes with a form key by both.
//!
//! Guarantees: whoever asks too often is answered 429 and told when to come again; a caller with good
//! credentials is never held up by others at the same address; whoever stopped asking is forgotten, so
//! that any number of addresses costs little.
//!
//! Does not: touch senders, health, metrics or forward-auth; the table of routes says so.

use std::{
    hash::Hash,
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use axum::{
    http::{HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::DefaultKeyedStateStore,
};

use super::{Problem, origin};

pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(super) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The part of a minute's requests that may come at once.
const BURST_PART: u32 = 10;

/// So many requests after which whoever stopped asking is forgotten.
const SWEEP_EVERY: u32 = 10_000;

/// How many requests a minute; 0 for any number.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestsPerMinute {
    /// Of one principal.
    pub principal: u32,
    /// From one address, of whoever is not known.
    pub address: u32,
    /// From one address, with form keys.
    pub form_address: u32,
    /// With one form key.
    pub form_key: u32,
}

/// The limits of a process; another replica has its own.
#[derive(Debug)]
pub struct Limits {
    principals: Option<Limit<String>>,
    addresses: Option<Limit<IpAddr>>,
    form_addresses: Option<Limit<IpAddr>>,
    form_keys: Option<Limit<String>>,
}

impl Limits {
    /// Nobody has asked yet.
    pub fn new(per_minute: RequestsPerMinute) -> Self {
        let RequestsPerMinute {
            form_address,
            form_key,
            ..
        } = per_minute;
        Self {
            principals: Limit::new("principal", per_minute.principal),
            addresses: Limit::new("address", per_minute.address),
            // a form is sent a few times in a row, or not at all: a tenth would be one
            form_addresses: Limit::with_burst("form_address", form_address, form_address),
            form_keys: Limit::new("form_key", form_key),
        }
    }

    /// Counts a request of a known caller.
    pub(super) fn count_principal(&self, principal: &str) -> Result<Allowance, Problem> {
        count(self.principals.as_ref(), &principal.to_owned())
    }

    /// Counts a request of somebody unknown.
    pub(super) fn count_address(&self, address: IpAddr) -> Result<Allowance, Problem> {
        count(self.addresses.as_ref(), &origin::site(address))
    }

    /// Counts a request with a form key, by where it comes from.
    pub(super) fn count_form_address(&self, address: IpAddr) -> Result<Allowance, Problem> {
        count(self.form_addresses.as_ref(), &origin::site(address))
    }

    /// Counts a request with a form key, by the key.
    pub(super) fn count_form_key(&self, id: &str) -> Result<Allowance, Problem> {
        count(self.form_keys.as_ref(), &id.to_owned())
    }

    /// Answers somebody whose credentials are not accepted, who may not try that often.
    pub(super) fn refuse(&self, address: IpAddr, problem: Problem) -> Response {
        match self.count_address(address) {
            Ok(allowance) => allowance.tell(problem.into_response()),
            Err(limited) => limited.into_response(),
        }
    }
}

fn count<K: Hash + Eq + Clone>(limit: Option<&Limit<K>>, key: &K) -> Result<Allowance, Problem> {
    limit.map_or_else(|| Ok(Allowance::default()), |limit| limit.count(key))
}

/// What is left after a request that was counted; nothing where there is no limit.
#[derive(Debug, Default)]
pub(super) struct Allowance(Vec<(HeaderName, HeaderValue)>);

impl Allowance {
    /// Of two limits that both count.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Tells the client, as draft-ietf-httpapi-ratelimit-headers says: a line for each limit.
    pub(super) fn tell(self, mut response: Response) -> Response {
        for (name, value) in self.0 {
            response.headers_mut().append(name, value);
        }
        response
    }
}

/// One limit: a bucket for each key, which fills evenly.
#[derive(Debug)]
struct Limit<K: Hash + Eq + Clone> {
    name: &'static str,
    quota: Quota,
    per_minute: u32,
    buckets: RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock, StateInformationMiddleware>,
    since_sweep: AtomicU32,
}

impl<K: Hash + Eq + Clone> Limit<K> {
    fn new(name: &'static str, per_minute: u32) -> Option<Self> {
        Self::with_burst(name, per_minute, per_minute / BURST_PART)
    }

    fn with_burst(name: &'static str, per_minute: u32, burst: u32) -> Option<Self> {
        let rate = NonZeroU32::new(per_minute)?;
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(rate).allow_burst(burst);
        Some(Self {
            name,
            quota,
            per_minute,
            buckets: RateLimiter::keyed(quota).with_middleware(),
            since_sweep: AtomicU32::new(0),
        })
    }

    fn count(&self, key: &K) -> Result<Allowance, Problem> {
        if self.since_sweep.fetch_add(1, Ordering::Relaxed) == SWEEP_EVERY {
            self.since_sweep.store(0, Ordering::Relaxed);
            // a bucket that is full again says no more than none
            self.buckets.retain_recent();
            self.buckets.shrink_to_fit();
        }
        match self.buckets.check_key(key) {
            Ok(state) => {
                let left = state.remaining_burst_capacity();
                let used = self.quota.burst_size().get().saturating_sub(left);
                let full_in = self.quota.replenish_interval() * used;
                let headers = self.headers(left, whole_seconds(full_in));
                Ok(Allowance(headers.into_iter().flatten().collect()))
            }
            Err(until) => {
                let wait = whole_seconds(until.wait_time_from(self.buckets.clock().now()));
                Err(self.problem(wait))
            }
        }
    }

    fn problem(&self, wait_s: u32) -> Problem {
        let problem = Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limited",
            format!("more than {} requests a minute", self.per_minute),
            "come again after Retry-After",
        )
        .retry_after(wait_s);
        let headers = self.headers(0, wait_s).into_iter().flatten();
        headers.fold(problem, |problem, (name, value)| {
            problem.header(name, value)
        })
    }

    fn headers(&self, left: u32, reset_s: u32) -> Option<[(HeaderName, HeaderValue); 2]> {
        let (name, quota) = (self.name, self.per_minute);
        let policy = HeaderValue::try_from(format!("\"{name}\";q={quota};w=60"));
        let state = HeaderValue::try_from(format!("\"{name}\";r={left};t={reset_s}"));
        Some([(RATE_LIMIT_POLICY, policy.ok()?), (RATE_LIMIT, state.ok()?)])
    }
}

/// A client that comes this late does not come too early.
fn whole_seconds(time: Duration) -> u32 {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn rest(allowance: Allowance) -> String {
        let response = allowance.tell(Response::default());
        response.headers()[RATE_LIMIT].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_principal_has_a_tenth_at_once_and_holds_up_nobody_else() {
        let limits = Limits::new(RequestsPerMinute {
            principal: 30,
            ..RequestsPerMinute::default()
        });
        let ask = |principal: &str| limits.count_principal(principal);
        assert_eq!(rest(ask("key:a").unwrap()), "\"principal\";r=2;t=2");
        assert_eq!(rest(ask("key:a").unwrap()), "\"principal\";r=1;t=4");
        assert!(ask("key:a").is_ok());
        let refused = ask("key:a").unwrap_err().into_response();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.headers()["retry-after"], "2");
        assert_eq!(refused.headers()[RATE_LIMIT], "\"principal\";r=0;t=2");
        assert_eq!(
            refused.headers()[RATE_LIMIT_POLICY],
            "\"principal\";q=30;w=60"
        );
        assert!(ask("user:workos:a").is_ok());
    }

    #[test]
    fn addresses_of_one_site_are_one() {
        let limits = Limits::new(RequestsPerMinute {
            address: 10,
            ..RequestsPerMinute::default()
        });
        let ask = |address: &str| limits.count_address(address.parse().unwrap()).is_ok();
        assert!(ask("2001:db8::1") && !ask("2001:db8::2") && ask("2001:db8:0:1::1"));
        assert!(ask("192.0.2.1") && !ask("::ffff:192.0.2.1") && ask("192.0.2.2"));
    }

    #[test]
    fn without_a_limit_nothing_is_said() {
        let allowance = Limits::new(RequestsPerMinute::default()).count_principal("key:a");
        assert!(allowance.unwrap().0.is_empty());
    }

    #[test]
    fn a_hundred_thousand_addresses_are_forgotten() {
        // a bucket is full again after a millisecond
        let limit = Limit::new("address", 60_000).unwrap();
        for number in 0..100_000_u32 {
            assert!(limit.count(&Ipv4Addr::from_bits(number)).is_ok());
        }
        std::thread::sleep(Duration::from_millis(5));
        for _ in 0..=SWEEP_EVERY {
            let _ = limit.count(&Ipv4Addr::LOCALHOST);
        }
        assert!(
            limit.buckets.len() < 2 * SWEEP_EVERY as usize,
            "{}",
            limit.buckets.len()
        );
    }
}
