//! How far a command is: a bar on a terminal, a line now and then elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::printer::{Printer, count};

/// Where there is no terminal, a line says how far it is after this long.
const LINE_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Progress {
    printer: Printer,
    bar: ProgressBar,
    is_terminal: bool,
    told_at: Instant,
}

impl Progress {
    pub(super) fn of(printer: Printer, tenants: usize) -> Self {
        // draws on standard error, and not at all where that is no terminal
        let bar = ProgressBar::new(tenants as u64);
        let template = "{wide_bar} {pos}/{len} tenants {per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            printer,
            bar,
            is_terminal: std::io::stderr().is_terminal(),
            told_at: Instant::now(),
        }
    }

    /// One more is through.
    pub(super) fn step(&mut self) {
        self.bar.inc(1);
        if !self.is_terminal && self.told_at.elapsed() >= LINE_PAUSE {
            self.told_at = Instant::now();
            let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
            let all = count(all, "tenant");
            self.printer.talk(format!("{done} of {all}"));
        }
    }

    /// Prints beside the bar.
    pub(super) fn beside(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
