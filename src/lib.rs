//! tenantry turns identity events into ready tenants.
