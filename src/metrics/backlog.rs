//! What only the database knows: its figures, as whoever asks it gives them.

use prometheus_client::metrics::{family::Family, gauge::Gauge};

use super::{EndpointLabel, KindLabel, Metrics, NoLabels, StateLabel, StatusLabel};

/// What the database says about backlog and tenants.
#[derive(Debug, Clone, Default)]
pub struct Backlog {
    /// Events received and not settled.
    pub inbox_pending: i64,
    /// Age of the oldest of them, in seconds.
    pub inbox_oldest_s: f64,
    /// Events that name an object which nobody has described yet.
    pub waiting_events: i64,
    /// Events that failed.
    pub failed_events: i64,
    /// Jobs by state.
    pub jobs: Vec<(String, i64)>,
    /// Jobs that are due and wait.
    pub jobs_past_due: i64,
    /// Age of the oldest job that is due, in seconds.
    pub oldest_due_s: f64,
    /// Tenants by state.
    pub tenants: Vec<(String, i64)>,
    /// Registrations that have not ended, by state.
    pub registrations: Vec<(String, i64)>,
    /// When old rows were pruned last by themselves, in seconds since 1970.
    pub last_pruned: Option<f64>,
    /// Notifications that each endpoint is still to be told, and the age of the oldest in seconds.
    pub notifications: Vec<(String, i64, f64)>,
    /// Endpoints that are disabled.
    pub disabled_endpoints: i64,
    /// Targets of the fleet run that has not ended, by state; 0 of each where there is none.
    pub fleet_run_targets: Vec<(String, i64)>,
    /// Databases of the pool by state, and the age of the oldest in seconds.
    pub pool: Vec<(String, i64, f64)>,
}

fn set(gauges: &Family<StateLabel, Gauge>, counts: Vec<(String, i64)>) {
    for (state, count) in counts {
        gauges.get_or_create(&StateLabel { state }).set(count);
    }
}

impl Metrics {
    fn pool(&self, states: Vec<(String, i64, f64)>) {
        self.pool_databases.clear();
        self.pool_oldest.clear();
        for (state, databases, oldest_s) in states {
            let label = StateLabel { state };
            self.pool_databases.get_or_create(&label).set(databases);
            self.pool_oldest.get_or_create(&label).set(oldest_s);
        }
    }

    /// What the database said. `None`: it does not answer, and its gauges are left out rather than stale.
    pub fn backlog(&self, backlog: Option<Backlog>) {
        self.inbox_pending.clear();
        self.inbox_waiting.clear();
        self.inbox_oldest.clear();
        self.jobs_past_due.clear();
        self.oldest_due.clear();
        self.jobs.clear();
        self.tenants.clear();
        self.registrations.clear();
        self.fleet_run_targets.clear();
        self.dead_letters.clear();
        self.last_pruned.clear();
        self.notifications_pending.clear();
        self.notifications_oldest.clear();
        self.disabled_endpoints.clear();
        self.pool(Vec::new());
        let Some(backlog) = backlog else { return };
        self.inbox_pending
            .get_or_create(&NoLabels {})
            .set(backlog.inbox_pending);
        self.inbox_waiting
            .get_or_create(&NoLabels {})
            .set(backlog.waiting_events);
        self.inbox_oldest
            .get_or_create(&NoLabels {})
            .set(backlog.inbox_oldest_s);
        self.jobs_past_due
            .get_or_create(&NoLabels {})
            .set(backlog.jobs_past_due);
        self.oldest_due
            .get_or_create(&NoLabels {})
            .set(backlog.oldest_due_s);
        if let Some(at) = backlog.last_pruned {
            self.last_pruned.get_or_create(&NoLabels {}).set(at);
        }
        for (endpoint, pending, oldest_s) in backlog.notifications {
            let label = EndpointLabel { endpoint };
            self.notifications_pending
                .get_or_create(&label)
                .set(pending);
            self.notifications_oldest
                .get_or_create(&label)
                .set(oldest_s);
        }
        self.disabled_endpoints
            .get_or_create(&NoLabels {})
            .set(backlog.disabled_endpoints);
        self.pool(backlog.pool);
        let mut dead_jobs = 0;
        for (state, jobs) in backlog.jobs {
            dead_jobs += if state == "dead" { jobs } else { 0 };
            self.jobs.get_or_create(&StateLabel { state }).set(jobs);
        }
        for (status, tenants) in backlog.tenants {
            self.tenants
                .get_or_create(&StatusLabel { status })
                .set(tenants);
        }
        set(&self.registrations, backlog.registrations);
        set(&self.fleet_run_targets, backlog.fleet_run_targets);
        self.dead_letters
            .get_or_create(&KindLabel { kind: "event" })
            .set(backlog.failed_events);
        self.dead_letters
            .get_or_create(&KindLabel { kind: "job" })
            .set(dead_jobs);
    }
}
