//! How soon deliveries are answered at a steady 1,000 a second.
//!
//! An open loop: each delivery has a time at which it is due, whether or not earlier ones were
//! answered, and counts from that time. A stall therefore shows in every delivery it delays.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tokio::task::JoinSet;

use super::{
    Error, Measure, Options, mix::Events, replica::Replica, report::Target, samples::Samples,
    sender::Sender, server::Server,
};

const NAME: &str = "ack_at_1000_per_s";
const SENDERS: u32 = 32;
const INTERVAL: Duration = Duration::from_millis(1);

pub(super) async fn measure(
    options: &Options,
    server: &Server,
    replica: &Replica,
    progress: &ProgressBar,
) -> Result<Option<Measure>, Error> {
    if !options.wants(NAME) {
        return Ok(None);
    }
    progress.set_message(NAME);
    let length = Duration::from_secs_f64(options.ack_seconds.max(0.1));
    let run = format!("{:08x}", rand::random::<u32>());
    let mut senders = Vec::new();
    for number in 0..SENDERS {
        let mut sender = Sender::connect(replica.address).await?;
        sender
            .deliver(&options.events.event(&format!("{run}w"), number.into()))
            .await?;
        senders.push(sender);
    }
    let mut running = JoinSet::new();
    let start = Instant::now() + Duration::from_millis(20);
    for (number, sender) in (0..).zip(senders) {
        let events = Paced {
            events: options.events,
            run: run.clone(),
            first: number,
        };
        running.spawn(send(sender, events, start, length));
    }
    let mut samples = Samples::new();
    while let Some(ended) = running.join_next().await {
        samples.merge(&ended.map_err(|_| Error::Broken)??);
    }
    server.empty_inbox().await?;
    let p99 = samples.percentile_ms(99.0);
    let measure = Measure::plain(NAME, p99, "ms").with(&samples);
    Ok(Some(measure.target(Target::AtMost(25.0))))
}

/// Every 32nd event of a run.
struct Paced {
    events: Events,
    run: String,
    first: u32,
}

/// Delivers them when they are due.
async fn send(
    mut sender: Sender,
    Paced { events, run, first }: Paced,
    start: Instant,
    length: Duration,
) -> Result<Samples, Error> {
    let mut samples = Samples::new();
    let mut number = first;
    while INTERVAL * number < length {
        let event = events.event(&run, number.into());
        let due = start + INTERVAL * number;
        tokio::time::sleep_until(due.into()).await;
        sender.deliver(&event).await?;
        samples.add(due.elapsed());
        number += SENDERS;
    }
    Ok(samples)
}
