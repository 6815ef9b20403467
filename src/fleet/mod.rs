//! Station 7, KEPT: the fleet of all tenants' databases.

pub mod drift;
pub mod exec;
mod reach;

pub use reach::{Named, Reach, Unreached};
