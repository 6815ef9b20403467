//! `tenantry events ls|get|replay`.

use super::{
    Failure, Globals,
    access::{self, Access},
};
use crate::{
    actions,
    inbox::{self, Event, EventState, Filter},
    page::Asked,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List received events, newest first
    Ls {
        /// Only events in this state: received, waiting, processed, ignored, failed or conflict
        #[arg(long, value_parser = parse_state)]
        state: Option<EventState>,
        /// Only events that wait for an object that nobody has described yet: --state waiting
        #[arg(long, conflicts_with = "state")]
        waiting: bool,
        /// Only events of this source
        #[arg(long)]
        source: Option<String>,
        /// Only events of this type, such as organization.created
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
        /// Only events about this organization
        #[arg(long, value_name = "ID")]
        organization: Option<String>,
        /// The most to show
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
    /// Process a settled event once more
    Replay {
        /// The sender's id, or our number
        event: String,
    },
}

fn parse_state(text: &str) -> Result<EventState, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "received, waiting, processed, ignored, failed or conflict".to_owned())
}

pub(super) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let access = access::open(globals)?;
    match command {
        Command::Ls {
            state,
            waiting,
            source,
            event_type,
            organization,
            limit,
            json,
        } => {
            let filter = Filter {
                state: state.or_else(|| waiting.then_some(EventState::Waiting)),
                source,
                event_type,
                organization_id: organization,
            };
            let list_page = async |connection: &mut _| {
                inbox::list_page(connection, &filter, &Asked::first(limit)).await
            };
            list(globals, &access.db.run(list_page).await?.data, json)
        }
        Command::Get { event, json } => get(globals, &find(&access, &event).await?, json),
        Command::Replay { event } => replay(globals, &access, &event).await,
    }
}

/// The event and its conflicts.
async fn find(access: &Access, event: &str) -> Result<Vec<Event>, Failure> {
    let find = async |connection: &mut _| inbox::find(connection, event).await;
    let events = access.db.run(find).await?;
    if events.is_empty() {
        return Err(Failure::failed(
            format!("no event {event:?}"),
            "tenantry events ls",
        ));
    }
    Ok(events)
}

async fn replay(globals: &Globals, access: &Access, event: &str) -> Result<(), Failure> {
    let found = find(access, event).await?;
    // what lies beside an event with another body is not meant, unless its number was given
    let is_meant = |of: &&Event| of.id.to_string() == event || of.state != EventState::Conflict;
    let mut meant = found.iter().filter(is_meant);
    let (Some(first), None) = (meant.next(), meant.next()) else {
        return Err(Failure::failed(
            format!("{} events have the id {event:?}", found.len()),
            "give our number of the event: tenantry events get",
        ));
    };
    let (actor, max_attempts) = (globals.operator(), access.config.queue.max_attempts);
    let replay = async |tx: &mut _| actions::replay_event(tx, first.id, max_attempts, &actor).await;
    let replayed = access.change(replay).await?;
    globals.printer.data(replayed.id.to_string());
    globals.printer.talk(format!(
        "it is processed once more; see what becomes of it: tenantry events get {}",
        replayed.id
    ));
    Ok(())
}

fn list(globals: &Globals, events: &[Event], json: bool) -> Result<(), Failure> {
    if json {
        return globals.printer.json(&events);
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
            event.state.name().to_owned(),
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
        (Some(objects), _) if event.state == EventState::Waiting => {
            format!("waits for {}", objects.join(", "))
        }
        (_, Some(reason)) => reason.clone(),
        (_, None) => String::new(),
    }
}

fn get(globals: &Globals, events: &[Event], json: bool) -> Result<(), Failure> {
    if json {
        return globals.printer.json(&events);
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
            ("state", event.state.name().to_owned()),
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
            (
                "body",
                if event.has_body { "kept" } else { "pruned" }.to_owned(),
            ),
        ];
        for (label, value) in rows {
            globals.printer.data(format!("{label:<14}{value}"));
        }
    }
    Ok(())
}
