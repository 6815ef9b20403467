//! x

mod private_postgres;
