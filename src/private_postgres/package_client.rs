//! Runs the package clients of the machine, with a time limit.
//!
//! A failure is one line of text: the last that the client printed.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

const LIMIT: Duration = Duration::from_mins(5);

/// Runs the first of the programs that is there and succeeds.
pub(super) async fn first_that_works(
    programs: &[&[&str]],
    args: &[&str],
    dir: &Path,
) -> Result<(), String> {
    let mut failure = None;
    for program in programs {
        let all: Vec<&str> = program[1..].iter().chain(args).copied().collect();
        match run(program[0], &all, dir).await {
            Ok(()) => return Ok(()),
            // Say what the first client that exists said, not that others are missing.
            Err(reason) if failure.is_none() || !reason.ends_with("is not installed") => {
                failure = Some(reason);
            }
            Err(_) => {}
        }
    }
    Err(failure.unwrap_or_default())
}

/// Runs a program in a directory, and says what it said when it fails.
pub(super) async fn run(program: &str, args: &[&str], dir: &Path) -> Result<(), String> {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(LIMIT, output).await {
        Err(_) => {
            return Err(format!("{program} took longer than {} s", LIMIT.as_secs()));
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!("{program} is not installed"));
        }
        Ok(Err(error)) => return Err(format!("{program} does not run: {error}")),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no reason given");
    Err(format!(
        "{program} {} failed: {}",
        args.first().unwrap_or(&""),
        last.trim()
    ))
}

/// The name of the one file with that extension.
pub(super) fn only_file(dir: &Path, extension: &str) -> Result<String, String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| {
            Path::new(name)
                .extension()
                .is_some_and(|found| found == extension)
        })
        .ok_or_else(|| format!("the package client left no .{extension} file"))
}
