//! The results, as data and as a table.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::samples::Samples;

/// Every measure, by the phase that measures it.
pub(super) const NAMES: [&[&str]; 9] = [
    &[
        "accept_new_c1",
        "accept_new_c8",
        "accept_new_c32",
        "accept_new_c64",
        "accept_duplicate_c1",
        "accept_duplicate_c8",
        "accept_duplicate_c32",
        "accept_duplicate_c64",
        "accept_mixed_c32",
        "ack_at_1000_per_s",
    ],
    &[
        "auth_verify_c32",
        "auth_verify_at_5000_per_s",
        "tenants_resolve_c32",
        "tenants_resolve_at_5000_per_s",
    ],
    &[
        "registrations_c32",
        "registrations_at_200_per_s",
        "registration_status_by_key_c32",
        "registration_status_by_token_c32",
    ],
    &["registration_streams_mib"],
    &["start_to_ready_ms", "rss_idle_mib", "rss_after_mib"],
    &[
        "ready_serial",
        "ready_serial_pool",
        "ready_100_at_once",
        "signups_100_at_once",
    ],
    &["people_jobs", "people_jobs_one_org"],
    &["burst_1000_at_once", "burst_cost_ratio", "burst_rss_mib"],
    &["fleet_migrate_500", "fleet_noop_500"],
];

/// A figure beside its floor.
#[derive(Debug, Clone, Serialize)]
pub struct Measure {
    /// What was measured.
    pub name: &'static str,
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The figure of the plainest means, where there is one.
    pub floor: Option<f64>,
    /// Ours by the floor.
    pub ratio: Option<f64>,
    /// Half of the operations took at most this long.
    pub p50_ms: Option<f64>,
    /// 99 of 100 operations took at most this long.
    pub p99_ms: Option<f64>,
    /// What is asked of the ratio or, where there is no floor or the target says so, of the figure.
    #[serde(skip)]
    pub target: Option<Target>,
}

/// A bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// Not less.
    AtLeast(f64),
    /// Not more.
    AtMost(f64),
    /// The figure itself is not less, whatever the floor.
    ValueAtLeast(f64),
}

impl Target {
    const fn is_of_ratio(self) -> bool {
        !matches!(self, Self::ValueAtLeast(_))
    }

    const fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bound) | Self::ValueAtLeast(bound) => figure >= bound,
            Self::AtMost(bound) => figure <= bound,
        }
    }
}

impl Measure {
    /// A figure alone.
    pub(super) fn plain(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self {
            name,
            value: round(value),
            unit,
            floor: None,
            ratio: None,
            p50_ms: None,
            p99_ms: None,
            target: None,
        }
    }

    /// With what the plainest means gives.
    pub(super) fn beside(mut self, floor: f64) -> Self {
        self.floor = Some(round(floor));
        self.ratio = (floor > 0.0).then(|| (self.value / floor * 100.0).round() / 100.0);
        self
    }

    /// With the percentiles of single operations.
    pub(super) fn with(mut self, samples: &Samples) -> Self {
        self.p50_ms = Some(round(samples.percentile_ms(50.0)));
        self.p99_ms = Some(round(samples.percentile_ms(99.0)));
        self
    }

    pub(super) fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// Whether the target is met; `None` where there is none.
    pub fn is_met(&self) -> Option<bool> {
        let target = self.target?;
        Some(
            target.is_met(
                self.ratio
                    .filter(|_| target.is_of_ratio())
                    .unwrap_or(self.value),
            ),
        )
    }
}

/// Three digits after the point are all that a run repeats.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// On what it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Environment {
    /// Version of tenantry.
    pub tenantry: &'static str,
    /// Whether the optimizer was on: figures of a debug build say nothing.
    pub optimized: bool,
    /// Version of the server.
    pub postgres: String,
    /// Whether commits reached the disk: `fsync` and `synchronous_commit` of the server.
    pub durability: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// What shares them.
    pub note: &'static str,
}

