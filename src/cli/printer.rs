//! Data to standard output, talk to standard error.
//!
//! Guarantees: a closed pipe ends the output, not the program with a panic.

use std::{fmt::Display, io::Write};

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
        let cells = |row: Vec<String>| row.into_iter().map(|cell| plain(&cell, ""));
        table.add_rows(rows.into_iter().map(cells));
        for line in table.to_string().lines() {
            // a table has a margin
            self.data(line.strip_prefix(' ').unwrap_or(line).trim_end());
        }
    }

    /// What is going on.
    pub(super) fn talk(self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr(), "{}", plain(text.as_ref(), "\n\t"));
    }

    /// Why a command failed, and what to do.
    pub(super) fn failure(self, failure: &Failure) {
        self.talk(format!("error: {}", failure.message));
        if !failure.hint.is_empty() {
            self.talk(format!(" hint: {}", failure.hint));
        }
    }
}

/// `1 tenant`, `2 tenants`.
pub(super) fn count<N: Copy + Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let ending = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// The text without what would change the lines around it on a terminal: a tenant may have written it.
fn plain(text: &str, allowed: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !allowed.contains(c) {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::{count, plain};

    #[test]
    fn one_is_singular_and_everything_else_plural() {
        let counted = [0_u32, 1, 2].map(|number| count(number, "tenant"));
        assert_eq!(counted, ["0 tenants", "1 tenant", "2 tenants"]);
    }

    #[test]
    fn what_a_tenant_wrote_changes_no_line_but_its_own() {
        let forged = "acme\nglobex  0\u{1b}[2K\u{9b}31m";
        assert_eq!(plain(forged, ""), "acme\\nglobex  0\\u{1b}[2K\\u{9b}31m");
        assert_eq!(plain("a\n\tb\r", "\n\t"), "a\n\tb\\r");
        assert_eq!(plain("Zoë 日本", ""), "Zoë 日本");
    }
}
