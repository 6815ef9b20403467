//! x

mod blueprint;
