//! The clients of a storm, and the provider that tells of the same organizations.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tenantry::registrations::State;

use super::{
    record::{Record, Request, Seen},
    weather::Weather,
};
use crate::support::{
    app::{Broken, bytes, exchange, try_deliver},
    events,
};

/// Pause after what was in vain.
const AGAIN: Duration = Duration::from_millis(100);

/// Pause between two looks of one client.
const LOOK: Duration = Duration::from_millis(300);

/// No request takes longer.
const ANSWER: Duration = Duration::from_mins(1);

/// So long a client follows its registration.
const PATIENCE: Duration = Duration::from_mins(15);

/// When the provider tells of a key's organization, and how it is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// While it is asked for, by the client's own id.
    Races,
    /// As soon as a client knows the registration, by its id.
    Follows,
    /// When the tenant is ready, by the registration's id.
    ComesLate,
    /// Never.
    IsSilent,
}

/// What is done with one key.
#[derive(Debug, Clone)]
pub struct Plan {
    pub number: usize,
    /// How often it is asked for at once.
    repeats: usize,
    /// Which of these has another body.
    changed: Option<usize>,
    pub provider: Provider,
}

impl Plan {
    pub fn new(number: usize, rng: &mut StdRng) -> Self {
        let repeats = rng.random_range(2..=8);
        let is_changed = number.is_multiple_of(5);
        Self {
            number,
            repeats,
            changed: is_changed.then(|| rng.random_range(0..repeats)),
            provider: match number % 6 {
                0 | 3 => Provider::Races,
                1 => Provider::Follows,
                2 => Provider::ComesLate,
                _ => Provider::IsSilent,
            },
        }
    }

    fn key(&self) -> String {
        format!("key-{}", self.number)
    }

    fn name(&self) -> String {
        format!("Storm {}", self.number)
    }

    fn external_id(&self) -> String {
        format!("external-{}", self.number)
    }

    fn body(&self, is_changed: bool) -> Value {
        let mut name = self.name();
        if is_changed {
            name.push_str(" Incorporated");
        }
        let email = format!("ada@storm-{}.example", self.number);
        let mut body = json!({"organization": {"name": name}, "user": {"email": email}});
        if self.provider == Provider::Races {
            body["organization"]["external_id"] = self.external_id().into();
        }
        body
    }
}

/// Everybody who asks.
pub struct Clients<'a> {
    pub weather: &'a Weather,
    pub record: &'a Record,
    /// The API key.
    pub credentials: String,
    pub numbers: AtomicU64,
    pub seed: u64,
}

/// One client, which does one thing at a time.
struct Client<'a> {
    all: &'a Clients<'a>,
    number: u64,
    rng: StdRng,
}

impl Clients<'_> {
    /// A key from its first request to its ready tenant, and once more after that.
    pub async fn sign_up(&self, plan: &Plan) {
        let askers = (0..plan.repeats).map(|nth| {
            let body = plan.body(plan.changed == Some(nth));
            async move {
                self.client()
                    .register(plan, &body)
                    .await
                    .map(|id| (id, body))
            }
        });
        let raced = async {
            if plan.provider == Provider::Races {
                self.deliver(plan, &plan.external_id()).await;
            }
        };
        let (answers, ()) = tokio::join!(join_all(askers), raced);
        // none: the checker will say so
        let Some((registration, body)) = answers.into_iter().flatten().next() else {
            return;
        };
        let told = async {
            if plan.provider == Provider::Follows {
                self.deliver(plan, &registration).await;
            }
        };
        tokio::join!(self.client().follow(&registration), told);
        if plan.provider == Provider::ComesLate {
            self.deliver(plan, &registration).await;
        }
        self.client().register(plan, &body).await;
        self.client().follow(&registration).await;
    }

    fn client(&self) -> Client<'_> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        Client {
            all: self,
            number,
            rng: StdRng::seed_from_u64(self.seed ^ number),
        }
    }

    /// The provider tells of the organization, again until it is heard.
    async fn deliver(&self, plan: &Plan, external_id: &str) {
        let org = format!("org_{}", plan.number);
        let mut event = events::created(&org, &plan.name());
        event["data"]["external_id"] = external_id.into();
        loop {
            let (address, _) = self.weather.at(usize::from(rand::random::<bool>()));
            match try_deliver(address, &event).await.map(|it| it.status) {
                Ok(200) => return,
                Ok(503) | Err(_) => tokio::time::sleep(AGAIN).await,
                Ok(status) => panic!("a delivery is answered {status}"),
            }
        }
    }
}

impl Client<'_> {
    /// Asks until it is told how it ended; then looks on the other replica. The registration, if it got one.
    async fn register(mut self, plan: &Plan, body: &Value) -> Option<String> {
        let key = plan.key();
        let mut headers = vec![
            ("idempotency-key", key.clone()),
            ("content-type", "application/json".to_owned()),
        ];
        // a third waits for the tenant
        if self.rng.random_ratio(1, 3) {
            let seconds = self.rng.random_range(1..=4);
            headers.push(("prefer", format!("wait={seconds}")));
        }
        let body = body.to_string();
        let request = Request::Register { key, body };
        loop {
            let place = self.rng.random_range(0..2);
            match self.ask(place, &request, &headers).await? {
                Seen::Registered { view, .. } => {
                    self.look_until_seen(1 - place, &view.registration).await;
                    return Some(view.registration);
                }
                Seen::Fail { status: 409, code } if code == "idempotency_key_in_use" => {}
                Seen::Fail { .. } => return None,
                _ => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Looks at this place until somebody answers there.
    async fn look_until_seen(&mut self, place: usize, registration: &str) {
        let request = Request::Look {
            registration: registration.to_owned(),
        };
        while let Some(Seen::Trouble { .. } | Seen::Broken) = self.ask(place, &request, &[]).await {
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Looks here and there until it is ready.
    async fn follow(mut self, registration: &str) {
        let request = Request::Look {
            registration: registration.to_owned(),
        };
        let until = Instant::now() + PATIENCE;
        let mut place = self.rng.random_range(0..2);
        while Instant::now() < until {
            let Some(seen) = self.ask(place, &request, &[]).await else {
                return;
            };
            if let Seen::Looked(view) = seen
                && view.state == State::Ready
            {
                return;
            }
            tokio::time::sleep(LOOK).await;
            place = 1 - place;
        }
    }

    /// One request, as it is written down. Nothing when it is never answered.
    async fn ask(
        &self,
        place: usize,
        request: &Request,
        headers: &[(&'static str, String)],
    ) -> Option<Seen> {
        let Clients {
            weather, record, ..
        } = self.all;
        let (address, replica) = weather.at(place);
        let mut headers = headers.to_vec();
        let bearer = format!("Bearer {}", self.all.credentials);
        headers.push(("authorization", bearer));
        record.write(self.number, replica, Seen::Invoke(request.clone()));
        let (method, path, body) = match request {
            Request::Register { body, .. } => {
                ("POST", "/v1/registrations".to_owned(), body.clone())
            }
            Request::Look { registration } => (
                "GET",
                format!("/v1/registrations/{registration}"),
                String::new(),
            ),
        };
        let answer = exchange(address, method, &path, &headers, bytes(body.into_bytes()));
        let answer = tokio::time::timeout(ANSWER, answer).await.ok()?;
        let seen = answer.map_or_else(|_: Broken| Seen::Broken, |answer| Seen::of(request, answer));
        record.write(self.number, replica, seen.clone());
        Some(seen)
    }
}
