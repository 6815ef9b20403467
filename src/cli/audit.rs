//! `tenantry audit ls`.

use super::{Failure, Globals, access};
use crate::{
    audit::{self, Entry, Filter},
    page::Asked,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List who changed what, newest first
    Ls {
        /// Only changes of this organization
        #[arg(long, value_name = "ID")]
        organization: Option<String>,
        /// Only what this event, key, user or operator did
        #[arg(long, value_name = "ID")]
        actor: Option<String>,
        /// Only this action, such as membership.changed
        #[arg(long)]
        action: Option<String>,
        /// Only what was done to this kind of thing, such as tenant
        #[arg(long, value_name = "KIND")]
        target_kind: Option<String>,
        /// Only what was done to this one
        #[arg(long, value_name = "ID")]
        target: Option<String>,
        /// The most to show
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let Command::Ls {
        organization,
        actor,
        action,
        target_kind,
        target,
        limit,
        json,
    } = command;
    let access = access::open(globals)?;
    let filter = Filter {
        org_id: organization,
        actor,
        action,
        target_kind,
        target,
    };
    let list = async |connection: &mut _| {
        audit::list_page(connection, &filter, &Asked::first(limit)).await
    };
    let entries = access.db.run(list).await?.data;
    if json {
        return globals.printer.json(&entries);
    }
    let row = |entry: &Entry| {
        let value = |value: &Option<serde_json::Value>| {
            let text = value.as_ref().map(ToString::to_string);
            text.unwrap_or_default().chars().take(60).collect()
        };
        vec![
            entry.id.to_string(),
            entry.at.format("%Y-%m-%d %H:%M:%S").to_string(),
            format!(
                "{} {}",
                entry.actor_kind,
                entry.actor.as_deref().unwrap_or_default()
            ),
            entry.action.clone(),
            entry.target.clone(),
            value(&entry.before),
            value(&entry.after),
        ]
    };
    let header = [
        "ID", "AT (UTC)", "BY", "ACTION", "TARGET", "BEFORE", "AFTER",
    ];
    globals.printer.table(&header, entries.iter().map(row));
    Ok(())
}
