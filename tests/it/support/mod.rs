//! What tests are written in: an application of its own per test, on one real Postgres per run.

pub mod api;
pub mod app;
pub mod bodies;
pub mod browser;
pub mod cluster;
pub mod deployment;
pub mod dice;
pub mod documents;
pub mod events;
pub mod fleet;
pub mod history;
pub mod issuer;
pub mod migrations;
pub mod people;
pub mod pool;
pub mod process;
pub mod provider;
pub mod proxy;
pub mod signer;
pub mod sink;
pub mod team;
pub mod tiny;
pub mod tokens;

pub use api::Api;
pub use app::App;
pub use deployment::Deployment;
pub use fleet::Fleet;
pub use migrations::Migrations;
pub use provider::Provider;
pub use sink::Sink;
pub use tiny::TinyBlueprint;
