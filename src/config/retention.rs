//! `[retention]`: how long what is over is kept.

use std::time::Duration;

use serde::Deserialize;

use super::Error;

/// `[retention]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Pause between two runs of the scheduled job, in seconds; 0 for no such job.
    pub pause_s: u64,
    /// How long the bodies of settled events are kept; 0 for ever.
    pub event_bodies_days: u32,
    /// How long completed and cancelled jobs are kept; 0 for ever.
    pub jobs_days: u32,
    /// How long dead jobs are kept; 0 for ever.
    pub dead_jobs_days: u32,
    /// How long settled outgoing notifications are kept; 0 for ever.
    pub notifications_days: u32,
    /// How long it is kept what happened to a registration that has ended; 0 for ever.
    pub registration_events_days: u32,
}

impl Retention {
    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<(), Error> {
        let ages = [
            ("retention.event_bodies_days", self.event_bodies_days),
            ("retention.jobs_days", self.jobs_days),
            ("retention.dead_jobs_days", self.dead_jobs_days),
            ("retention.notifications_days", self.notifications_days),
            (
                "retention.registration_events_days",
                self.registration_events_days,
            ),
        ];
        // more than a century is a mistake
        let wrong = |(_, days): &(&str, u32)| *days > 36_500;
        if let Some((key, days)) = ages.into_iter().find(wrong) {
            return Err(Error::value(key, &days.to_string(), "0 to 36500"));
        }
        if self.pause_s > 86_400 * 31 {
            let value = self.pause_s.to_string();
            return Err(Error::value("retention.pause_s", &value, "0 to 2678400"));
        }
        Ok(())
    }
}

/// An age in days; `None` for 0, which is for ever.
pub fn days(days: u32) -> Option<Duration> {
    (days > 0).then(|| Duration::from_hours(24) * days)
}
