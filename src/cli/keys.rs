//! `tenantry keys create|ls|rotate|revoke`.
//!
//! Guarantees: the text of a key goes to standard output alone, once; whoever names a key by its
//! whole text does not see it repeated.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::{Exit, Failure, Globals, access, duration};
use crate::{
    api_keys::{self, ApiKey, Error, NewKey, Scope, Scopes, Standing},
    causes::chain,
    db::Db,
};

const SCOPES: &str = "What a key may do:
  tenants:read         look at tenants
  tenants:write        retry, suspend, delete them
  tenants:connect      get the password with which a tenant's role connects
  members:read         look at members, invitations and assignments
  members:write        remove, restore, invite, assign
  events:read          look at events and jobs
  events:write         replay events, retry and cancel jobs
  fleet:read           look at fleet runs
  fleet:write          begin, pause, resume, retry and abort them
  registrations:write  ask for registrations
  audit:read           read the audit log
  admin                everything
members:*, events:* and fleet:* stand for reading and writing, and so does
tenants:*: it does not include tenants:connect, which has to be named.
A form key (--form) is public: it stands in a web page, works from pages of its
origins alone, and can post registrations and nothing else.";

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a key; its text is shown once
    #[command(after_help = SCOPES)]
    Create(Wanted),
    /// List the keys, newest first
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a key a new text, shown once; the old one works a while longer
    Rotate {
        #[command(flatten)]
        key: OfKey,
        /// How long the old text works, such as 15m; 0s for not at all
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration::parse)]
        overlap: Duration,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// End a key at once and for good
    Revoke {
        #[command(flatten)]
        key: OfKey,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    /// What the key is for
    #[arg(long)]
    name: String,
    /// What it may do; may be given several times
    #[arg(long = "scope", value_name = "SCOPE", required_unless_present = "form", conflicts_with = "form", value_delimiter = ',', value_parser = Scopes::parse)]
    scopes: Vec<Scopes>,
    /// Make a form key, which may stand in a web page
    #[arg(long, requires = "origins")]
    form: bool,
    /// Origin of pages that may use the form key, such as `https://app.example.com`; may be given several times
    #[arg(long = "origin", value_name = "ORIGIN", requires = "form")]
    origins: Vec<String>,
    /// Refuse it after so long, such as 90d [default: never]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    expires: Option<Duration>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct OfKey {
    /// Id of the key: what stands between `tnt_` and the next `_`
    #[arg(value_name = "ID", value_parser = parse_id)]
    id: String,
}

/// The id in whatever of a key somebody gives; never fails, because a failure would show the text.
#[expect(
    clippy::unnecessary_wraps,
    reason = "what a parser of arguments returns"
)]
fn parse_id(text: &str) -> Result<String, String> {
    let text = text.trim();
    let rest = text.strip_prefix("tnt_").unwrap_or(text);
    Ok(rest.split('_').next().unwrap_or(rest).to_owned())
}

pub(super) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let db = access::open(globals)?.db;
    match command {
        Command::Create(wanted) => create(globals, &db, wanted).await,
        Command::Ls { json } => list(globals, &db, json).await,
        Command::Rotate { key, overlap, json } => {
            rotate(globals, &db, (&key.id, overlap), json).await
        }
        Command::Revoke { key, json } => revoke(globals, &db, &key.id, json).await,
    }
}

async fn create(globals: &Globals, db: &Db, wanted: Wanted) -> Result<(), Failure> {
    let expires_at = match wanted.expires {
        Some(after) => Some(db.server_clock().await? + delta(after)),
        None => None,
    };
    let of_form = wanted
        .form
        .then(|| Scopes::from_iter([Scope::RegistrationsSubmit]));
    let new = NewKey {
        name: wanted.name,
        scopes: wanted.scopes.into_iter().chain(of_form).collect(),
        origins: wanted.origins,
        expires_at,
    };
    let actor = globals.operator();
    let created = db
        .transaction(async |tx| api_keys::create(tx, &new, &actor).await)
        .await;
    let (key, text) = created.map_err(refused)?;
    let until = match key.expires_at {
        Some(at) => format!("until {} UTC", time(at)),
        None => "until it is revoked".to_owned(),
    };
    let talk = match &key.origins {
        Some(origins) => format!(
            "form key {} ({}) may stand in pages of {}, {until}",
            key.id,
            key.name,
            origins.join(" ")
        ),
        None => format!("key {} ({}) may: {}, {until}", key.id, key.name, key.scopes),
    };
    show(globals, (&key, &text), &talk, wanted.json)
}

