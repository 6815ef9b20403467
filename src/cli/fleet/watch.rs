//! Watching a fleet run: a bar with rate and time left on a terminal, a line now and then elsewhere.
//!
//! Guarantees: Ctrl-C leaves the run going, and says so; when nobody works on the run, that is said as well.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    cli::{Exit, Failure, Globals, access::Access, printer::count},
    fleet::{self, Run, RunId, RunState},
};

/// Between two looks, at first and later: what ends at once is seen at once.
const LOOKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// Where there is no terminal, a line says how far it is after this long.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// How long nothing may happen before that is reported.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same in leases, if that is longer, where something is under way: by then another replica has taken it over
/// if its own is lost.
const LEASES: u32 = 2;

/// Waits until the run is over; one that is paused is not waited for.
pub(super) async fn watch(globals: &Globals, access: &Access, id: RunId) -> Result<Run, Failure> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}")
    {
        bar.set_style(style);
    }
    let seen = tokio::select! {
        seen = follow(globals, access, id, &bar) => seen,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(
            Exit::NotInTime,
            format!("fleet run {id} goes on without you"),
            format!("see how far it is: tenantry fleet status {id} --wait; stop it: tenantry fleet pause {id}"),
        )),
    };
    bar.finish_and_clear();
    seen
}

async fn follow(
    globals: &Globals,
    access: &Access,
    id: RunId,
    bar: &ProgressBar,
) -> Result<Run, Failure> {
    let is_terminal = std::io::stderr().is_terminal();
    let began = Instant::now();
    let (mut told_at, mut seen, mut seen_at, mut idle_at) = (began, String::new(), began, began);
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
        bar.set_length(counts.total().into());
        bar.set_position(counts.settled().into());
        bar.set_message(match run.state {
            RunState::Running => format!("wave {}", run.current_wave),
            state => state.name().to_owned(),
        });
        if !is_terminal && told_at.elapsed() >= LINE_PAUSE {
            told_at = Instant::now();
            globals.printer.talk(format!(
                "{}: {} of {}, {} failed",
                run.state.name(),
                counts.settled(),
                count(counts.total(), "tenant"),
                counts.failed
            ));
        }
        let now = format!("{:?} {counts:?}", run.state);
        let patience = match counts.running {
            0 => PATIENCE,
            _ => PATIENCE.max(access.config.queue.lease() * LEASES),
        };
        if now != seen {
            (seen, seen_at, idle_at) = (now, Instant::now(), Instant::now());
        } else if idle_at.elapsed() >= patience {
            idle_at = Instant::now();
            bar.suspend(|| globals.printer.talk(idle(&run, seen_at.elapsed())));
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
