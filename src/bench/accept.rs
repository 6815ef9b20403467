//! Deliveries accepted a second, beside rows inserted (or updated) and committed one by one.
//!
//! The floor writes the same rows into the same table, over as many connections as there are
//! senders, through the same driver: without HTTP, signature, job and answer.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use indicatif::ProgressBar;
use sqlx::PgConnection;
use tokio::task::JoinSet;

use super::{
    Error, Measure, Options, ROUNDS,
    mix::Events,
    replica::Replica,
    report::Target,
    samples::{Samples, median},
    sender::{Event, Sender},
    server::Server,
};
use crate::secrets;

/// Senders at once, with the names of the two measures.
const CONCURRENCIES: [(u16, &str, &str); 4] = [
    (1, "accept_new_c1", "accept_duplicate_c1"),
    (8, "accept_new_c8", "accept_duplicate_c8"),
    (32, "accept_new_c32", "accept_duplicate_c32"),
    (64, "accept_new_c64", "accept_duplicate_c64"),
];

/// Mixed events beside organizations only, and how often the two take turns.
const MIXED: &str = "accept_mixed_c32";
const MIXED_ROUNDS: u32 = 2 * ROUNDS;

/// Known events of each sender: enough that no two deliveries at once are of one row.
const KNOWN: u64 = 16;

/// Whether the events of a measure are known already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    New,
    Duplicate,
}

/// What one measure needs.
struct Course<'a> {
    server: &'a Server,
    replica: &'a Replica,
    kind: Kind,
    events: Events,
    senders: u16,
    slice: Duration,
}

pub(super) async fn measure(
    options: &Options,
    server: &Server,
    replica: &Replica,
    progress: &ProgressBar,
) -> Result<Vec<Measure>, Error> {
    let slice = Duration::from_secs_f64(options.accept_seconds.max(0.05)) / ROUNDS;
    let mut results = Vec::new();
    for kind in [Kind::New, Kind::Duplicate] {
        for (senders, new, duplicate) in CONCURRENCIES {
            let name = if kind == Kind::New { new } else { duplicate };
            if !options.wants(name) {
                continue;
            }
            progress.set_message(name);
            let course = Course {
                server,
                replica,
                kind,
                events: options.events,
                senders,
                slice,
            };
            results.push(course.run(name).await?);
        }
    }
    if options.wants(MIXED) {
        progress.set_message(MIXED);
        let course = |events| Course {
            server,
            replica,
            kind: Kind::New,
            events,
            senders: 32,
            slice: slice * ROUNDS / MIXED_ROUNDS,
        };
        results.push(mixed(&course(Events::Mixed), &course(Events::Organizations)).await?);
    }
    Ok(results)
}

/// What it costs that events are about people: the floor is the same with organizations only.
async fn mixed(mixed: &Course<'_>, organizations: &Course<'_>) -> Result<Measure, Error> {
    let (mut ours, mut floors, mut samples) = (Vec::new(), Vec::new(), Samples::new());
    for round in 0..MIXED_ROUNDS {
        let mut turns = [(mixed, true), (organizations, false)];
        if round % 2 == 1 {
            turns.reverse();
        }
        for (course, is_mixed) in turns {
            course.server.empty_inbox().await?;
            let (rate, took) = course.ours().await?;
            if is_mixed {
                ours.push(rate);
                samples.merge(&took);
            } else {
                floors.push(rate);
            }
        }
    }
    mixed.server.empty_inbox().await?;
    let measure = Measure::plain(MIXED, median(ours), "events/s").beside(median(floors));
    Ok(measure.with(&samples).target(Target::AtLeast(0.9)))
}

