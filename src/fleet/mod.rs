//! Station 7, KEPT: fleet runs, one migration over all tenants; and looks at all their databases at once.
//!
//! ```text
//!  run:     preparing ─▶ running (wave by wave) ─▶ done | failed
//!               │ ▲         │ ▲                       │
//!               ▼ │ resume  ▼ │ resume                └─ resume, retry ─▶ running
//!             paused      paused            abort: unfinished, failed ─▶ aborted
//!
//!  target:  pending ─▶ running ─▶ done | skipped | failed
//!              ▲          │
//!              └── again ─┘ (a lock not had, a server away: later, a few times)
//! ```
//!
//! Guarantees: at most one run is unfinished; no tenant is touched before the template and the pool of
//! the new version are there on its cluster; any number of replicas share a run and any of them may die: what one had
//! begun is brought to its end by another; a target and its tenant's row are recorded in one
//! transaction, by whoever holds the job; the next wave begins when the one before has ended and few
//! enough have failed.
//!
//! Does not: know how a database is migrated. `provisioning::migrators` does.

mod change;
pub mod command;
pub mod drift;
mod dry_run;
pub mod exec;
mod goal;
mod held;
mod keep;
mod migrate;
mod pace;
mod portion;
mod prepare;
mod reach;
mod runs;
mod settle;
mod subjects;
mod targets;
mod work;

pub use change::{abort, create, pause, put_first, resume, retry};
pub use goal::known_hash;
pub use keep::{enqueue_missing, keep_going};
pub use pace::{Pace, find_pace};
pub use portion::{Portion, PortionInvalid};
pub use reach::{Named, Reach, Unreached};
pub use runs::{
    Counts, NewRun, RehearsalResult, Run, RunFailure, RunId, RunState, find, find_newest,
    find_newest_real, find_unfinished, list_page,
};
pub use targets::{Target, TargetFilter, TargetState, count_unfinished, list_targets};
pub use work::{Slot, work};

use crate::tenants::TenantId;

/// Templates and pools are there.
pub const FAULT_PREPARED: &str = "fleet.prepared";
/// Targets are taken.
pub const FAULT_TAKEN: &str = "fleet.taken";
/// Results are about to be recorded.
pub const FAULT_RECORDING: &str = "fleet.recording";
/// Results are recorded.
pub const FAULT_RECORDED: &str = "fleet.recorded";

/// Where a test can make a slot of a run fail.
pub const FAULT_POINTS: [&str; 4] = [FAULT_PREPARED, FAULT_TAKEN, FAULT_RECORDING, FAULT_RECORDED];

/// Why something cannot be done about fleet runs. Then nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database does not answer, or refuses.
    #[error("the fleet runs cannot be read or written")]
    Sql(#[from] sqlx::Error),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] crate::queue::Error),
    /// No run has this id.
    #[error("there is no fleet run {0}")]
    Unknown(RunId),
    /// Another run has not ended.
    #[error("fleet run {0} has not ended")]
    Active(RunId),
    /// The run is not in a state from which this leads on.
    #[error("fleet run {run} is {}, not {wanted}", state.name())]
    WrongState {
        /// The run.
        run: RunId,
        /// How it is.
        state: RunState,
        /// How it would have to be.
        wanted: &'static str,
    },
    /// The tenant does not wait in the run.
    #[error("tenant {tenant} does not wait in fleet run {run}")]
    NotWaiting {
        /// The run.
        run: RunId,
        /// The tenant.
        tenant: TenantId,
    },
    /// There is no database of the tenant to clone.
    #[error("tenant {0} is neither ready nor suspended")]
    NotKeptUp(TenantId),
}

impl Error {
    /// Stable code, explained in docs/errors.md.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Sql(_) | Self::Queue(_) => "control_database_unavailable",
            Self::Unknown(_) => "fleet_run_unknown",
            Self::Active(_) => "fleet_run_active",
            Self::WrongState { .. } => "fleet_run_wrong_state",
            Self::NotWaiting { .. } => "fleet_target_not_waiting",
            Self::NotKeptUp(_) => "not_kept_up",
        }
    }

    /// What to do.
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::Sql(_) | Self::Queue(_) => {
                "try again; `tenantry doctor` checks what tenantry needs"
            }
            Self::Unknown(_) => "list them: `tenantry fleet runs`, or GET /v1/fleet-runs",
            Self::Active(_) => {
                "wait for it, or end it: `tenantry fleet status`, `tenantry fleet abort`"
            }
            Self::WrongState { .. } => "look at it: `tenantry fleet status`",
            Self::NotWaiting { .. } => "look at it: `tenantry fleet targets`",
            Self::NotKeptUp(_) => "choose others: `tenantry tenants ls --state ready`",
        }
    }
}
