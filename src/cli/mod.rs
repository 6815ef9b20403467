//! The command line, and the composition root: one file a command.
//!
//! Guarantees: data goes to standard output, talk to standard error; every error says what, why and
//! what to do next; exit codes are listed by `--help`.

mod access;
mod audit;
mod bench;
mod config;
mod dev;
mod doctor;
mod duration;
mod events;
mod failure;
mod fleet;
mod health;
mod init;
mod jobs;
mod keys;
mod members;
mod notifications;
mod pool;
mod printer;
mod progress;
mod prune;
mod sample;
mod serve;
mod tenants;
mod timeline;
mod trigger;
mod webhook;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use crate::{audit::Actor, config::Environment, http};

pub(crate) use failure::{Exit, Failure};
use printer::Printer;

const EXIT_CODES: &str = "Exit codes: 0 done · 1 refused or failed · 2 unexpected · 3 not ready in time · 64 usage or configuration";

/// Identity events in, ready Postgres tenants out.
#[derive(Debug, Parser)]
#[command(name = "tenantry", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Arguments {
    /// Configuration file [default: tenantry.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on a private Postgres: no configuration needed
    Dev(dev::Options),
    /// Serve webhooks and provision tenants, against `DATABASE_URL`
    Serve(serve::Options),
    /// Write a starting blueprint and a tenantry.toml
    Init(init::Options),
    /// Check or print the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Check everything that tenantry needs, each with its fix
    Doctor(doctor::Options),
    /// Send a signed sample event
    Trigger(trigger::Options),
    /// Sign or verify a webhook
    #[command(subcommand)]
    Webhook(webhook::Command),
    /// Look at tenants; retry, suspend, resume one, give it hosts
    #[command(subcommand)]
    Tenants(tenants::Command),
    /// Look at members; remove, restore, invite, assign
    #[command(subcommand)]
    Members(members::Command),
    /// Keep the databases of all tenants: find drift, run statements
    #[command(subcommand)]
    Fleet(fleet::Command),
    /// Make, rotate and revoke API keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// See who changed what
    #[command(subcommand)]
    Audit(audit::Command),
    /// Look at received events, replay one
    #[command(subcommand)]
    Events(events::Command),
    /// Look at jobs; retry or cancel one
    #[command(subcommand)]
    Jobs(jobs::Command),
    /// Look at the databases that are ready before anybody asks; fill or drain the pool
    #[command(subcommand)]
    Pool(pool::Command),
    /// Delete what has been kept for its time
    Prune(prune::Options),
    /// Look at what was told to whom, tell it once more, enable who was gone
    #[command(subcommand)]
    Notifications(notifications::Command),
    /// Ask a running instance whether it is live or ready
    Health(health::Options),
    /// Measure, each figure beside its floor
    Bench(bench::Options),
    /// Print the description of the HTTP API (OpenAPI 3.1)
    Openapi,
    /// Print a completion script
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What every command gets.
#[derive(Debug, Clone)]
struct Globals {
    config: Option<PathBuf>,
    environment: Environment,
    printer: Printer,
}

impl Globals {
    /// Whoever is at the command line, for the audit log.
    fn operator(&self) -> Actor {
        let account = self.environment.get("USER");
        Actor::Operator(account.unwrap_or("operator").to_owned())
    }
}

/// Runs the command that the arguments name.
pub async fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: Environment,
) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // help and version are no errors
            let code = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
            let _ = error.print();
            return code.into();
        }
    };
    let globals = Globals {
        config: arguments.config,
        environment,
        printer: Printer,
    };
    let result = match arguments.command {
        Command::Dev(options) => dev::run(&globals, options).await,
        Command::Serve(options) => serve::run(&globals, options).await,
        Command::Init(options) => init::run(&globals, &options),
        Command::Config(command) => config::run(&globals, &command),
        Command::Doctor(options) => doctor::run(&globals, &options).await,
        Command::Trigger(options) => trigger::run(&globals, options).await,
        Command::Webhook(command) => webhook::run(&globals, &command),
        Command::Tenants(command) => tenants::run(&globals, command).await,
        Command::Members(command) => members::run(&globals, command).await,
        Command::Fleet(command) => fleet::run(&globals, command).await,
        Command::Keys(command) => keys::run(&globals, command).await,
        Command::Audit(command) => audit::run(&globals, command).await,
        Command::Events(command) => events::run(&globals, command).await,
        Command::Jobs(command) => jobs::run(&globals, command).await,
        Command::Pool(command) => pool::run(&globals, command).await,
        Command::Prune(options) => prune::run(&globals, options).await,
        Command::Notifications(command) => notifications::run(&globals, command).await,
        Command::Health(options) => health::run(&globals, &options).await,
        Command::Bench(options) => bench::run(&globals, options).await,
        Command::Openapi => print_openapi(&globals),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "tenantry", &mut script);
            globals
                .printer
                .data(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    };
    match result {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            globals.printer.failure(&failure);
            failure.exit.into()
        }
    }
}

fn print_openapi(globals: &Globals) -> Result<(), Failure> {
    let document = http::document().to_pretty_json();
    let document = document.map_err(|error| Failure::unexpected(&error))?;
    globals.printer.data(document);
    Ok(())
}
