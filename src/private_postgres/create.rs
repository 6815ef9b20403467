//! A new cluster: `initdb`, and what has to be said to it once.
//!
//! A directory holds a whole cluster or none: `initdb` works beside the place
//! and its result is renamed into it. Both steps are repeated after a crash.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use super::SUPERUSER;
use super::account::Account;
use super::cause::Cause;
use super::directory::{Directory, last_lines};
use super::error::Error;

/// Creates the data directory, with a new password of the superuser.
pub(super) async fn create(
    directory: &Directory,
    account: &Account,
    initdb: &Path,
    durable: bool,
) -> Result<(), Error> {
    let (data, unfinished) = (directory.data(), directory.unfinished_data());
    if unfinished.exists() {
        let action = format!("remove {}", unfinished.display());
        fs::remove_dir_all(&unfinished).map_err(Error::io(action))?;
    }
    directory.write_password()?;
    account.give(&directory.password_file())?;
    let mut command = account.command(initdb);
    command.arg("-D").arg(&unfinished);
    command.arg("--pwfile").arg(directory.password_file());
    command.args(["--username", SUPERUSER, "--auth=scram-sha-256"]);
    command.args(["--encoding=UTF8", "--locale=C", "--no-instructions"]);
    if !durable {
        command.arg("--no-sync");
    }
    run(command, directory).await?;
    fs::rename(&unfinished, &data).map_err(Error::io(format!("create {}", data.display())))
}

async fn run(mut initdb: std::process::Command, directory: &Directory) -> Result<(), Error> {
    // Should we be killed, the lock stays taken until initdb is done too.
    initdb
        .stdin(directory.share_lock()?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = tokio::process::Command::from(initdb)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(Error::io("run initdb"))?;
    if output.status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Initdb {
        dir: directory.path().to_owned(),
        cause: Cause::of(&output),
        output: last_lines(&output),
    })
}

/// Closes the databases of the cluster itself to everybody but the superuser.
pub(super) async fn prepare(
    directory: &Directory,
    port: u16,
    password: &SecretString,
) -> Result<(), Error> {
    if directory.is_prepared() {
        return Ok(());
    }
    let options = PgConnectOptions::new_without_pgpass()
        .host(&Ipv4Addr::LOCALHOST.to_string())
        .port(port)
        .username(SUPERUSER)
        .password(password.expose_secret())
        .database("postgres")
        .ssl_mode(PgSslMode::Disable);
    let mut connection: PgConnection = options.connect().await.map_err(Error::Prepare)?;
    sqlx::query("revoke connect on database postgres, template1 from public")
        .execute(&mut connection)
        .await
        .map_err(Error::Prepare)?;
    connection.close().await.map_err(Error::Prepare)?;
    directory.mark_prepared()
}
