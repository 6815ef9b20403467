//! Watching a fleet run: a bar with rate and time left on a terminal, a line now and then elsewhere.
//!
//! Guarantees: Ctrl-C leaves the run going, and says so; when nobody works on the run, that is said as well.

use std::time::{Duration, Instant};

use crate::{
    cli::{Exit, Failure, Globals, access::Access, printer::count, progress::Progress},
    fleet::{self, Run, RunId, RunState},
};

/// Between two looks, at first and later: what ends at once is seen at once.
const LOOKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// How the bar of a run looks.
const BAR: &str = "{msg} {wide_bar} {pos}/{len} {per_sec} {eta}";

/// How long nothing may happen before that is reported.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same in leases, if that is longer, where something is under way: by then another replica has taken it over
/// if its own is lost.
const LEASES: u32 = 2;

/// Waits until the run is over; one that is paused is not waited for.
pub(super) async fn watch(globals: &Globals, access: &Access, id: RunId) -> Result<Run, Failure> {
    tokio::select! {
        seen = follow(globals, access, id) => seen,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(
            Exit::NotInTime,
            format!("fleet run {id} goes on without you"),
            format!("see how far it is: tenantry fleet status {id} --wait; stop it: tenantry fleet pause {id}"),
        )),
    }
}

async fn follow(globals: &Globals, access: &Access, id: RunId) -> Result<Run, Failure> {
    let progress = Progress::new(globals.printer, BAR);
    let began = Instant::now();
    let (mut seen, mut seen_at, mut idle_at) = (String::new(), began, began);
    loop {
        let find = async |connection: &mut _| fleet::find(connection, id).await;
        let run = access
            .db
            .run(find)
            .await?
            .ok_or(fleet::Error::Unknown(id))?;
        if (run.state.is_over() || run.state == RunState::Paused) && run.counts.running == 0 {
            return Ok(run);
        }
        let counts = run.counts;
        let (done, all) = (counts.settled(), counts.total());
        let stage = match run.state {
            RunState::Running => format!("wave {}", run.current_wave),
            state => state.name().to_owned(),
        };
        progress.is_at((done.into(), all.into()), &stage, || {
            let (all, failed) = (count(all, "tenant"), counts.failed);
            format!("{}: {done} of {all}, {failed} failed", run.state.name())
        });
        let now = format!("{:?} {counts:?}", run.state);
        let patience = match counts.running {
            0 => PATIENCE,
            _ => PATIENCE.max(access.config.queue.lease() * LEASES),
        };
        if now != seen {
            (seen, seen_at, idle_at) = (now, Instant::now(), Instant::now());
        } else if idle_at.elapsed() >= patience {
            idle_at = Instant::now();
            progress.beside(|| globals.printer.talk(idle(&run, seen_at.elapsed())));
        }
        tokio::time::sleep((began.elapsed() / 10).clamp(LOOKS.0, LOOKS.1)).await;
    }
}

/// What may be the matter when nothing happens.
fn idle(run: &Run, since: Duration) -> String {
    match run.state {
        _ if run.counts.running > 0 => format!(
            "{} under way, and nothing has changed for {} s: the migration may be slow, or its replica is gone and no other `tenantry serve` with this blueprint is running",
            count(run.counts.running, "database"),
            since.as_secs()
        ),
        RunState::Preparing => format!(
            "fleet run {} is still being prepared: building the template may be slow, or no `tenantry serve` with this blueprint is running",
            run.id
        ),
        _ => format!(
            "nothing is under way in fleet run {}: the tenants left wait for their next attempt, or the run waits for a tenant that is being made from another blueprint, or no `tenantry serve` with this blueprint is running",
            run.id
        ),
    }
}
