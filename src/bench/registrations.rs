//! Registrations accepted a second and how soon, beside the same rows written by hand; and their status.
//!
//! No worker runs: what is measured ends with the answer. Each registration is of somebody new, for an
//! organization of their own, with a key of its own. Other people are known already: looking whether whoever
//! signs up is one of them is not to cost more the more they are.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use indicatif::ProgressBar;
use serde_json::Value;
use sqlx::PgConnection;
use tokio::task::JoinSet;

use super::{
    Error, Measure, Options, ROUNDS, door,
    replica::Replica,
    report::Target,
    samples::{Samples, median},
    sender::{Request, Sender},
    server::{Server, execute},
    signups::{self, SignUp},
    signups_by_hand, visitors,
};

/// Senders at once.
const SENDERS: u16 = 32;

/// Senders that begin together.
const AT_FIRST: usize = 8;

/// People who belong to organizations already.
const KNOWN: u32 = 5_000;

/// Time between two registrations of the paced measure.
const INTERVAL: Duration = Duration::from_millis(5);

const ACCEPTED: &str = "registrations_c32";
const PACED: &str = "registrations_at_200_per_s";

/// The measures of the status, and whether it is asked for with its token.
const STATUS: [(&str, bool); 2] = [
    ("registration_status_by_key_c32", false),
    ("registration_status_by_token_c32", true),
];

pub(super) async fn measure(
    options: &Options,
    server: &Server,
    replica: &Replica,
    progress: &ProgressBar,
) -> Result<Vec<Measure>, Error> {
    let length = Duration::from_secs_f64(options.registration_seconds.max(0.05));
    let office = Office {
        server,
        replica,
        key: signups::make_key(server).await?,
    };
    progress.set_message("making members");
    know_people(server).await?;
    let mut results = Vec::new();
    if options.wants(ACCEPTED) {
        progress.set_message(ACCEPTED);
        results.push(office.accepted(length / ROUNDS).await?);
    }
    if options.wants(PACED) {
        progress.set_message(PACED);
        results.push(office.paced(length).await?);
    }
    for (name, by_token) in STATUS {
        if options.wants(name) {
            progress.set_message(name);
            results.push(office.status(name, by_token, length / ROUNDS).await?);
        }
    }
    visitors::forget_keys(server).await?;
    server.empty_registers().await?;
    Ok(results)
}

async fn know_people(server: &Server) -> Result<(), Error> {
    let source = signups::SOURCE;
    let people = format!(
        "insert into users (source, user_id, content, updated_at)
         select '{source}', 'user_' || number, jsonb_build_object('email', number || '@example.com'), now()
         from generate_series(1, {KNOWN}) as number;
         insert into memberships (source, membership_id, content, updated_at)
         select '{source}', 'om_' || number,
                jsonb_build_object('organization_id', 'org_' || number % 100, 'user_id', 'user_' || number, 'status', 'active'),
                now()
         from generate_series(1, {KNOWN}) as number;
         analyze users, memberships"
    );
    execute(&mut server.control().await?, people).await?;
    server.checkpoint().await
}

/// Where people sign up.
struct Office<'a> {
    server: &'a Server,
    replica: &'a Replica,
    key: String,
}

