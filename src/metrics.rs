//! Metrics for Prometheus: what the process counts, and what the database says when asked.
//!
//! Guarantees: no label carries the id of a tenant, organization, user or event; event types that we
//! do not know count as "other", so that no sender can make labels.

mod backlog;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

pub use backlog::Backlog;

type FloatGauge = Gauge<f64, AtomicU64>;

/// Labels of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveryLabels {
    source: String,
    event_type: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefreshLabels {
    issuer: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NotificationLabels {
    endpoint: String,
    outcome: &'static str,
}

macro_rules! one_label {
    ($($name:ident { $label:ident: $type:ty })*) => {
        $(
            #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
            struct $name { $label: $type }
        )*
    };
}
one_label! {
    SourceLabel { source: String }
    IssuerLabel { issuer: String }
    StateLabel { state: String }
    StatusLabel { status: String }
    StepLabel { step: &'static str }
    PathLabel { path: &'static str }
    KindLabel { kind: &'static str }
    EndpointLabel { endpoint: String }
    OutcomeLabel { outcome: &'static str }
}

/// For figures without labels that are left out when nobody knows them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NoLabels {}

/// Seconds; the buckets of OpenTelemetry's `http.server.request.duration`, and 1 ms before them.
const BUCKETS: [f64; 15] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// The metrics of this process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    deliveries: Family<DeliveryLabels, Counter>,
    ack_seconds: Family<SourceLabel, Histogram, fn() -> Histogram>,
    requests: Family<RequestLabels, Histogram, fn() -> Histogram>,
    attempts: Family<AttemptLabels, Counter>,
    /// Jobs taken back from lost workers.
    pub job_rescues: Counter,
    /// Writes refused because the claim was lost.
    pub fenced_writes: Counter,
    provision_seconds: Family<PathLabel, Histogram, fn() -> Histogram>,
    step_seconds: Family<StepLabel, Histogram, fn() -> Histogram>,
    inbox_pending: Family<NoLabels, Gauge>,
    inbox_waiting: Family<NoLabels, Gauge>,
    inbox_oldest: Family<NoLabels, FloatGauge>,
    jobs: Family<StateLabel, Gauge>,
    jobs_past_due: Family<NoLabels, Gauge>,
    oldest_due: Family<NoLabels, FloatGauge>,
    tenants: Family<StatusLabel, Gauge>,
    registrations: Family<StateLabel, Gauge>,
    /// Registrations that took longer than they should.
    pub registrations_delayed: Counter,
    dead_letters: Family<KindLabel, Gauge>,
    connections: Family<StateLabel, Gauge>,
    /// Tenants whose database was claimed from the pool.
    pub pool_hits: Counter,
    /// Tenants for whom the pool had none.
    pub pool_misses: Counter,
    pool_databases: Family<StateLabel, Gauge>,
    pool_oldest: Family<StateLabel, FloatGauge>,
    pruned_rows: Family<KindLabel, Counter>,
    last_pruned: Family<NoLabels, FloatGauge>,
    notification_attempts: Family<NotificationLabels, Counter>,
    notifications_pending: Family<EndpointLabel, Gauge>,
    notifications_oldest: Family<EndpointLabel, FloatGauge>,
    disabled_endpoints: Family<NoLabels, Gauge>,
    fleet_targets: Family<OutcomeLabel, Counter>,
    fleet_run_targets: Family<StateLabel, Gauge>,
    jwks_refreshes: Family<RefreshLabels, Counter>,
    jwks_age: Family<IssuerLabel, FloatGauge>,
    /// When each issuer's keys were fetched last.
    jwks_fetched: Arc<Mutex<BTreeMap<String, Instant>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            deliveries: Family::default(),
            ack_seconds: Family::new_with_constructor(histogram),
            requests: Family::new_with_constructor(histogram),
            attempts: Family::default(),
            job_rescues: Counter::default(),
            fenced_writes: Counter::default(),
            provision_seconds: Family::new_with_constructor(histogram),
            step_seconds: Family::new_with_constructor(histogram),
            inbox_pending: Family::default(),
            inbox_waiting: Family::default(),
            inbox_oldest: Family::default(),
            jobs: Family::default(),
            jobs_past_due: Family::default(),
            oldest_due: Family::default(),
            tenants: Family::default(),
            registrations: Family::default(),
            registrations_delayed: Counter::default(),
            dead_letters: Family::default(),
            connections: Family::default(),
            pool_hits: Counter::default(),
            pool_misses: Counter::default(),
            pool_databases: Family::default(),
            pool_oldest: Family::default(),
            pruned_rows: Family::default(),
            last_pruned: Family::default(),
            notification_attempts: Family::default(),
            notifications_pending: Family::default(),
            notifications_oldest: Family::default(),
            disabled_endpoints: Family::default(),
            fleet_targets: Family::default(),
            fleet_run_targets: Family::default(),
            jwks_refreshes: Family::default(),
            jwks_age: Family::default(),
            jwks_fetched: Arc::default(),
        };
        // an alert on an increase does not see the failure that makes the series
        for outcome in ["done", "skipped", "failed", "retried"] {
            drop(
                metrics
                    .fleet_targets
                    .get_or_create(&OutcomeLabel { outcome }),
            );
        }
        metrics.registry = Arc::new(metrics.register());
        metrics
    }

    fn register(&self) -> Registry {
        let mut registry = Registry::with_prefix("tenantry");
        let build = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The running version", Info::new(build));
        registry.register(
            "webhook_deliveries",
            "Webhook deliveries by what became of them",
            self.deliveries.clone(),
        );
        registry.register(
            "webhook_ack_duration_seconds",
            "From the first byte of a delivery to its answer",
            self.ack_seconds.clone(),
        );
        registry.register(
            "http_request_duration_seconds",
            "HTTP requests",
            self.requests.clone(),
        );
        registry.register(
            "job_attempts",
            "Ended attempts of jobs",
            self.attempts.clone(),
        );
        registry.register(
            "job_rescues",
            "Jobs taken back from workers that showed no sign of life",
            self.job_rescues.clone(),
        );
        registry.register(
            "fenced_writes",
            "Writes refused because the claim was lost",
            self.fenced_writes.clone(),
        );
        registry.register(
            "fleet_targets",
            "Targets of fleet runs by how their attempts ended",
            self.fleet_targets.clone(),
        );
        registry.register(
            "fleet_run_targets",
            "Targets of the fleet run that has not ended, by state",
            self.fleet_run_targets.clone(),
        );
        registry.register(
            "jwks_refreshes",
            "Fetches of issuers' keys by how they ended",
            self.jwks_refreshes.clone(),
        );
        registry.register(
            "jwks_age_seconds",
            "Time since an issuer's keys were fetched",
            self.jwks_age.clone(),
        );
        self.register_provisioning(&mut registry);
        self.register_pool(&mut registry);
        self.register_pruning(&mut registry);
        self.register_notifications(&mut registry);
        registry
    }

    fn register_notifications(&self, registry: &mut Registry) {
        registry.register(
            "notification_attempts",
            "Attempts to deliver notifications by how they ended",
            self.notification_attempts.clone(),
        );
        registry.register(
            "notifications_pending",
            "Notifications that an endpoint is still to be told",
            self.notifications_pending.clone(),
        );
        registry.register(
            "notification_oldest_pending_age_seconds",
            "Age of the oldest notification that an endpoint is still to be told",
            self.notifications_oldest.clone(),
        );
        registry.register(
            "notification_endpoints_disabled",
            "Configured endpoints that are disabled",
            self.disabled_endpoints.clone(),
        );
    }

    fn register_provisioning(&self, registry: &mut Registry) {
        registry.register(
            "provision_duration_seconds",
            "From the receipt of the event to the ready tenant",
            self.provision_seconds.clone(),
        );
        registry.register(
            "provision_step_duration_seconds",
            "Steps of provisioning",
            self.step_seconds.clone(),
        );
        registry.register(
            "inbox_pending",
            "Events received and not settled",
            self.inbox_pending.clone(),
        );
        registry.register(
            "inbox_waiting",
            "Events that name an object which nobody has described yet",
            self.inbox_waiting.clone(),
        );
        registry.register(
            "inbox_oldest_pending_age_seconds",
            "Age of the oldest event that is not settled",
            self.inbox_oldest.clone(),
        );
        registry.register(
            "jobs",
            "Jobs by state; completed ones are not counted",
            self.jobs.clone(),
        );
        registry.register(
            "jobs_past_due",
            "Jobs that are due and wait",
            self.jobs_past_due.clone(),
        );
        registry.register(
            "job_oldest_ready_age_seconds",
            "Age of the oldest job that is due",
            self.oldest_due.clone(),
        );
        registry.register("tenants", "Tenants by state", self.tenants.clone());
        registry.register(
            "registrations",
            "Registrations that have not ended, by state; delayed ones apart",
            self.registrations.clone(),
        );
        registry.register(
            "registrations_delayed",
            "Registrations that took longer than registrations.deadline_s",
            self.registrations_delayed.clone(),
        );
        registry.register(
            "dead_letters",
            "What failed for good and waits for an operator",
            self.dead_letters.clone(),
        );
        registry.register(
            "db_pool_connections",
            "Connections to the control database",
            self.connections.clone(),
        );
    }

    fn register_pool(&self, registry: &mut Registry) {
        registry.register(
            "pool_hits",
            "Tenants whose database was claimed from the pool",
            self.pool_hits.clone(),
        );
        registry.register(
            "pool_misses",
            "Tenants for whom the pool had no database",
            self.pool_misses.clone(),
        );
        registry.register(
            "pool_databases",
            "Databases of the pool by state",
            self.pool_databases.clone(),
        );
        registry.register(
            "pool_oldest_age_seconds",
            "Since when the oldest database of the pool is in its state",
            self.pool_oldest.clone(),
        );
    }

    fn register_pruning(&self, registry: &mut Registry) {
        registry.register(
            "pruned_rows",
            "Rows that went because they were old",
            self.pruned_rows.clone(),
        );
        registry.register(
            "prune_last_success_timestamp_seconds",
            "When the scheduled job that prunes succeeded last",
            self.last_pruned.clone(),
        );
    }

    /// A webhook delivery was answered. `event_type` is one that has a meaning for us, or "other".
    pub fn delivery(&self, source: &str, event_type: &str, outcome: &'static str, took: Duration) {
        let labels = DeliveryLabels {
            source: source.to_owned(),
            event_type: event_type.to_owned(),
            outcome,
        };
        self.deliveries.get_or_create(&labels).inc();
        self.ack_seconds
            .get_or_create(&SourceLabel {
                source: source.to_owned(),
            })
            .observe(took.as_secs_f64());
    }

    /// An HTTP request was answered.
    pub fn request(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let labels = RequestLabels {
            method,
            route: route.to_owned(),
            status,
        };
        self.requests
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// An attempt of a job ended.
    pub fn job_attempt_ended(&self, kind: &'static str, outcome: &'static str) {
        self.attempts
            .get_or_create(&AttemptLabels { kind, outcome })
            .inc();
    }

    /// Old rows of this kind went.
    pub fn pruned(&self, kind: &'static str, rows: u64) {
        self.pruned_rows
            .get_or_create(&KindLabel { kind })
            .inc_by(rows);
    }

    /// An attempt to deliver a notification ended.
    pub fn notification_tried(&self, endpoint: &str, outcome: &'static str) {
        let endpoint = endpoint.to_owned();
        self.notification_attempts
            .get_or_create(&NotificationLabels { endpoint, outcome })
            .inc();
    }

    /// An attempt at a target of a fleet run ended.
    pub fn fleet_target_ended(&self, outcome: &'static str) {
        self.fleet_targets
            .get_or_create(&OutcomeLabel { outcome })
            .inc();
    }

    /// A step of provisioning was done.
    pub fn step_done(&self, step: &'static str, took: Duration) {
        self.step_seconds
            .get_or_create(&StepLabel { step })
            .observe(took.as_secs_f64());
    }

    /// A tenant became ready, with a database from the pool or with one of its own making.
    pub fn tenant_ready(&self, from_pool: bool, since_receipt: Duration) {
        let path = if from_pool { "pool" } else { "cold" };
        self.provision_seconds
            .get_or_create(&PathLabel { path })
            .observe(since_receipt.as_secs_f64());
    }

    /// An issuer's keys were fetched.
    pub fn jwks_refreshed(&self, issuer: &str) {
        self.jwks_ended(issuer, "ok");
        let mut fetched = self
            .jwks_fetched
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        fetched.insert(issuer.to_owned(), Instant::now());
    }

    /// An issuer's keys could not be fetched, or not be used.
    pub fn jwks_failed(&self, issuer: &str) {
        self.jwks_ended(issuer, "failed");
    }

    fn jwks_ended(&self, issuer: &str, result: &'static str) {
        let issuer = issuer.to_owned();
        self.jwks_refreshes
            .get_or_create(&RefreshLabels { issuer, result })
            .inc();
    }

    /// Ages are those of the moment in which somebody asks.
    fn age_keys(&self) {
        let fetched = self
            .jwks_fetched
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (issuer, at) in fetched.iter() {
            let issuer = issuer.clone();
            self.jwks_age
                .get_or_create(&IssuerLabel { issuer })
                .set(at.elapsed().as_secs_f64());
        }
    }

    /// The pool's connections: open and idle.
    pub fn connections(&self, (open, idle): (usize, usize)) {
        let count = |connections| i64::try_from(connections).unwrap_or(i64::MAX);
        self.connections
            .get_or_create(&StateLabel {
                state: "idle".to_owned(),
            })
            .set(count(idle));
        self.connections
            .get_or_create(&StateLabel {
                state: "busy".to_owned(),
            })
            .set(count(open.saturating_sub(idle)));
    }

    /// The Prometheus text format.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        self.age_keys();
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
