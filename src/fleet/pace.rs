//! How fast a run is, and when it will have ended.

use sqlx::PgConnection;

use super::{Run, RunState};

/// Length of the measuring window.
const WINDOW_S: f64 = 30.0;

/// How fast a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Targets ended per second, over the last half minute.
    pub per_second: f64,
    /// Seconds until the last one will have ended at this pace; none while nothing ends.
    pub eta_s: Option<f64>,
}

/// How fast the run is now.
pub async fn find_pace(connection: &mut PgConnection, run: &Run) -> sqlx::Result<Pace> {
    let measured = sqlx::query_as(
        "select count(*),
                extract(epoch from now() - greatest(
                    now() - make_interval(secs => $2),
                    (select prepared_at from fleet_runs where id = $1)
                ))::double precision
         from fleet_targets
         where run = $1
           and state in ('done', 'skipped', 'failed')
           and finished_at > now() - make_interval(secs => $2)",
    );
    let (ended, seconds): (i64, f64) = measured
        .bind(run.id)
        .bind(WINDOW_S)
        .fetch_one(connection)
        .await?;
    Ok(pace(run, u32::try_from(ended).unwrap_or(u32::MAX), seconds))
}

fn pace(run: &Run, ended: u32, seconds: f64) -> Pace {
    // of a moment nothing is known
    let per_second = f64::from(ended) / seconds.max(1.0);
    let left = run.counts.pending + run.counts.running;
    let is_going_on = run.state == RunState::Running && per_second > 0.0;
    Pace {
        per_second,
        eta_s: is_going_on.then(|| f64::from(left) / per_second),
    }
}
