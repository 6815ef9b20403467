"""tenantry and what people do instead, measured in turns on one Postgres."""
