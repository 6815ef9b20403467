//! Secrets that come from files: `url_file`, `secret_files`, `api_key_file`, `secret_file`, `keys_file`.
//!
//! Guarantees: one line end at the end of a file does not count; an unreadable file is an error
//! that names the key and the file.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::{Config, Error};

/// Reads every `*_file` setting into the setting that it stands for.
pub(super) fn resolve(config: &mut Config) -> Result<(), Error> {
    single(
        "database.url_file",
        &config.database.url_file,
        &mut config.database.url,
    )?;
    for cluster in &mut config.clusters {
        single("clusters.url_file", &cluster.url_file, &mut cluster.url)?;
    }
    for source in config.sources.values_mut() {
        for file in &source.secret_files {
            source.secrets.push(read("sources.secret_files", file)?);
        }
        let file = &source.api_key_file;
        single("sources.api_key_file", file, &mut source.api_key)?;
        // an empty secret would verify what anybody signs with nothing
        source
            .secrets
            .retain(|secret| !secret.expose_secret().is_empty());
    }
    for issuer in config.issuers.values_mut() {
        let file = &issuer.secret_file;
        single("issuers.secret_file", file, &mut issuer.secret)?;
    }
    for endpoint in config.notifications.values_mut() {
        for file in &endpoint.secret_files {
            endpoint
                .secrets
                .push(read("notifications.secret_files", file)?);
        }
    }
    if !config.secrets.keys_file.as_os_str().is_empty() {
        let text = read("secrets.keys_file", &config.secrets.keys_file)?;
        let lines = text
            .expose_secret()
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty());
        config.secrets.keys.extend(lines.map(SecretString::from));
    }
    Ok(())
}

fn single(key: &'static str, file: &Path, setting: &mut SecretString) -> Result<(), Error> {
    if !file.as_os_str().is_empty() {
        *setting = read(key, file)?;
    }
    Ok(())
}

fn read(key: &'static str, file: &Path) -> Result<SecretString, Error> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::SecretFile {
        key,
        file: file.to_owned(),
        source,
    })?;
    Ok(SecretString::from(text.trim_end_matches(['\r', '\n'])))
}
