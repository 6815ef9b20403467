//! Outgoing notifications: what happened to tenants and members, told to configured URLs.
//!
//! ```text
//!  a change ─▶ outbox (same transaction) ─▶ job deliver_notifications ─▶ sender ─▶ the endpoint
//!              notifications                one per endpoint and tenant    signed
//!              notification_deliveries      the head of its line           ◀─ 2xx · again later · given up
//! ```
//!
//! Guarantees: a notification is written in the transaction of the change, or neither is; it is sent at
//! least once to each endpoint that wanted its type then, always under the same id; of one tenant an
//! endpoint is told in the order of the commits, a later one only after the one before was delivered or
//! given up; no credential is in it. Where nobody listens, nothing is written.
//!
//! Does not: decide when a job runs (`queue` does) or what a change is (triggers of migration 0012, `members`).

mod endpoints;
mod line;
mod look;
mod outbox;
mod prune;
mod replay;
mod resolver;
mod schedule;
mod sender;

pub use endpoints::{
    Endpoint, count_disabled, disable, enable, keep_going, list_endpoints, sync_endpoints,
};
pub use line::{Head, Outgoing, find_head, record_attempt};
pub use look::{
    Attempt, Backlog, Delivery, DeliveryState, Detailed, Filter, Notification, count, find,
    list_page,
};
pub use outbox::{announce_members, are_members_told};
pub use prune::{count_old, prune};
pub use replay::{list_failed, replay, replay_line};
pub use schedule::Next;
pub use sender::{AttemptError, Sender, SetupError, Tried};

/// Before a notification is sent.
pub const FAULT_SENDING: &str = "notification.sending";
/// Between sending and recording.
pub const FAULT_SENT: &str = "notification.sent";

/// Where a test can make a delivery fail.
pub const FAULT_POINTS: [&str; 2] = [FAULT_SENDING, FAULT_SENT];

/// Why something cannot be done about notifications.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database does not answer, or refuses.
    #[error("the notifications cannot be read or written")]
    Sql(#[from] sqlx::Error),
    /// No notification has this id.
    #[error("there is no notification {0}")]
    Unknown(uuid::Uuid),
    /// Nobody is told under this name, or was not told of this.
    #[error("there is no endpoint {0:?} that is, or was to be, told of it")]
    EndpointUnknown(String),
}

impl Error {
    /// Stable code, explained in docs/errors.md.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Sql(_) => "control_database_unavailable",
            Self::Unknown(_) => "notification_unknown",
            Self::EndpointUnknown(_) => "notification_endpoint_unknown",
        }
    }

    /// What to do.
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::Sql(_) => "try again; `tenantry doctor` checks what tenantry needs",
            Self::Unknown(_) => "list them: `tenantry notifications ls`, or GET /v1/notifications",
            Self::EndpointUnknown(_) => "list them: `tenantry notifications endpoints`",
        }
    }
}
