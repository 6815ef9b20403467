//! `tenantry events ls|get`.

use serde::Serialize;

use super::{Failure, Globals, access};
use crate::inbox::{self, Event, Filter};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List received events, newest first
    Ls {
        /// Only events in this state: received, waiting, processed, ignored, failed or conflict
        #[arg(long, value_parser = ["received", "waiting", "processed", "ignored", "failed", "conflict"])]
        state: Option<String>,
        /// Only events that wait for an object that nobody has described yet: --state waiting
        #[arg(long, conflicts_with = "state")]
        waiting: bool,
        /// Only events of this source
        #[arg(long)]
        source: Option<String>,
        /// Only events about this organization
        #[arg(long, value_name = "ID")]
        organization: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show an event, and deliveries of its id with another body
    Get {
        /// The sender's id, or our number
        event: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// An event as it is printed.
#[derive(Serialize)]
struct Shown<'a> {
    id: i64,
    source: &'a str,
    event_id: &'a str,
    event_type: &'a str,
    organization_id: Option<&'a str>,
    state: &'a str,
    reason: Option<&'a str>,
    waiting_for: Option<&'a [String]>,
    deliveries: i32,
    occurred_at: Option<chrono::DateTime<chrono::Utc>>,
    received_at: chrono::DateTime<chrono::Utc>,
    settled_at: Option<chrono::DateTime<chrono::Utc>>,
}

fn shown(event: &Event) -> Shown<'_> {
    Shown {
        id: event.id,
        source: &event.source,
        event_id: &event.event_id,
        event_type: &event.event_type,
        organization_id: event.organization_id.as_deref(),
        state: &event.state,
        reason: event.reason.as_deref(),
        waiting_for: event.waiting_for.as_deref(),
        deliveries: event.deliveries,
        occurred_at: event.occurred_at,
        received_at: event.received_at,
        settled_at: event.settled_at,
    }
}

pub(super) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let access = access::open(globals)?;
    match command {
        Command::Ls {
            state,
            waiting,
            source,
            organization,
            limit,
            json,
        } => {
            let filter = Filter {
                state: state.or_else(|| waiting.then(|| "waiting".to_owned())),
                source,
                organization_id: organization,
                limit: limit.into(),
            };
            let events = access
                .db
                .run(async |connection| inbox::list(connection, &filter).await)
                .await?;
            list(globals, &events, json)
        }
        Command::Get { event, json } => {
            let events = access
                .db
                .run(async |connection| inbox::find(connection, &event).await)
                .await?;
            if events.is_empty() {
                return Err(Failure::failed(
                    format!("no event {event:?}"),
                    "tenantry events ls",
                ));
            }
            get(globals, &events, json)
        }
    }
}

fn list(globals: &Globals, events: &[Event], json: bool) -> Result<(), Failure> {
    if json {
        return globals
            .printer
            .json(&events.iter().map(shown).collect::<Vec<_>>());
    }
    if events.is_empty() {
        globals
            .printer
            .talk("no events; try: tenantry trigger organization.created --name Acme");
        return Ok(());
    }
    let row = |event: &Event| {
        vec![
            event.id.to_string(),
            event.received_at.format("%Y-%m-%d %H:%M:%S").to_string(),
            event.state.clone(),
            format!("×{}", event.deliveries),
            event.source.clone(),
            event.event_type.chars().take(40).collect(),
            event.event_id.chars().take(50).collect(),
            why(event).chars().take(60).collect(),
        ]
    };
    let header = [
        "ID",
        "RECEIVED (UTC)",
        "STATE",
        "SEEN",
        "SOURCE",
        "TYPE",
        "EVENT",
        "REASON",
    ];
    globals.printer.table(&header, events.iter().map(row));
    Ok(())
}

/// What an event waits for, else why it is as it is.
fn why(event: &Event) -> String {
    match (&event.waiting_for, &event.reason) {
        (Some(objects), _) if event.state == "waiting" => {
            format!("waits for {}", objects.join(", "))
        }
        (_, Some(reason)) => reason.clone(),
        (_, None) => String::new(),
    }
}

fn get(globals: &Globals, events: &[Event], json: bool) -> Result<(), Failure> {
    if json {
        return globals
            .printer
            .json(&events.iter().map(shown).collect::<Vec<_>>());
    }
    for event in events {
        let time = |at: Option<chrono::DateTime<chrono::Utc>>| {
            at.map_or_else(|| "—".to_owned(), |at| at.to_rfc3339())
        };
        let rows = [
            ("id", event.id.to_string()),
            ("event", format!("{} of {}", event.event_id, event.source)),
            ("type", event.event_type.clone()),
            (
                "organization",
                event
                    .organization_id
                    .clone()
                    .unwrap_or_else(|| "—".to_owned()),
            ),
            ("state", event.state.clone()),
            (
                "reason",
                event.reason.clone().unwrap_or_else(|| "—".to_owned()),
            ),
            (
                "waiting for",
                event
                    .waiting_for
                    .as_ref()
                    .map_or_else(|| "—".to_owned(), |objects| objects.join(", ")),
            ),
            ("deliveries", event.deliveries.to_string()),
            ("occurred", time(event.occurred_at)),
            ("received", time(Some(event.received_at))),
            ("settled", time(event.settled_at)),
        ];
        for (label, value) in rows {
            globals.printer.data(format!("{label:<14}{value}"));
        }
    }
    Ok(())
}
