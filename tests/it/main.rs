//! The one integration-test binary.
#![expect(
    unreachable_pub,
    reason = "one binary: what is public is public to its modules"
)]
#![expect(
    clippy::print_stdout,
    reason = "the harness shows it when a test fails"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod support;

mod architecture;
mod blueprint;
mod cli;
mod crash;
mod docs;
mod path;
mod private_postgres;
mod webhooks;