impl Office<'_> {
    async fn accepted(&self, slice: Duration) -> Result<Measure, Error> {
        let (mut floors, mut ours, mut samples) = (Vec::new(), Vec::new(), Samples::new());
        let mut sender = Sender::connect(self.replica.address).await?;
        let first = SignUp::new(&unique(), 0);
        let answer = signups::answer(&mut sender, &self.key, &first).await?;
        for _ in 0..ROUNDS {
            self.server.empty_registrations().await?;
            floors.push(self.floor(&answer, slice).await?);
            self.server.empty_registrations().await?;
            let (rate, took) = self.ours(slice).await?;
            ours.push(rate);
            samples.merge(&took);
        }
        self.server.empty_registrations().await?;
        Ok(Measure::plain(ACCEPTED, median(ours), "registrations/s")
            .beside(median(floors))
            .with(&samples)
            .target(Target::AtLeast(0.4)))
    }

    async fn ours(&self, slice: Duration) -> Result<(f64, Samples), Error> {
        let senders = self.senders().await?;
        let started = Instant::now();
        let mut running = JoinSet::new();
        for (mut sender, run) in senders {
            let key = self.key.clone();
            running.spawn(async move {
                let (mut samples, mut number) = (Samples::new(), 1);
                while started.elapsed() < slice {
                    let (who, began) = (SignUp::new(&run, number), Instant::now());
                    sender.ask_for(&who.request(&key)).await?;
                    samples.add(began.elapsed());
                    number += 1;
                }
                Ok(samples)
            });
        }
        let samples = collect(running).await?;
        Ok((rate(&samples, started), samples))
    }

    /// Registrations a second, by as many hands as there are senders.
    async fn floor(&self, answer: &Value, slice: Duration) -> Result<f64, Error> {
        let mut hands = Vec::new();
        for _ in 0..SENDERS {
            let (mut hand, run) = (self.server.control().await?, unique());
            // one that is not counted: the statements are prepared
            signups_by_hand::register(&mut hand, &SignUp::new(&run, 0), answer).await?;
            hands.push((hand, run));
        }
        let started = Instant::now();
        let mut running = JoinSet::new();
        for (mut hand, run) in hands {
            let answer = answer.clone();
            running.spawn(async move {
                let (mut samples, mut number) = (Samples::new(), 1);
                while started.elapsed() < slice {
                    let (who, began) = (SignUp::new(&run, number), Instant::now());
                    signups_by_hand::register(&mut hand, &who, &answer).await?;
                    samples.add(began.elapsed());
                    number += 1;
                }
                Ok(samples)
            });
        }
        Ok(rate(&collect(running).await?, started))
    }

    /// Connections that have registered one each, with the run of what follows.
    async fn senders(&self) -> Result<Vec<(Sender, String)>, Error> {
        let mut senders = Vec::new();
        for _ in 0..SENDERS {
            senders.push((Sender::connect(self.replica.address).await?, unique()));
        }
        // a few at once: the replica opens as many connections to the database
        for some in senders.chunks_mut(AT_FIRST) {
            let first = some.iter_mut().map(async |(sender, run)| {
                signups::sign_up(sender, &self.key, &SignUp::new(run, 0)).await
            });
            try_join_all(first).await?;
        }
        Ok(senders)
    }

    /// An open loop: each registration has a time at which it is due, and counts from that time.
    async fn paced(&self, length: Duration) -> Result<Measure, Error> {
        let senders = self.senders().await?;
        let start = Instant::now() + Duration::from_millis(20);
        let mut running = JoinSet::new();
        for (first, (mut sender, run)) in (0_u32..).zip(senders) {
            let key = self.key.clone();
            running.spawn(async move {
                let (mut samples, mut number) = (Samples::new(), first);
                while INTERVAL * number < length {
                    let who = SignUp::new(&run, u64::from(number) + 1);
                    let due = start + INTERVAL * number;
                    tokio::time::sleep_until(due.into()).await;
                    sender.ask_for(&who.request(&key)).await?;
                    samples.add(due.elapsed());
                    number += u32::from(SENDERS);
                }
                Ok(samples)
            });
        }
        let samples = collect(running).await?;
        self.server.empty_registrations().await?;
        let p99 = samples.percentile_ms(99.0);
        let measure = Measure::plain(PACED, p99, "ms").with(&samples);
        Ok(measure.target(Target::AtMost(30.0)))
    }

    /// Each client asks for the status of a registration of its own.
    async fn status(
        &self,
        name: &'static str,
        by_token: bool,
        slice: Duration,
    ) -> Result<Measure, Error> {
        let (mut sender, run) = (Sender::connect(self.replica.address).await?, unique());
        let (mut requests, mut ids) = (Vec::new(), Vec::new());
        for number in 0..SENDERS {
            let who = SignUp::new(&run, number.into());
            let accepted = signups::sign_up(&mut sender, &self.key, &who).await?;
            let credentials = if by_token {
                &accepted.status_token
            } else {
                &self.key
            };
            requests.push(Request::get(&accepted.path(), Some(credentials)));
            ids.push(accepted.id);
        }
        let (mut ours, mut floors, mut samples) = (Vec::new(), Vec::new(), Samples::new());
        for _ in 0..ROUNDS {
            floors.push(self.looks_by_hand(&ids, slice).await?);
            let (rate, took) = door::flood(self.replica, &requests, slice).await?;
            ours.push(rate);
            samples.merge(&took);
        }
        self.server.empty_registrations().await?;
        Ok(Measure::plain(name, median(ours), "requests/s")
            .beside(median(floors))
            .with(&samples)
            .target(Target::ValueAtLeast(5_000.0)))
    }

    /// The rows of a status read a second, each hand its own.
    async fn looks_by_hand(&self, ids: &[uuid::Uuid], slice: Duration) -> Result<f64, Error> {
        let mut hands: Vec<(PgConnection, uuid::Uuid)> = Vec::new();
        for id in ids {
            let mut hand = self.server.control().await?;
            signups_by_hand::find(&mut hand, *id).await?;
            hands.push((hand, *id));
        }
        let started = Instant::now();
        let mut running = JoinSet::new();
        for (mut hand, id) in hands {
            running.spawn(async move {
                let mut samples = Samples::new();
                while started.elapsed() < slice {
                    let began = Instant::now();
                    signups_by_hand::find(&mut hand, id).await?;
                    samples.add(began.elapsed());
                }
                Ok(samples)
            });
        }
        Ok(rate(&collect(running).await?, started))
    }
}

async fn collect(mut running: JoinSet<Result<Samples, Error>>) -> Result<Samples, Error> {
    let mut all = Samples::new();
    while let Some(ended) = running.join_next().await {
        all.merge(&ended.map_err(|_| Error::Broken)??);
    }
    Ok(all)
}

#[expect(clippy::cast_precision_loss, reason = "counts of seconds fit a double")]
fn rate(samples: &Samples, started: Instant) -> f64 {
    samples.count() as f64 / started.elapsed().as_secs_f64()
}

fn unique() -> String {
    format!("{:08x}", rand::random::<u32>())
}
