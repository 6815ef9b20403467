//! `tenantry trigger <event>`: a signed sample, delivered as its sender would.

use std::time::{Duration, Instant};

use secrecy::SecretString;

use super::{Exit, Failure, Globals, access, sample, timeline};
use crate::config::{Config, Source};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Type of the event
    #[arg(value_parser = sample::EVENT_TYPES)]
    event: String,
    /// Name of the organization
    #[arg(long, default_value = "Acme")]
    name: String,
    /// Id of the organization [default: a new one]
    #[arg(long)]
    id: Option<String>,
    /// Id of the user, for user and membership events [default: a new one]
    #[arg(long)]
    user: Option<String>,
    /// E-mail address of the user
    #[arg(long, default_value = "ada@acme.example")]
    email: String,
    /// Which configured source sends it [default: the first]
    #[arg(long)]
    source: Option<String>,
    /// Base URL of the instance [default: the configured address]
    #[arg(long)]
    url: Option<url::Url>,
    /// Signing secret [default: the configured one]
    #[arg(long)]
    secret: Option<SecretString>,
    /// Return when the event is accepted, not when the tenant is ready
    #[arg(long)]
    no_wait: bool,
    /// Print the tenant and its steps as JSON
    #[arg(long, conflicts_with = "no_wait")]
    json: bool,
}

pub(super) async fn run(globals: &Globals, options: Options) -> Result<(), Failure> {
    let config = access::config(globals)?;
    let (name, source) = pick(&config, options.source.as_deref())?;
    let base = match &options.url {
        Some(url) => url.clone(),
        None => sample::base_url(&config)?,
    };
    let secret = options
        .secret
        .as_ref()
        .or_else(|| sample::signing_secret(&source))
        .ok_or_else(|| {
            Failure::new(
                Exit::Usage,
                format!("source {name} has no secret that can sign"),
                "give one with --secret, or configure sources.<name>.secrets",
            )
        })?;
    let org = options
        .id
        .clone()
        .unwrap_or_else(sample::new_organization_id);
    let subject = sample::Subject {
        organization: org.clone(),
        name: options.name.clone(),
        user: options.user.clone().unwrap_or_else(sample::new_user_id),
        email: options.email.clone(),
    };
    let event = sample::event(source.kind, &options.event, &subject);
    let answer = sample::deliver(&base, &name, source.kind, secret, &event).await;
    let (status, body) = answer.map_err(|error| {
        Failure::failed(
            format!("{base} does not answer: {error}"),
            "start `tenantry dev` or `tenantry serve`, or give --url",
        )
    })?;
    let printer = globals.printer;
    printer.talk(format!("--> {} {} ({org})", options.event, event.id));
    printer.talk(format!("<-- {status} {}", body.trim()));
    if status != 200 {
        return Err(Failure::failed(
            format!("the event was answered with {status}"),
            "check the secret and the log of the instance",
        ));
    }
    let makes_tenant = ["organization.created", "organization.updated"];
    if options.no_wait || !makes_tenant.contains(&options.event.as_str()) {
        printer.data(match options.event.as_str() {
            "user.created" => subject.user,
            _ => org,
        });
        return Ok(());
    }
    wait(globals, &org, options.json).await
}

fn pick(config: &Config, wanted: Option<&str>) -> Result<(String, Source), Failure> {
    let found = match wanted {
        Some(name) => config.sources.get_key_value(name),
        None => config.routed_sources().next(),
    };
    found
        .map(|(name, source)| (name.clone(), source.clone()))
        .ok_or_else(|| {
            let message = wanted.map_or_else(
                || "no source is configured".to_owned(),
                |name| format!("source {name} is not configured"),
            );
            Failure::new(
                Exit::Usage,
                message,
                "start `tenantry dev` first, or set WORKOS_WEBHOOK_SECRET or CLERK_WEBHOOK_SECRET",
            )
        })
}

async fn wait(globals: &Globals, org: &str, json: bool) -> Result<(), Failure> {
    let printer = globals.printer;
    let access = access::open(globals)?;
    let deadline = Instant::now() + Duration::from_mins(1);
    let tenant = timeline::find_by_org(&access.db, org, deadline).await?;
    let story = timeline::follow(&access.db, tenant.id, deadline, |step| {
        if !json {
            printer.step(&step.name, step.duration_ms.unwrap_or(0.0));
        }
    });
    let story = story.await?;
    if json {
        return printer.json(&story);
    }
    printer.data(format!(
        "{} is ready after {:.1} ms: database {}",
        story.tenant.url, story.total_ms, story.tenant.database
    ));
    Ok(())
}
