//! The one integration-test binary.

mod blueprint;
mod private_postgres;
mod webhooks;
