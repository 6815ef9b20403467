//! Questions of the door answered a second: `auth/verify` and `tenants/resolve`, with a warm cache.
//!
//! The floor is a route of the same router that answers a constant 200: the same connections, layers
//! and metrics, without credentials, tenant and member.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tokio::task::JoinSet;

use super::{
    Error, Measure, Options, ROUNDS,
    report::Target,
    samples::{Samples, median},
    sender::{Request, Sender},
    server::Server,
    visitors,
};

/// Clients at once.
const CLIENTS: usize = 32;

/// Requests a second of the paced measures.
const RATE: u32 = 5_000;

/// What is asked, and the names of its two measures.
#[derive(Debug, Clone, Copy)]
struct Question {
    path: &'static str,
    name: &'static str,
    paced: &'static str,
}

const VERIFY: Question = Question {
    path: "/v1/auth/verify",
    name: "auth_verify_c32",
    paced: "auth_verify_at_5000_per_s",
};

const RESOLVE: Question = Question {
    path: "/v1/tenants/resolve",
    name: "tenants_resolve_c32",
    paced: "tenants_resolve_at_5000_per_s",
};

const FLOOR: &str = "/livez";

pub(super) async fn measure(
    options: &Options,
    server: &Server,
    replica: &super::replica::Replica,
    progress: &ProgressBar,
) -> Result<Vec<Measure>, Error> {
    let mut results = Vec::new();
    let questions = [VERIFY, RESOLVE];
    let is_wanted = |question: &Question| options.wants_any(&[question.name, question.paced]);
    if !questions.iter().any(is_wanted) {
        return Ok(results);
    }
    progress.set_message("making visitors");
    let visitors = visitors::Visitors::settle(server, CLIENTS).await?;
    let slice = Duration::from_secs_f64(options.door_seconds.max(0.05)) / ROUNDS;
    for question in questions {
        let requests = match question.path {
            "/v1/auth/verify" => visitors.verify(question.path),
            _ => visitors.resolve(question.path),
        };
        if options.wants(question.name) {
            progress.set_message(question.name);
            results.push(beside_floor(question, replica, &requests, slice).await?);
        }
        if options.wants(question.paced) {
            progress.set_message(question.paced);
            results.push(paced(question, replica, &requests, slice * ROUNDS).await?);
        }
    }
    visitors.leave(server).await?;
    Ok(results)
}

async fn beside_floor(
    question: Question,
    replica: &super::replica::Replica,
    requests: &[Request],
    slice: Duration,
) -> Result<Measure, Error> {
    let floor_requests = vec![Request::get(FLOOR, None); requests.len()];
    let (mut ours, mut floors, mut samples) = (Vec::new(), Vec::new(), Samples::new());
    for _ in 0..ROUNDS {
        let (rate, _) = flood(replica, &floor_requests, slice).await?;
        floors.push(rate);
        let (rate, took) = flood(replica, requests, slice).await?;
        ours.push(rate);
        samples.merge(&took);
    }
    let measure = Measure::plain(question.name, median(ours), "requests/s");
    Ok(measure
        .beside(median(floors))
        .with(&samples)
        .target(Target::AtLeast(0.5)))
}

/// As many as the clients can, one after the other each; the rate a second.
pub(super) async fn flood(
    replica: &super::replica::Replica,
    requests: &[Request],
    slice: Duration,
) -> Result<(f64, Samples), Error> {
    let mut running = JoinSet::new();
    for request in requests {
        let (request, mut sender) = (request.clone(), Sender::connect(replica.address).await?);
        // the first one fills the caches
        sender.ask(&request).await?;
        running.spawn(async move {
            let (started, mut samples) = (Instant::now(), Samples::new());
            while started.elapsed() < slice {
                let began = Instant::now();
                sender.ask(&request).await?;
                samples.add(began.elapsed());
            }
            Ok::<_, Error>((samples, started.elapsed()))
        });
    }
    let (mut samples, mut longest) = (Samples::new(), Duration::ZERO);
    while let Some(ended) = running.join_next().await {
        let (took, length) = ended.map_err(|_| Error::Broken)??;
        samples.merge(&took);
        longest = longest.max(length);
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "requests of seconds fit a double"
    )]
    let rate = samples.count() as f64 / longest.as_secs_f64();
    Ok((rate, samples))
}

/// An open loop: each request has a time at which it is due, and counts from that time.
async fn paced(
    question: Question,
    replica: &super::replica::Replica,
    requests: &[Request],
    length: Duration,
) -> Result<Measure, Error> {
    let interval = Duration::from_secs(1) / RATE;
    let mut running = JoinSet::new();
    let start = Instant::now() + Duration::from_millis(50);
    let clients = u32::try_from(requests.len()).unwrap_or(u32::MAX);
    for (first, request) in (0..).zip(requests) {
        let (request, mut sender) = (request.clone(), Sender::connect(replica.address).await?);
        sender.ask(&request).await?;
        running.spawn(async move {
            let (mut samples, mut number) = (Samples::new(), first);
            while interval * number < length {
                let due = start + interval * number;
                tokio::time::sleep_until(due.into()).await;
                sender.ask(&request).await?;
                samples.add(due.elapsed());
                number += clients;
            }
            Ok::<_, Error>(samples)
        });
    }
    let mut samples = Samples::new();
    while let Some(ended) = running.join_next().await {
        samples.merge(&ended.map_err(|_| Error::Broken)??);
    }
    let p99 = samples.percentile_ms(99.0);
    let measure = Measure::plain(question.paced, p99, "ms").with(&samples);
    Ok(measure.target(Target::AtMost(5.0)))
}
