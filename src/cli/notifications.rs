//! `tenantry notifications ls|get|replay|endpoints|enable`.

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::json;
use uuid::Uuid;

use super::{
    Failure, Globals,
    access::{self, Access},
    duration, tenants,
};
use crate::{
    config::NotificationType,
    notifications::{self, Delivery, DeliveryState, Endpoint, Filter, Notification},
    page::Asked,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List notifications, newest first
    Ls {
        /// Only those in this state at some endpoint: pending, delivered or failed
        #[arg(long, value_parser = parse_state)]
        state: Option<DeliveryState>,
        /// Only those for this endpoint
        #[arg(long, value_name = "NAME")]
        endpoint: Option<String>,
        /// Only those of this type, such as tenant.ready
        #[arg(long = "type", value_name = "TYPE", value_parser = parse_type)]
        kind: Option<NotificationType>,
        /// Only those about this tenant: id, organization id, host or database
        #[arg(long)]
        tenant: Option<String>,
        /// The most to show
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a notification and its attempts
    Get {
        /// Its id, as in webhook-id
        id: Uuid,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell once more, under the same id: one notification, or all that were given up since
    Replay {
        /// Its id, as in webhook-id
        #[arg(
            required_unless_present = "failed_since",
            conflicts_with = "failed_since"
        )]
        id: Option<Uuid>,
        /// All that were given up since: a time such as 2026-11-16T09:00:00Z, a day, or how long ago, such as 2h
        #[arg(long, value_name = "WHEN")]
        failed_since: Option<String>,
        /// Only at this endpoint
        #[arg(long, value_name = "NAME")]
        endpoint: Option<String>,
    },
    /// List who is told, and who is disabled
    Endpoints {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Enable an endpoint that answered 410; what waited for it is told
    Enable {
        /// Its name in [notifications.<name>]
        endpoint: String,
    },
}

fn parse_state(text: &str) -> Result<DeliveryState, String> {
    serde_json::from_value(json!(text)).map_err(|_| "pending, delivered or failed".to_owned())
}

fn parse_type(text: &str) -> Result<NotificationType, String> {
    serde_json::from_value(json!(text)).map_err(|_| {
        let names = NotificationType::ALL.map(NotificationType::name);
        names.join(", ")
    })
}

/// A moment as it is typed, or so long before `now`.
fn parse_since(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.to_utc());
    }
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Some(day.and_hms_opt(0, 0, 0)?.and_utc());
    }
    now.checked_sub_signed(chrono::TimeDelta::from_std(duration::parse(text).ok()?).ok()?)
}

pub(super) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let access = access::open(globals)?;
    match command {
        Command::Ls {
            state,
            endpoint,
            kind,
            tenant,
            limit,
            json,
        } => {
            let tenant = match tenant {
                Some(tenant) => Some(tenants::find(&access, &tenant).await?.id.0),
                None => None,
            };
            let filter = Filter {
                kind,
                tenant,
                state,
                endpoint,
            };
            list(globals, &access, &filter, (limit, json)).await
        }
        Command::Get { id, json } => get(globals, &access, id, json).await,
        Command::Replay {
            id: Some(id),
            endpoint,
            ..
        } => {
            let actor = globals.operator();
            let replay =
                async |tx: &mut _| notifications::replay(tx, id, endpoint.as_deref(), &actor).await;
            let replayed = access.change(replay).await?;
            globals.printer.data(replayed.notification.id.to_string());
            globals.printer.talk(format!(
                "it is told once more; see what becomes of it: tenantry notifications get {id}"
            ));
            Ok(())
        }
        Command::Replay {
            failed_since,
            endpoint,
            ..
        } => {
            let since = failed_since.unwrap_or_default();
            let at = parse_since(&since, std::time::SystemTime::now().into());
            let at = at.ok_or_else(|| {
                let hint =
                    "give a time such as 2026-11-16T09:00:00Z, a day such as 2026-11-16, or 2h";
                Failure::new(super::Exit::Usage, format!("{since:?} is no time"), hint)
            })?;
            replay_failed(globals, &access, at, endpoint.as_deref()).await
        }
        Command::Endpoints { json } => list_endpoints(globals, &access, json).await,
        Command::Enable { endpoint } => {
            let enabled = notifications::enable(&access.db, &endpoint, &globals.operator()).await?;
            globals.printer.data(&endpoint);
            globals.printer.talk(if enabled {
                "it is enabled; what waited for it is told"
            } else {
                "it was enabled already"
            });
            Ok(())
        }
    }
}

async fn replay_failed(
    globals: &Globals,
    access: &Access,
    since: DateTime<Utc>,
    endpoint: Option<&str>,
) -> Result<(), Failure> {
    let list =
        async |connection: &mut _| notifications::list_failed(connection, since, endpoint).await;
    let (lines, actor) = (access.db.run(list).await?, globals.operator());
    let mut replayed = 0;
    for line in &lines {
        let replay = async |tx: &mut _| notifications::replay_line(tx, line, since, &actor).await;
        replayed += access.change(replay).await?;
    }
    globals.printer.data(replayed.to_string());
    globals.printer.talk(format!(
        "{replayed} notification(s) are told once more, of those given up since {}",
        since.to_rfc3339()
    ));
    Ok(())
}

