//! Data to standard output, talk to standard error.
//!
//! Guarantees: a closed pipe ends the output, not the program with a panic.

use std::io::Write;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::{Exit, Failure};

/// Where a command writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Printer;

#[expect(
    clippy::unused_self,
    reason = "whoever prints has been given the printer"
)]
impl Printer {
    /// A result.
    pub(super) fn data(self, text: impl AsRef<str>) {
        match writeln!(std::io::stdout(), "{}", text.as_ref()) {
            // whoever reads no further does not want the rest
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                self.talk(format!("error: the result cannot be written: {error}"));
                std::process::exit(Exit::Failed as i32);
            }
            _ => {}
        }
    }

    /// A result as JSON.
    pub(super) fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::new(Exit::Unexpected, error, ""))?;
        self.data(text);
        Ok(())
    }

    /// A result as a table.
    pub(super) fn table(self, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(header.to_vec());
        table.add_rows(rows);
        for line in table.to_string().lines() {
            self.data(line.trim());
        }
    }

    /// What is going on.
    pub(super) fn talk(self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
    }

    /// Why a command failed, and what to do.
    pub(super) fn failure(self, failure: &Failure) {
        self.talk(format!("error: {}", failure.message));
        if !failure.hint.is_empty() {
            self.talk(format!(" hint: {}", failure.hint));
        }
    }
}