async fn list(globals: &Globals, db: &Db, json: bool) -> Result<(), Failure> {
    let keys = db.run(api_keys::list).await?;
    if json {
        return globals.printer.json(&keys);
    }
    if keys.is_empty() {
        globals
            .printer
            .talk("no API keys yet; try: tenantry keys create --name ci --scope tenants:read");
        return Ok(());
    }
    let now = db.server_clock().await?;
    let at = |at: Option<DateTime<Utc>>| at.map_or_else(|| "—".to_owned(), time);
    let row = |key: ApiKey| {
        vec![
            key.id.clone(),
            standing(&key, now),
            key.name.chars().take(30).collect(),
            key.scopes.to_string(),
            key.origins
                .map_or_else(|| "—".to_owned(), |origins| origins.join(" ")),
            time(key.created_at),
            at(key.expires_at),
            at(key.last_used_at),
            key.created_by,
        ]
    };
    let header = [
        "ID",
        "STATE",
        "NAME",
        "SCOPES",
        "ORIGINS",
        "CREATED (UTC)",
        "EXPIRES",
        "LAST USED",
        "BY",
    ];
    globals.printer.table(&header, keys.into_iter().map(row));
    Ok(())
}

async fn rotate(
    globals: &Globals,
    db: &Db,
    (id, overlap): (&str, Duration),
    json: bool,
) -> Result<(), Failure> {
    let actor = globals.operator();
    let rotated = db
        .transaction(async |tx| api_keys::rotate(tx, id, overlap, &actor).await)
        .await;
    let (key, text) = rotated.map_err(refused)?;
    let talk = match key.previous_until {
        Some(until) if !overlap.is_zero() => {
            format!(
                "key {id} rotated; the old text works until {} UTC",
                time(until)
            )
        }
        _ => format!("key {id} rotated; the old text does not work any more"),
    };
    show(globals, (&key, &text), &talk, json)
}

async fn revoke(globals: &Globals, db: &Db, id: &str, json: bool) -> Result<(), Failure> {
    let actor = globals.operator();
    let revoked = db
        .transaction(async |tx| api_keys::revoke(tx, id, &actor).await)
        .await;
    let key = revoked.map_err(refused)?;
    if json {
        return globals.printer.json(&key);
    }
    globals.printer.data(&key.id);
    globals
        .printer
        .talk("revoked; a replica that does not hear of it refuses the key within ten seconds");
    Ok(())
}

/// The text alone as the result; once.
fn show(
    globals: &Globals,
    (key, text): (&ApiKey, &SecretString),
    talk: &str,
    json: bool,
) -> Result<(), Failure> {
    let printer = globals.printer;
    if json {
        return printer.json(&json!({ "text": text.expose_secret(), "key": key }));
    }
    printer.data(text.expose_secret());
    printer.talk(talk);
    printer.talk("this is the only time that it is shown");
    Ok(())
}

/// The key of a new `dev`: for everything. `None` where some key was made before.
pub(super) async fn create_first(
    globals: &Globals,
    db: &Db,
) -> Result<Option<SecretString>, Failure> {
    let new = NewKey {
        name: "dev".to_owned(),
        // both, so that the list says it
        scopes: [Scope::Admin, Scope::TenantsConnect].into_iter().collect(),
        origins: Vec::new(),
        expires_at: None,
    };
    let actor = globals.operator();
    let created = db.transaction(async |tx| {
        if !api_keys::list(tx).await?.is_empty() {
            return Ok(None);
        }
        let (_, text) = api_keys::create(tx, &new, &actor).await?;
        Ok(Some(text))
    });
    created.await.map_err(refused)
}

fn standing(key: &ApiKey, now: DateTime<Utc>) -> String {
    let word = match key.standing(now) {
        Standing::Revoked => "revoked",
        Standing::Expired => "expired",
        Standing::Active if key.previous_until.is_some_and(|until| now < until) => "rotating",
        Standing::Active => "active",
    };
    word.to_owned()
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

fn delta(duration: Duration) -> TimeDelta {
    // the parser takes a century at most
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

fn refused(error: Error) -> Failure {
    let (exit, hint) = match error {
        Error::Sql(error) => return error.into(),
        Error::NotMade(_) => (
            Exit::Unexpected,
            "try again; `tenantry doctor` checks the rest",
        ),
        Error::Unknown(_) => (Exit::Failed, "tenantry keys ls"),
        Error::Revoked(_) | Error::Expired(_) => (
            Exit::Failed,
            "make another: tenantry keys create --name NAME --scope SCOPE",
        ),
        Error::BadName => (Exit::Usage, "give a short one, such as --name ci"),
        Error::NoScope => (Exit::Usage, "give one, such as --scope tenants:read"),
        Error::ExpiryPassed => (Exit::Usage, "give a time to come, such as --expires 90d"),
        Error::OriginsMissing | Error::FormScopes => (
            Exit::Usage,
            "tenantry keys create --name NAME --form --origin https://app.example.com",
        ),
        Error::OriginInvalid(_) => (
            Exit::Usage,
            "give scheme and host, no path, no *, such as --origin https://app.example.com",
        ),
    };
    let message = format!("{} [{}]", chain(&error), error.code());
    Failure::new(exit, message, hint)
}
