//! From an event, or a sign-up, to a ready tenant, beside the same tenant made by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use indicatif::ProgressBar;
use sqlx::PgConnection;
use tokio::task::JoinSet;

use super::{
    Error, Measure, Options, ROUNDS,
    by_hand::Hand,
    replica::Replica,
    report::Target,
    samples::{Samples, median},
    sender::{Event, Sender},
    server::Server,
    signups::{self, SignUp},
    visitors,
};

/// Tenants made before anything is measured: the first ones after many drops cost more.
const WARM_UP: u32 = 8;

/// Senders of the events that come at once. People sign up over a connection each.
const SENDERS: u32 = 16;

/// How long tenants may take before the run is given up.
const LIMIT: Duration = Duration::from_mins(5);

/// Between two looks: whoever looks all the time takes the processors of those who work.
const POLL: Duration = Duration::from_millis(5);

pub(super) async fn measure(
    options: &Options,
    server: &Server,
    replica: &Replica,
    progress: &ProgressBar,
) -> Result<Vec<Measure>, Error> {
    let mut results = Vec::new();
    let ready = Ready::new(server, replica, progress);
    if options.wants("ready_serial") {
        results.push(ready.serial("ready_serial", options.tenants_serial).await?);
    }
    let count = options.tenants_at_once;
    for (name, way) in [
        ("ready_100_at_once", Way::Event),
        ("signups_100_at_once", Way::SignUp),
    ] {
        if options.wants(name) {
            results.push(ready.at_once(name, way, count).await?);
        }
    }
    Ok(results)
}

/// From an event to a tenant with a database of the pool, by a replica of its own; no other one works.
pub(super) async fn measure_pool(
    options: &Options,
    server: &Server,
    progress: &ProgressBar,
) -> Result<Measure, Error> {
    let count = options.tenants_serial;
    progress.set_message("ready_serial_pool");
    let replica = Replica::start_with_pool(server, count + WARM_UP).await?;
    let ready = Ready::new(server, &replica, progress);
    let measured = ready.serial_from_pool("ready_serial_pool", count).await?;
    // before the databases go that it would make again
    replica.stop().await?;
    server.drop_tenants().await?;
    Ok(measured)
}

/// How a tenant is asked for.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// By a provider's event.
    Event,
    /// By somebody who signs up.
    SignUp,
}

/// A replica that makes tenants, and whoever makes the same by hand.
pub(super) struct Ready<'a> {
    server: &'a Server,
    replica: &'a Replica,
    progress: &'a ProgressBar,
}

impl<'a> Ready<'a> {
    pub(super) fn new(server: &'a Server, replica: &'a Replica, progress: &'a ProgressBar) -> Self {
        Self {
            server,
            replica,
            progress,
        }
    }

    /// So many tenants at once; milliseconds from the first event until the last one is ready.
    pub(super) async fn make_tenants(&self, count: u32) -> Result<f64, Error> {
        self.ours_at_once(Way::Event, count, "").await
    }

    /// Each is cloned, also by hand.
    async fn serial(&self, name: &'static str, count: u32) -> Result<Measure, Error> {
        self.progress.set_message(name);
        self.ours_at_once(Way::Event, WARM_UP, "").await?;
        let mut hand = Hand::new(self.server).await?;
        let by_hand = async || hand.make().await;
        let (ours, floor) = self.take_turns(count, async || Ok(()), by_hand).await?;
        drop(hand);
        self.server.drop_tenants().await?;
        Ok(Measure::plain(name, ours.percentile_ms(50.0), "ms")
            .beside(floor.percentile_ms(50.0))
            .with(&ours)
            .target(Target::AtMost(1.3)))
    }

    /// The same from the pool; each beside one by hand that claims as well. Nobody refills the pool meanwhile.
    async fn serial_from_pool(&self, name: &'static str, count: u32) -> Result<Measure, Error> {
        self.ours_at_once(Way::Event, WARM_UP, "").await?;
        let mut hand = Hand::new(self.server).await?;
        let mut control = self.server.control().await?;
        hand.fill_pool(&mut control, WARM_UP + count).await?;
        let by_hand = async || hand.make_from_pool(&mut control).await;
        let filled = async || {
            self.replica
                .wait_for_pool(self.server, count + WARM_UP)
                .await
        };
        let (ours, floor) = self.take_turns(count, filled, by_hand).await?;
        Ok(Measure::plain(name, ours.percentile_ms(50.0), "ms")
            .beside(floor.percentile_ms(50.0))
            .with(&ours)
            .target(Target::AtMost(2.0)))
    }

    /// One tenant after the other, each beside one by hand; `before` is not in the time of either.
    ///
    /// The first ones do not count: a replica in use has prepared its statements.
    async fn take_turns(
        &self,
        count: u32,
        mut before: impl AsyncFnMut() -> Result<(), Error>,
        mut by_hand: impl AsyncFnMut() -> Result<(), Error>,
    ) -> Result<(Samples, Samples), Error> {
        let mut control = self.server.control().await?;
        let mut sender = Sender::connect(self.replica.address).await?;
        let (mut ours, mut floor) = (Samples::new(), Samples::new());
        let run = unique();
        for number in 0..WARM_UP + count {
            if number == WARM_UP {
                (ours, floor) = (Samples::new(), Samples::new());
            }
            before().await?;
            let event = Event::created(&run, number.into());
            // whoever comes second finds the machine as the first left it: take turns in that as well
            if number % 2 == 0 {
                floor.add(timed(by_hand()).await?);
            }
            let started = Instant::now();
            sender.deliver(&event).await?;
            let organization = event.organization_id.as_deref().unwrap_or_default();
            wait_until_ready(&mut control, Way::Event, (organization, 1)).await?;
            ours.add(started.elapsed());
            if number % 2 == 1 {
                floor.add(timed(by_hand()).await?);
            }
        }
        Ok((ours, floor))
    }

