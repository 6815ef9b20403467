//! tenantry turns identity events into ready tenants.
//!
//! ```text
//! POST /webhooks/{source} ─▶ webhooks ─▶ inbox ─▶ queue ─▶ jobs ─▶ provisioning ─▶ tenants (ready)
//!                            verified    once     durable   run      step by step     ▲
//! POST /v1/registrations ───────────────▶ idempotency key ─▶ queue                    fleet keeps them migrated
//! ```
//!
//! The stations of an event, in order; a registration joins at the queue:
//!
//! 1. [`webhooks`] verifies bytes and reads them as an identity event. Pure.
//! 2. [`inbox`] records the event once and enqueues its job; only then is the sender answered.
//! 3. [`queue`] keeps jobs durably and hands each to one worker at a time.
//! 4. [`jobs`] knows what each job means.
//! 5. [`provisioning`] makes a tenant, step by step, each step checked and recorded.
//! 6. [`tenants`] are the rows and the states they go through.
//! 7. [`fleet`] keeps them migrated.
//!
//! The second way in is [`registrations`]: somebody signs up, once by their [`idempotency`] key, and follows.
//!
//! Beside the path stand [`actions`], what somebody may ask for besides; [`identity`], what providers said of their objects, joined so that order does
//! not matter; [`members`], who belongs to a tenant and what may be done about it; [`auth`] and
//! [`api_keys`], who asks and what they may; [`audit`], who changed what; [`notifications`], who is told
//! of it; and [`retention`], what goes when it is old.
//!
//! The edges are [`http`], [`cli`] and [`provider_api`]; [`mod@bench`] measures. The ground is [`config`], [`addresses`], [`causes`], [`db`] (the
//! control database), [`tenant_db`] (databases and roles), [`secrets`], [`metrics`], [`telemetry`],
//! [`shutdown`], [`faults`] and [`private_postgres`].

pub mod actions;
pub mod addresses;
pub mod api_keys;
pub mod audit;
pub mod auth;
pub mod bench;
pub mod blueprint;
pub mod causes;
pub mod cli;
pub mod config;
pub mod db;
pub mod faults;
pub mod fleet;
pub mod http;
pub mod idempotency;
pub mod identity;
pub mod inbox;
pub mod jobs;
pub mod members;
pub mod metrics;
pub mod notifications;
pub mod page;
pub mod private_postgres;
pub mod provider_api;
pub mod provisioning;
pub mod queue;
pub mod registrations;
pub mod replica;
pub mod retention;
pub mod secrets;
pub mod shutdown;
pub mod telemetry;
pub mod tenant_db;
pub mod tenants;
pub mod webhooks;
