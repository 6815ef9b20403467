"""The tenants' application: its tables come from migrations in SQL."""
