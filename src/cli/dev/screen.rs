//! The one screen that `dev` shows when the first tenant is ready.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::super::{printer::Printer, timeline::Story};
use crate::private_postgres::PrivatePostgres;

/// What the screen shows.
pub(super) struct Screen {
    pub(super) story: Story,
    pub(super) tenant_url: String,
    pub(super) webhook_url: String,
    pub(super) webhook_secret: String,
    pub(super) blueprint: String,
    /// The key that was just made; `None` where there was one before.
    pub(super) api_key: Option<SecretString>,
}

const ANOTHER_KEY: &str = "tenantry keys create --name NAME --scope admin";

const NEXT: &str = "
next, from another terminal:
  tenantry trigger organization.created --name \"Globex\"
  tenantry tenants ls
  tenantry events ls
  tenantry init                  a blueprint of your own
(tenantry is `cargo run --` in a checkout; Ctrl-C ends this one and its Postgres)";

impl Screen {
    pub(super) fn print(&self, printer: Printer, postgres: &PrivatePostgres, took: Duration) {
        let Story {
            tenant,
            steps,
            total_ms,
        } = &self.story;
        printer.data(format!(
            "\ntenantry {} · Postgres {} on port {} · up in {:.1} s\n",
            env!("CARGO_PKG_VERSION"),
            postgres.version(),
            postgres.port(),
            took.as_secs_f64(),
        ));
        printer.data(format!(
            "organization.created ─▶ tenant {} is ready after {total_ms:.1} ms",
            tenant.url
        ));
        for step in steps {
            printer.step(&step.name, step.duration_ms);
        }
        printer.data(format!(
            "
  database   {} (schema {})
  blueprint  {}
  connect    psql '{}'

  webhooks   {}
  secret     {}",
            tenant.database,
            tenant.alembic_version,
            self.blueprint,
            self.tenant_url,
            self.webhook_url,
            self.webhook_secret
        ));
        match &self.api_key {
            Some(key) => printer.data(format!(
                "  api key    {}
             may do everything; shown this once. Another: {ANOTHER_KEY}",
                key.expose_secret()
            )),
            None => printer.data(format!("  api key    {ANOTHER_KEY}")),
        }
        printer.data(NEXT);
    }
}
