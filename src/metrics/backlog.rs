//! What only the database knows: its figures, as whoever asks it gives them. Data only.

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
    /// Databases of the pool by state, and the age of the oldest in seconds.
    pub pool: Vec<(String, i64, f64)>,
}
