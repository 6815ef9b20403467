//! `tenantry doctor`: everything that tenantry needs, each check with its fix.
//!
//! Guarantees: changes nothing; goes on after a failed check as far as the next ones make sense.

mod clusters;
mod control;
mod issuers;
mod notifications;
mod sources;

use secrecy::ExposeSecret;
use serde::Serialize;

use super::{Failure, Globals, access};
use crate::{blueprint::Blueprint, causes::chain, config::Config, secrets::Keyring};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Verdict {
    /// As it should be.
    Pass,
    /// Works, and should be looked at.
    Warn,
    /// Does not work.
    Fail,
}

/// A check, what it found and what to do.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) verdict: Verdict,
    pub(super) name: &'static str,
    pub(super) found: String,
    pub(super) fix: String,
}

impl Check {
    pub(super) fn pass(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Pass,
            name,
            found: found.into(),
            fix: String::new(),
        }
    }

    pub(super) fn warn(
        name: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Warn,
            name,
            found: found.into(),
            fix: fix.into(),
        }
    }

    pub(super) fn fail(
        name: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Fail,
            name,
            found: found.into(),
            fix: fix.into(),
        }
    }
}

pub(super) async fn run(globals: &Globals, options: &Options) -> Result<(), Failure> {
    let config = access::config(globals)?;
    let mut checks = vec![Check::pass(
        "configuration",
        "every setting is known and fits",
    )];
    checks.extend(sources::check(&config).await);
    checks.extend(issuers::check(&config).await);
    checks.extend(notifications::check(&config).await);
    checks.push(keys(&config));
    checks.push(blueprint(globals, &config));
    checks.extend(control::check(&config).await);
    if config.database.url.expose_secret().is_empty() {
        checks.push(Check::fail(
            "clusters",
            "not looked at: there is no control database",
            "set DATABASE_URL, or start `tenantry dev`",
        ));
    } else {
        checks.extend(clusters::check(&config).await);
    }
    print(globals, options, &checks)?;
    let failed = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Fail)
        .count();
    if failed == 0 {
        Ok(())
    } else {
        Err(Failure::failed(
            format!("{failed} check(s) failed"),
            "do what the fix lines say, then run `tenantry doctor` again",
        ))
    }
}

fn print(globals: &Globals, options: &Options, checks: &[Check]) -> Result<(), Failure> {
    if options.json {
        return globals.printer.json(&checks);
    }
    for Check {
        verdict,
        name,
        found,
        fix,
    } in checks
    {
        let word = match verdict {
            Verdict::Pass => "PASS",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        globals.printer.data(format!("{word}  {name:<22} {found}"));
        if !fix.is_empty() {
            globals.printer.data(format!("      {:<22} fix: {fix}", ""));
        }
    }
    Ok(())
}

fn keys(config: &Config) -> Check {
    match Keyring::parse(&config.secrets.keys) {
        Ok(_) => Check::pass(
            "secrets.keys",
            format!("{} key(s)", config.secrets.keys.len()),
        ),
        Err(error) => Check::fail(
            "secrets.keys",
            error.to_string(),
            "TENANTRY__SECRETS__KEYS=\"k1:$(openssl rand -base64 32)\"",
        ),
    }
}

fn blueprint(globals: &Globals, config: &Config) -> Check {
    let directory = config.blueprint.directory.as_path();
    if !directory.exists() && access::uses_bundled_blueprint(globals, config) {
        return Check::pass("blueprint", "the built-in example of the running `dev`");
    }
    match Blueprint::load(directory) {
        Ok(blueprint) => {
            let found = directory.display();
            let found = match blueprint.version() {
                Some(version) => format!("{found} at version {version}"),
                None => format!(
                    "{found}, for the migrator {}",
                    blueprint.settings.migrator.as_str()
                ),
            };
            Check::pass("blueprint", found)
        }
        Err(error) => Check::fail("blueprint", chain(&error), error.fix()),
    }
}