impl Course<'_> {
    async fn run(&self, name: &'static str) -> Result<Measure, Error> {
        let (mut floors, mut ours, mut samples) = (Vec::new(), Vec::new(), Samples::new());
        for _ in 0..ROUNDS {
            let (rate, _) = self.floor().await?;
            floors.push(rate);
            self.server.empty_inbox().await?;
            let (rate, took) = self.ours().await?;
            ours.push(rate);
            samples.merge(&took);
            self.server.empty_inbox().await?;
        }
        let measure = Measure::plain(name, median(ours), "events/s")
            .beside(median(floors))
            .with(&samples);
        Ok(if name == "accept_new_c32" {
            measure.target(Target::AtLeast(0.8))
        } else {
            measure
        })
    }

    async fn ours(&self) -> Result<(f64, Samples), Error> {
        let senders = (0..self.senders).map(async |number| {
            let mut sender = Sender::connect(self.replica.address).await?;
            let events = Stream::new(self.kind, self.events, number);
            for event in &events.known {
                sender.deliver(event).await?;
            }
            // one that is not counted: the connection and its statements are warm
            sender.deliver(&Event::created(&unique(), 0)).await?;
            Ok::<_, Error>((sender, events))
        });
        let senders = try_join_all(senders).await?;
        let started = Instant::now();
        let until = started + self.slice;
        let mut running = JoinSet::new();
        for (mut sender, mut events) in senders {
            running.spawn(async move {
                let mut samples = Samples::new();
                while Instant::now() < until {
                    let event = events.next();
                    let started = Instant::now();
                    sender.deliver(&event).await?;
                    samples.add(started.elapsed());
                }
                Ok(samples)
            });
        }
        collect(running, started).await
    }

    async fn floor(&self) -> Result<(f64, Samples), Error> {
        let connections = (0..self.senders).map(async |number| {
            let mut connection = self.server.control().await?;
            let events = Stream::new(self.kind, self.events, number);
            for event in &events.known {
                insert(&mut connection, event).await?;
            }
            insert(&mut connection, &Event::created(&unique(), 0)).await?;
            Ok::<_, Error>((connection, events))
        });
        let connections = try_join_all(connections).await?;
        let started = Instant::now();
        let until = started + self.slice;
        let (kind, mut running) = (self.kind, JoinSet::new());
        for (mut connection, mut events) in connections {
            running.spawn(async move {
                let mut samples = Samples::new();
                while Instant::now() < until {
                    let event = events.next();
                    let started = Instant::now();
                    match kind {
                        Kind::New => insert(&mut connection, &event).await?,
                        Kind::Duplicate => count_again(&mut connection, &event).await?,
                    }
                    samples.add(started.elapsed());
                }
                Ok(samples)
            });
        }
        collect(running, started).await
    }
}

/// Operations a second, and how long each took.
async fn collect(
    mut running: JoinSet<Result<Samples, Error>>,
    started: Instant,
) -> Result<(f64, Samples), Error> {
    let mut all = Samples::new();
    while let Some(ended) = running.join_next().await {
        all.merge(&ended.map_err(|_| Error::Broken)??);
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of seconds fit a double")]
    let rate = all.count() as f64 / started.elapsed().as_secs_f64();
    Ok((rate, all))
}

/// The events of one sender.
struct Stream {
    events: Events,
    run: String,
    number: u64,
    known: Vec<Event>,
}

impl Stream {
    fn new(kind: Kind, events: Events, sender: u16) -> Self {
        let run = format!("{}{sender:03}", unique());
        let known = match kind {
            Kind::New => Vec::new(),
            Kind::Duplicate => (0..KNOWN)
                .map(|number| events.event(&run, number))
                .collect(),
        };
        Self {
            events,
            run,
            number: 0,
            known,
        }
    }

    fn next(&mut self) -> Event {
        let number = self.number;
        self.number += 1;
        match usize::try_from(number % KNOWN).map(|at| self.known.get(at)) {
            Ok(Some(known)) => known.clone(),
            _ => self.events.event(&self.run, number),
        }
    }
}

fn unique() -> String {
    format!("{:08x}", rand::random::<u32>())
}

async fn insert(connection: &mut PgConnection, event: &Event) -> Result<(), Error> {
    let inserted = sqlx::query(
        "insert into webhook_events
             (source, event_id, event_type, organization_id, occurred_at, body, body_sha256, state)
         values ('workos', $1, $2, $3, $4, $5, $6, 'received')",
    )
    .bind(&event.id)
    .bind(event.kind)
    .bind(&event.organization_id)
    .bind(event.occurred_at)
    .bind(&event.body)
    .bind(secrets::sha256(&event.body).as_slice())
    .execute(connection)
    .await;
    inserted
        .map(|_| ())
        .map_err(Error::sql("inserting an event by hand"))
}

async fn count_again(connection: &mut PgConnection, event: &Event) -> Result<(), Error> {
    let updated = sqlx::query(
        "update webhook_events
         set deliveries = deliveries + 1,
             last_delivered_at = now()
         where source = 'workos'
           and event_id = $1
           and body_sha256 = $2",
    )
    .bind(&event.id)
    .bind(secrets::sha256(&event.body).as_slice())
    .execute(connection)
    .await;
    updated
        .map(|_| ())
        .map_err(Error::sql("counting an event by hand"))
}