async fn list(
    globals: &Globals,
    access: &Access,
    filter: &Filter,
    (limit, json): (u32, bool),
) -> Result<(), Failure> {
    let list_page = async |connection: &mut _| {
        notifications::list_page(connection, filter, &Asked::first(limit)).await
    };
    let found = access.db.run(list_page).await?.data;
    if json {
        return globals.printer.json(&found);
    }
    if found.is_empty() {
        globals
            .printer
            .talk("no notifications; who is told: tenantry notifications endpoints");
        return Ok(());
    }
    let row = |notification: Notification| {
        let told = notification.deliveries.iter().map(shown);
        vec![
            notification.id.to_string(),
            notification
                .created_at
                .format("%Y-%m-%d %H:%M:%S")
                .to_string(),
            notification.kind,
            notification.tenant_id.to_string(),
            told.collect::<Vec<_>>().join(", "),
        ]
    };
    let header = ["ID", "AT (UTC)", "TYPE", "TENANT", "ENDPOINTS"];
    globals.printer.table(&header, found.into_iter().map(row));
    Ok(())
}

fn shown(delivery: &Delivery) -> String {
    let (endpoint, state) = (&delivery.endpoint, delivery.state.name());
    match (delivery.state, delivery.attempts) {
        (DeliveryState::Delivered, 1) | (DeliveryState::Pending, 0) => {
            format!("{endpoint} {state}")
        }
        (_, attempts) => format!("{endpoint} {state} ×{attempts}"),
    }
}

async fn get(globals: &Globals, access: &Access, id: Uuid, json: bool) -> Result<(), Failure> {
    let find = async |connection: &mut _| notifications::find(connection, id).await;
    let found = access.db.run(find).await?;
    if json {
        return globals.printer.json(&found);
    }
    let notification = found.notification;
    let rows = [
        ("id", notification.id.to_string()),
        ("type", notification.kind),
        ("tenant", notification.tenant_id.to_string()),
        ("at", notification.created_at.to_rfc3339()),
        ("data", notification.data.to_string()),
    ];
    for (label, value) in rows {
        globals.printer.data(format!("{label:<14}{value}"));
    }
    for delivery in &notification.deliveries {
        let due = delivery
            .due_at
            .map(|at| format!(", due {}", at.to_rfc3339()));
        let due = due.unwrap_or_default();
        globals
            .printer
            .data(format!("{:<14}{}{due}", "told", shown(delivery)));
    }
    for attempt in found.attempts {
        let status = attempt
            .status
            .map_or_else(|| "—".to_owned(), |it| it.to_string());
        let code = attempt.error_code.map(|code| format!(" [{code}]"));
        let answer = attempt.answer.map(|answer| format!(": {answer}"));
        globals.printer.data(format!(
            "  {} {:<4} {} {status} {:.0} ms {}{}{}",
            attempt.endpoint,
            attempt.attempt,
            attempt.started_at.format("%Y-%m-%d %H:%M:%S"),
            attempt.duration_ms,
            attempt.error.unwrap_or_default(),
            code.unwrap_or_default(),
            answer.unwrap_or_default(),
        ));
    }
    Ok(())
}

async fn list_endpoints(globals: &Globals, access: &Access, json: bool) -> Result<(), Failure> {
    let list = async |connection: &mut _| notifications::list_endpoints(connection).await;
    let found = access.db.run(list).await?;
    if json {
        return globals.printer.json(&found);
    }
    if found.is_empty() {
        globals
            .printer
            .talk("nobody is told; see docs/notifications.md");
        return Ok(());
    }
    let row = |endpoint: Endpoint| {
        let standing = match (endpoint.removed_at, endpoint.disabled_at) {
            (Some(_), _) => "not configured".to_owned(),
            (None, Some(at)) => format!("disabled since {}", at.format("%Y-%m-%d %H:%M:%S")),
            (None, None) => "enabled".to_owned(),
        };
        vec![
            endpoint.name,
            standing,
            endpoint
                .types
                .map_or_else(|| "all".to_owned(), |types| types.join(", ")),
            endpoint.pending.to_string(),
            endpoint.failed.to_string(),
            endpoint.disabled_reason.unwrap_or_default(),
        ]
    };
    let header = ["NAME", "STANDING", "TYPES", "PENDING", "FAILED", "REASON"];
    globals.printer.table(&header, found.into_iter().map(row));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_day_or_so_long_ago() {
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        let now = at("2026-11-16T12:00:00Z");
        for (text, expected) in [
            ("2026-11-15T10:00:00+02:00", "2026-11-15T08:00:00Z"),
            ("2026-11-15", "2026-11-15T00:00:00Z"),
            ("2h", "2026-11-16T10:00:00Z"),
        ] {
            assert_eq!(parse_since(text, now), Some(at(expected)), "{text}");
        }
        for text in ["", "yesterday", "2026-13-01", "2"] {
            assert_eq!(parse_since(text, now), None, "{text}");
        }
    }
}
