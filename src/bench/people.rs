//! How fast events about people that wait are processed, beside the same rows written by hand.
//!
//! Guarantees: ours and the floor find the same rows, events and jobs; nothing works before all
//! events are recorded, because the lock that whoever writes about people needs is held until then.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use indicatif::ProgressBar;
use sqlx::PgConnection;

use super::{
    Error, Measure, Options, ROUNDS,
    mix::Mix,
    people_by_hand::Hand,
    replica::Replica,
    report::Target,
    samples::median,
    sender::{Event, Sender, now},
    server::{Server, execute},
};
use crate::{
    identity::{self, Heard},
    inbox::{self, Disposition, NewEvent},
    secrets,
    webhooks::{self, Mapping, Meaning, SourceKind},
};

/// The measures, and of how many organizations their events are.
const MEASURES: [(&str, u64); 2] = [("people_jobs", 250), ("people_jobs_one_org", 1)];

/// Events for each user there is: some objects are described again in the backlog, most are not.
const EVENTS_PER_USER: u64 = 4;

/// One user in so many is not described before the events that wait.
const UNKNOWN: usize = 20;

/// Events of one statement when they are recorded.
const GROUP: usize = 128;

const LIMIT: Duration = Duration::from_mins(5);
const POLL: Duration = Duration::from_millis(10);

pub(super) async fn measure(
    options: &Options,
    server: &Server,
    replica: &Replica,
    progress: &ProgressBar,
) -> Result<Vec<Measure>, Error> {
    let mut results = Vec::new();
    for (name, organizations) in MEASURES {
        if !options.wants(name) {
            continue;
        }
        let count = u64::from(options.people_events);
        let backlog = Backlog {
            server,
            replica,
            mix: Mix::new(organizations, (count / EVENTS_PER_USER).max(1)),
            count,
        };
        let (mut ours, mut floors) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            progress.set_message(format!("{name}, round {round}"));
            if round % 2 == 1 {
                ours.push(backlog.ours().await?);
            }
            floors.push(backlog.by_hand().await?);
            if round % 2 == 0 {
                ours.push(backlog.ours().await?);
            }
        }
        let measure = Measure::plain(name, median(ours), "jobs/s").beside(median(floors));
        results.push(measure.target(Target::ValueAtLeast(2000.0)));
    }
    Ok(results)
}

/// Events that wait.
struct Backlog<'a> {
    server: &'a Server,
    replica: &'a Replica,
    mix: Mix,
    count: u64,
}

impl Backlog<'_> {
    /// Jobs a second, from when the worker may begin until none is left.
    async fn ours(&self) -> Result<f64, Error> {
        let (run, start) = (unique(), start());
        let mut sender = Sender::connect(self.replica.address).await?;
        let held = self.fill(&self.events(&run, start)).await?;
        let last = self.mix.people(&run, self.count, start);
        let mut control = self.server.control().await?;
        let started = Instant::now();
        release(held).await?;
        // one more, so that the worker is called and not found at its next look
        sender.deliver(&last).await?;
        wait_until_done(&mut control, self.count + 1).await?;
        let rate = rate(self.count + 1, started.elapsed());
        self.server.empty_registers().await?;
        Ok(rate)
    }

    async fn by_hand(&self) -> Result<f64, Error> {
        let events = self.events(&unique(), start());
        let held = self.fill(&events).await?;
        let mut hand = Hand::new(self.server, &events).await?;
        let started = Instant::now();
        hand.process().await?;
        let rate = rate(self.count, started.elapsed());
        release(held).await?;
        self.server.empty_registers().await?;
        Ok(rate)
    }

    fn events(&self, run: &str, start: DateTime<Utc>) -> Vec<Event> {
        (0..self.count)
            .map(|number| self.mix.people(run, number, start))
            .collect()
    }

    /// Describes who is known already, records the events, and returns who keeps everybody from them.
    async fn fill(&self, events: &[Event]) -> Result<PgConnection, Error> {
        let doing = "recording events about people";
        let mut held = self.server.control().await?;
        execute(&mut held, "begin".to_owned()).await?;
        let locked = identity::lock(&mut held).await;
        locked.map_err(Error::sql(doing))?;
        let mut control = self.server.control().await?;
        for known in self.known().chunks(GROUP) {
            let recorded = identity::record(&mut control, known).await;
            recorded.map_err(Error::sql(doing))?;
        }
        let max_attempts = self.server.config.queue.max_attempts;
        for group in events.chunks(GROUP) {
            let group: Vec<NewEvent> = group.iter().map(new_event).collect();
            let recorded = inbox::record(&mut control, &group, max_attempts).await;
            recorded.map_err(Error::sql(doing))?;
        }
        self.server.checkpoint().await?;
        Ok(held)
    }

    fn known(&self) -> Vec<Heard> {
        let at = start() - TimeDelta::hours(1);
        let organizations = self.mix.organizations("known", at);
        let users = self.mix.users("known", at).enumerate();
        let users = users.filter_map(|(number, user)| (number % UNKNOWN != 0).then_some(user));
        let heard = |event: Event| {
            let reading = webhooks::read(SourceKind::Workos, &Mapping::default(), &event.body);
            let said = match reading.meaning {
                Meaning::Events(said) => said,
                Meaning::Ignored | Meaning::Unreadable(_) => Vec::new(),
            };
            Heard::from_api("workos", said)
        };
        organizations.chain(users).map(heard).collect()
    }
}

fn new_event(event: &Event) -> NewEvent {
    NewEvent {
        source: "workos".to_owned(),
        event_id: event.id.clone(),
        event_type: event.kind.to_owned(),
        organization_id: event.organization_id.clone(),
        occurred_at: Some(event.occurred_at),
        body: event.body.clone(),
        body_sha256: secrets::sha256(&event.body),
        disposition: Disposition::Process,
    }
}

async fn release(mut held: PgConnection) -> Result<(), Error> {
    execute(&mut held, "commit".to_owned()).await
}

async fn wait_until_done(control: &mut PgConnection, count: u64) -> Result<(), Error> {
    let count = count.cast_signed();
    let started = Instant::now();
    loop {
        let left: bool = sqlx::query_scalar(
            "select exists (
                 select
                 from jobs
                 where state = any('{available,running}')
                   and kind = 'process_event'
             )",
        )
        .fetch_one(&mut *control)
        .await
        .map_err(Error::sql("looking for jobs that are left"))?;
        if !left || started.elapsed() > LIMIT {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    let completed: i64 = sqlx::query_scalar(
        "select count(*)
         from jobs
         where state = 'completed'
           and kind = 'process_event'",
    )
    .fetch_one(control)
    .await
    .map_err(Error::sql("counting jobs"))?;
    if completed < count {
        return Err(Error::NotCompleted {
            missing: count - completed,
            limit: LIMIT,
        });
    }
    Ok(())
}

/// Descriptions count up from here and do not reach into the future.
fn start() -> DateTime<Utc> {
    now() - TimeDelta::hours(1)
}

#[expect(clippy::cast_precision_loss, reason = "counts of jobs fit a double")]
fn rate(jobs: u64, took: Duration) -> f64 {
    jobs as f64 / took.as_secs_f64()
}

fn unique() -> String {
    format!("{:08x}", rand::random::<u32>())
}
