//! How far a command is: a bar on a terminal, a line now and then elsewhere.

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::printer::{Printer, count};

/// Where there is no terminal, a line says how far it is after this long.
const LINE_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Progress {
    printer: Printer,
    bar: ProgressBar,
    is_terminal: bool,
    /// When a line was last printed, or the command began; `None` where the next one comes at once.
    told_at: Mutex<Option<Instant>>,
}

impl Progress {
    /// A bar as `indicatif`'s templates describe it; draws on standard error.
    pub(super) fn new(printer: Printer, template: &str) -> Self {
        // not drawn at all where that is no terminal
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            printer,
            bar,
            is_terminal: std::io::stderr().is_terminal(),
            told_at: Mutex::new(Some(Instant::now())),
        }
    }

    /// One that counts these tenants.
    pub(super) fn of_tenants(printer: Printer, tenants: usize) -> Self {
        let progress = Self::new(printer, "{wide_bar} {pos}/{len} tenants {per_sec} {eta}");
        progress.bar.set_length(tenants as u64);
        progress
    }

    /// The first line comes at once.
    pub(super) fn at_once(mut self) -> Self {
        self.told_at = Mutex::default();
        self
    }

    /// One more tenant is through.
    pub(super) fn step(&self) {
        let (done, all) = (
            self.bar.position() + 1,
            self.bar.length().unwrap_or_default(),
        );
        self.is_at((done, all), "", || {
            format!("{done} of {}", count(all, "tenant"))
        });
    }

    /// It is this far: `message` for the bar, `line` where there is none.
    pub(super) fn is_at(
        &self,
        (done, all): (u64, u64),
        message: &str,
        line: impl FnOnce() -> String,
    ) {
        self.bar.set_length(all);
        self.bar.set_position(done);
        self.bar.set_message(message.to_owned());
        let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_terminal && told_at.is_none_or(|at| at.elapsed() >= LINE_PAUSE) {
            *told_at = Some(Instant::now());
            self.printer.talk(line());
        }
    }

    /// Prints beside the bar.
    pub(super) fn beside(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
