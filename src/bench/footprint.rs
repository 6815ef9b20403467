//! What a replica costs before it does anything: time to start, memory.

use std::time::Duration;

use indicatif::ProgressBar;

use super::{
    Error, Measure, Options,
    replica::Replica,
    report::Target,
    samples::{Samples, median},
    server::Server,
};

const STARTS: usize = 7;

/// Lazy parts have settled by then.
pub(super) const IDLE: Duration = Duration::from_secs(2);

/// From the start of the process until `/readyz` says 200; the control database is migrated.
pub(super) async fn start(
    options: &Options,
    server: &Server,
    progress: &ProgressBar,
) -> Result<Option<Measure>, Error> {
    let name = "start_to_ready_ms";
    if !options.wants(name) {
        return Ok(None);
    }
    progress.set_message(name);
    let (mut starts, mut samples) = (Vec::new(), Samples::new());
    for _ in 0..STARTS {
        let replica = Replica::start(server, "api,worker").await?;
        starts.push(replica.started_in.as_secs_f64() * 1000.0);
        samples.add(replica.started_in);
        replica.stop().await?;
    }
    let measure = Measure::plain(name, median(starts), "ms").with(&samples);
    Ok(Some(measure.target(Target::AtMost(150.0))))
}

/// Memory of a replica that has done nothing yet.
pub(super) async fn idle(options: &Options, replica: &Replica) -> Result<Option<Measure>, Error> {
    let name = "rss_idle_mib";
    if !options.wants(name) {
        return Ok(None);
    }
    tokio::time::sleep(IDLE).await;
    let measure = Measure::plain(name, replica.rss_mib()?, "MiB");
    Ok(Some(measure.target(Target::AtMost(40.0))))
}

/// Memory after the load: of the replica that accepted or the one that worked, whichever has more.
pub(super) fn after(options: &Options, rss_mib: f64) -> Option<Measure> {
    let name = "rss_after_mib";
    let measure = Measure::plain(name, rss_mib, "MiB").target(Target::AtMost(120.0));
    options.wants(name).then_some(measure)
}
