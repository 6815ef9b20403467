//! tenantry turns identity events into ready tenants.

pub mod private_postgres;
