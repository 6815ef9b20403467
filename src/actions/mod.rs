//! What somebody may ask for: who signs up, the application, an operator.
//!
//! Guarantees: the change, its audit rows and the jobs that follow from it are the caller's one transaction; what is
//! refused has changed nothing. Locks are taken in one order: the jobs that make or undo a tenant, the tenant, its registration;
//! a job that is only roused comes last.
//!
//! Does not: run jobs (`jobs` does), or know how it was asked (`http` and `cli` do).

mod abandon_registration;
mod jobs;
mod members;
mod refusal;
mod register;
mod replay_event;
mod tenants;

pub use abandon_registration::abandon_registration;
pub use jobs::{cancel_job, retry_job};
pub use members::MemberDesk;
pub use refusal::Refusal;
pub use register::{Asking, NotRegistered, RegistrationDesk};
pub use replay_event::replay_event;
pub use tenants::{
    Relabel, abandon_tenant, label_tenant, resume_tenant, retry_tenant, suspend_tenant,
};
