//! `tenantry init`: a starting blueprint and a configuration with keys of its own.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

use secrecy::ExposeSecret;

use super::{Failure, Globals};
use crate::{blueprint::Blueprint, config::FILE_NAME, secrets::Keyring};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Where to write
    #[arg(default_value = ".")]
    directory: PathBuf,
}

pub(super) fn run(globals: &Globals, options: &Options) -> Result<(), Failure> {
    let file = options.directory.join(FILE_NAME);
    if file.exists() {
        let hint = "edit it, or give another directory: tenantry init DIRECTORY";
        return Err(Failure::failed(
            format!("{} is there already", file.display()),
            hint,
        ));
    }
    let blueprint = options.directory.join("blueprint");
    let written = Blueprint::write_starter(&blueprint)
        .map_err(|error| Failure::failed(crate::causes::chain(&error), error.fix()))?;
    write_config(&file).map_err(|error| {
        Failure::failed(format!("cannot write {}: {error}", file.display()), "")
    })?;
    globals.printer.data(file.display().to_string());
    for path in written {
        globals.printer.data(path.display().to_string());
    }
    globals
        .printer
        .talk("next: `tenantry dev` runs this blueprint on a private Postgres");
    Ok(())
}

/// Readable by this user only: it holds the key of all tenants' passwords.
fn write_config(path: &std::path::Path) -> std::io::Result<()> {
    let key = Keyring::generate("k1").map_err(std::io::Error::other)?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    write!(
        file,
        "# Settings that differ from the defaults. `tenantry config print --default` explains all of them.

[blueprint]
directory = \"blueprint\"

[tenants]
# A tenant's host is <slug>.<base_domain>.
base_domain = \"localhost\"

[secrets]
# Seals the tenants' passwords: keep it, and keep it out of version control
# (or take it from the environment: TENANTRY__SECRETS__KEYS, or a keys_file).
keys = [\"{}\"]

# The signing secret that the WorkOS dashboard shows for the webhook endpoint,
# or set WORKOS_WEBHOOK_SECRET.
# [sources.workos]
# kind = \"workos\"
# secrets = [\"…\"]
",
        key.expose_secret()
    )
}