/// What shares the machine.
pub(super) const NOTE: &str = "load generator, replica and Postgres share this machine (Postgres unless --database-url names another); \
     no worker runs during the accept measures; ours and the floor take turns";

/// All results of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The measures, in the order of measuring.
    pub results: Vec<Measure>,
    /// On what.
    pub environment: Environment,
}

impl Report {
    /// For people: the ratio first, because it is what machines have in common.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "ratio", "measure", "value", "unit", "floor", "p50 ms", "p99 ms", "target",
        ]);
        for column in [0, 2, 4, 5, 6] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for measure in &self.results {
            table.add_row(row(measure));
        }
        let Environment {
            tenantry,
            postgres,
            durability,
            processors,
            note,
            ..
        } = &self.environment;
        let debug = if self.environment.optimized {
            ""
        } else {
            "\na debug build: the figures say nothing"
        };
        format!(
            "{table}\n\ntenantry {tenantry}, PostgreSQL {postgres} ({durability}), {processors} processors\n{note}{debug}"
        )
    }
}

fn row(measure: &Measure) -> [String; 8] {
    let figure = |figure: Option<f64>| figure.map(show).unwrap_or_default();
    [
        measure
            .ratio
            .map(|ratio| format!("{ratio:.2}"))
            .unwrap_or_default(),
        measure.name.to_owned(),
        show(measure.value),
        measure.unit.to_owned(),
        figure(measure.floor),
        figure(measure.p50_ms),
        figure(measure.p99_ms),
        target(measure),
    ]
}

fn target(measure: &Measure) -> String {
    let Some(target) = measure.target else {
        return String::new();
    };
    let what = if measure.ratio.is_some() && target.is_of_ratio() {
        "ratio"
    } else {
        "value"
    };
    let met = if measure.is_met() == Some(true) {
        "met"
    } else {
        "missed"
    };
    match target {
        Target::AtLeast(bound) | Target::ValueAtLeast(bound) => format!("{what} ≥ {bound}: {met}"),
        Target::AtMost(bound) => format!("{what} ≤ {bound}: {met}"),
    }
}

fn show(figure: f64) -> String {
    if figure >= 1000.0 {
        format!("{figure:.0}")
    } else if figure >= 100.0 {
        format!("{figure:.1}")
    } else {
        format!("{figure:.2}")
    }
}

/// A line on standard error; nothing where that is not a terminal.
pub(super) fn progress() -> ProgressBar {
    let progress = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(200));
    progress
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut samples = Samples::new();
        (1..=100).for_each(|step| samples.add(Duration::from_micros(10 * step)));
        Report {
            results: vec![
                Measure::plain("accept_new_c1", 1500.0, "events/s")
                    .beside(1000.0)
                    .with(&samples)
                    .target(Target::AtLeast(0.5)),
                Measure::plain("rss_idle_mib", 50.0, "MiB").target(Target::AtMost(40.0)),
            ],
            environment: Environment {
                tenantry: "0",
                optimized: true,
                postgres: "15".to_owned(),
                durability: "fsync on".to_owned(),
                processors: 2,
                note: NOTE,
            },
        }
    }

    #[test]
    fn what_does_not_apply_is_null() {
        let results = serde_json::to_value(&report().results).unwrap();
        let expected = serde_json::json!([
            {"name": "accept_new_c1", "value": 1500.0, "unit": "events/s", "floor": 1000.0, "ratio": 1.5, "p50_ms": 0.5, "p99_ms": 0.99},
            {"name": "rss_idle_mib", "value": 50.0, "unit": "MiB", "floor": null, "ratio": null, "p50_ms": null, "p99_ms": null},
        ]);
        assert_eq!(results, expected);
    }

    #[test]
    fn the_table_begins_with_the_ratio_and_judges_the_targets() {
        let table = report().table();
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[1][..2], ["1.50", "accept_new_c1"]);
        assert!(table.contains("ratio ≥ 0.5: met"), "{table}");
        assert!(table.contains("value ≤ 40: missed"), "{table}");
    }
}
