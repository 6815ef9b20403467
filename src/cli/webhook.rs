//! `tenantry webhook sign|verify`: the verifier that the service uses, by hand.

use std::{fs, io::Read, path::PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;

use super::{Exit, Failure, Globals, sample};
use crate::webhooks::{self, Headers, SourceKind};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Print the headers that the sender would send with a body
    Sign(Signing),
    /// Say whether a delivery would be accepted: exit 0, or 1 and why not
    Verify(Verifying),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Whose scheme: workos, clerk or standard
    #[arg(long, value_parser = parse_source)]
    source: SourceKind,
    /// The body; "-" for standard input
    #[arg(long, value_name = "FILE")]
    body_file: PathBuf,
    /// The moment of the check, RFC 3339 or milliseconds since 1970 [default: now]
    #[arg(long, value_parser = parse_time)]
    now: Option<DateTime<Utc>>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Signing {
    #[command(flatten)]
    common: Common,
    /// Signing secret; several make several signatures, as while rotating
    #[arg(long = "secret", required = true)]
    secrets: Vec<SecretString>,
    /// Id of the event, for clerk and standard [default: a new one]
    #[arg(long)]
    id: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Verifying {
    #[command(flatten)]
    common: Common,
    /// Signing secret, or whpk_… public key; several while rotating
    #[arg(long = "secret", required = true)]
    secrets: Vec<SecretString>,
    /// A header as "Name: value"; repeat for more
    #[arg(long = "header", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// How far the signature's time may be away, in seconds
    #[arg(long, default_value_t = 300)]
    tolerance: u32,
}

fn parse_source(text: &str) -> Result<SourceKind, String> {
    let known = SourceKind::ALL.map(SourceKind::name).join(", ");
    SourceKind::parse(text).ok_or_else(|| format!("not a kind of source; there are: {known}"))
}

fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(ms) = text.parse::<i64>() {
        return DateTime::from_timestamp_millis(ms).ok_or_else(|| "out of range".to_owned());
    }
    text.parse()
        .map_err(|_| "neither RFC 3339 nor milliseconds since 1970".to_owned())
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is \"Name: value\"")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl Common {
    fn body(&self) -> Result<Vec<u8>, Failure> {
        let read = if self.body_file.as_os_str() == "-" {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body).map(|_| body)
        } else {
            fs::read(&self.body_file)
        };
        read.map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("cannot read {}: {error}", self.body_file.display()),
                "give the body's file with --body-file",
            )
        })
    }

    fn now(&self) -> DateTime<Utc> {
        self.now
            .unwrap_or_else(|| DateTime::from(std::time::SystemTime::now()))
    }
}

pub(super) fn run(globals: &Globals, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Sign(signing) => sign(globals, signing),
        Command::Verify(verifying) => verify(globals, verifying),
    }
}

fn sign(globals: &Globals, signing: &Signing) -> Result<(), Failure> {
    let common = &signing.common;
    let kind = common.source;
    if kind == SourceKind::Workos && signing.secrets.len() > 1 {
        return Err(Failure::new(
            Exit::Usage,
            "WorkOS signs with one secret",
            "give --secret once",
        ));
    }
    let (body, now) = (common.body()?, common.now());
    let id = signing.id.clone().unwrap_or_else(sample::new_delivery_id);
    let mut headers: Vec<(&'static str, String)> = Vec::new();
    for secret in &signing.secrets {
        let signed = webhooks::sign(kind, secret, &id, now, &body);
        // the signature is in the last header; the others are the same for every secret
        let Some((_, signature)) = signed.last() else {
            return Err(Failure::new(
                Exit::Usage,
                format!("a secret cannot sign for {}", kind.name()),
                "give whsec_… and base64, or for standard whsk_… and base64; a public key only verifies",
            ));
        };
        match headers.last_mut() {
            Some((_, list)) => *list = format!("{list} {signature}"),
            None => headers = signed,
        }
    }
    for (name, value) in headers {
        globals.printer.data(format!("{name}: {value}"));
    }
    Ok(())
}

fn verify(globals: &Globals, verifying: &Verifying) -> Result<(), Failure> {
    let common = &verifying.common;
    let body = common.body()?;
    let headers: Headers<'_> = verifying
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    let tolerance = TimeDelta::seconds(verifying.tolerance.into());
    match webhooks::verify(
        common.source,
        &headers,
        &body,
        &verifying.secrets,
        common.now(),
        tolerance,
    ) {
        Ok(()) => {
            globals.printer.data("accepted");
            Ok(())
        }
        Err(error) => {
            globals
                .printer
                .data(format!("refused: {error} [{}]", error.code()));
            let answer = if error.is_malformed() { 400 } else { 401 };
            Err(Failure::failed(
                format!("the service would answer {answer}"),
                "check the secret, the exact bytes of the body, and --now",
            ))
        }
    }
}
