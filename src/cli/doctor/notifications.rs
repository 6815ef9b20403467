//! Checks of who is told: whether the hosts have addresses that may be connected to, and who is disabled.

use secrecy::ExposeSecret;

use super::Check;
use crate::{
    causes::chain,
    config::Config,
    db::Db,
    notifications::{self, Sender},
};

const NAME: &str = "notifications";

pub(super) async fn check(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, endpoint) in &config.notifications {
        let found = match Sender::new(endpoint) {
            Ok(sender) => sender.check_host().await.map_err(|error| error.to_string()),
            Err(error) => Err(chain(&error)),
        };
        checks.push(match found {
            Ok(()) => Check::pass(
                NAME,
                format!("{name} has an address that may be connected to"),
            ),
            Err(problem) => Check::fail(
                NAME,
                format!("{name}: {problem}"),
                format!("check notifications.{name}.url"),
            ),
        });
    }
    if !config.notifications.is_empty() {
        checks.extend(disabled(config).await);
    }
    checks
}

/// What the database knows of them; without it, others say that it is away.
async fn disabled(config: &Config) -> Vec<Check> {
    if config.database.url.expose_secret().is_empty() {
        return Vec::new();
    }
    let Ok(db) = Db::new(&config.database.url, 1) else {
        return Vec::new();
    };
    let list = async |connection: &mut _| notifications::list_endpoints(connection).await;
    let listed = db.run(list).await.unwrap_or_default();
    db.close().await;
    let disabled = listed
        .into_iter()
        .filter(|it| it.disabled_at.is_some() && it.removed_at.is_none());
    disabled
        .map(|it| {
            Check::warn(
                NAME,
                format!(
                    "{} is disabled: {}; {} notification(s) wait",
                    it.name,
                    it.disabled_reason.unwrap_or_default(),
                    it.pending
                ),
                format!("tenantry notifications enable {}", it.name),
            )
        })
        .collect()
}