    async fn at_once(&self, name: &'static str, way: Way, count: u32) -> Result<Measure, Error> {
        let key = &signups::make_key(self.server).await?;
        let (mut ours, mut floors) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            self.progress.set_message(format!("{name}, round {round}"));
            self.ours_at_once(way, WARM_UP, key).await?;
            if round % 2 == 1 {
                ours.push(self.ours_at_once(way, count, key).await?);
            }
            floors.push(self.by_hand_at_once(count).await?);
            if round % 2 == 0 {
                ours.push(self.ours_at_once(way, count, key).await?);
            }
            self.server.drop_tenants().await?;
        }
        visitors::forget_keys(self.server).await?;
        Ok(Measure::plain(name, median(ours), "ms")
            .beside(median(floors))
            .target(Target::AtMost(1.3)))
    }

    /// Milliseconds from the first request until the last tenant is ready; `key` is for sign-ups.
    async fn ours_at_once(&self, way: Way, count: u32, key: &str) -> Result<f64, Error> {
        let run = unique();
        let mut control = self.server.control().await?;
        let mut senders = Vec::new();
        for _ in 0..way.senders(count) {
            senders.push(Sender::connect(self.replica.address).await?);
        }
        let started = Instant::now();
        let run = &run;
        try_join_all(
            (0_u32..)
                .zip(senders)
                .map(|(first, mut sender)| async move {
                    let step = usize::try_from(way.senders(count)).unwrap_or(usize::MAX);
                    for number in (first..count).step_by(step) {
                        way.ask(&mut sender, key, (run, number.into())).await?;
                    }
                    Ok::<_, Error>(())
                }),
        )
        .await?;
        let names = way.names_of(run);
        wait_until_ready(&mut control, way, (&names, count.into())).await?;
        Ok(started.elapsed().as_secs_f64() * 1000.0)
    }

    /// The same by as many hands as the replica runs jobs at once.
    pub(super) async fn by_hand_at_once(&self, count: u32) -> Result<f64, Error> {
        let mut hands = Vec::new();
        for _ in 0..self.server.config.queue.concurrency {
            hands.push(Hand::new(self.server).await?);
        }
        let made = Arc::new(AtomicU32::new(0));
        let started = Instant::now();
        // tasks: the hands use as many processors as the replica does
        let mut running = JoinSet::new();
        for mut hand in hands {
            let made = Arc::clone(&made);
            running.spawn(async move {
                while made.fetch_add(1, Ordering::Relaxed) < count {
                    hand.make().await?;
                }
                Ok::<_, Error>(())
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.map_err(|_| Error::Broken)??;
        }
        Ok(started.elapsed().as_secs_f64() * 1000.0)
    }
}

async fn timed(work: impl Future<Output = Result<(), Error>>) -> Result<Duration, Error> {
    let started = Instant::now();
    work.await?;
    Ok(started.elapsed())
}

impl Way {
    async fn ask(
        self,
        sender: &mut Sender,
        key: &str,
        (run, number): (&str, u64),
    ) -> Result<(), Error> {
        match self {
            Self::Event => sender.deliver(&Event::created(run, number)).await,
            Self::SignUp => signups::sign_up(sender, key, &SignUp::new(run, number))
                .await
                .map(|_| ()),
        }
    }

    fn senders(self, count: u32) -> u32 {
        match self {
            Self::Event => SENDERS,
            Self::SignUp => count,
        }
    }

    /// What the organizations of a run have in common: the beginning of the provider's id, or of the name.
    fn names_of(self, run: &str) -> String {
        match self {
            Self::Event => format!("org_{run}_"),
            Self::SignUp => SignUp::names_of(run),
        }
    }

    const fn count_ready(self) -> &'static str {
        match self {
            Self::Event => {
                "select count(*)
                 from tenants
                 where starts_with(org_id, $1)
                   and state = 'ready'"
            }
            Self::SignUp => {
                "select count(*)
                 from registrations
                 where starts_with(name, $1)
                   and state = 'ready'"
            }
        }
    }
}

/// Waits for so many ready tenants of organizations whose ids or names begin like this.
async fn wait_until_ready(
    control: &mut PgConnection,
    way: Way,
    (organizations, count): (&str, i64),
) -> Result<(), Error> {
    let started = Instant::now();
    loop {
        let ready: i64 = sqlx::query_scalar(way.count_ready())
            .bind(organizations)
            .fetch_one(&mut *control)
            .await
            .map_err(Error::sql("counting tenants"))?;
        if ready >= count {
            return Ok(());
        }
        if started.elapsed() > LIMIT {
            let missing = count - ready;
            return Err(Error::NotReady {
                missing,
                limit: LIMIT,
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn unique() -> String {
    format!("{:08x}", rand::random::<u32>())
}
