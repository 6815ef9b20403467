//! The one integration-test binary.
#![expect(
    unreachable_pub,
    reason = "one binary: what is public is public to its modules"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod support;

mod architecture;
mod bench;
mod blueprint;
mod path;
mod private_postgres;
mod webhooks;
