//! What is deployed agrees with what it deploys: alerts with metrics and the runbook, limits with limits.

use std::{collections::BTreeSet, fs};

/// Metrics that no alert watches, and why not.
const UNWATCHED: [(&str, &str); 7] = [
    ("notifications_pending", "their age is watched"),
    ("pool_databases", "without any, tenants are cloned"),
    ("pool_hits", "a figure beside the misses"),
    ("pool_misses", "a miss costs a clone and nothing else"),
    (
        "pool_oldest_age_seconds",
        "an old database is as good as a new one",
    ),
    (
        "provision_step_duration_seconds",
        "where to look when provisioning is slow",
    ),
    ("pruned_rows", "that pruning goes on is watched by its time"),
];

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names in a text that begin with `tenantry_`, as they are registered.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let names = text.split("tenantry_").skip(1);
    let names = names.map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        let name = &rest[..end.unwrap_or(rest.len())];
        ["_total", "_info", "_bucket", "_count", "_sum"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name)
            .to_owned()
    });
    names.collect()
}

fn registered() -> BTreeSet<String> {
    let source = read("src/metrics.rs");
    let names = source.split(".register(").skip(1).filter_map(|rest| {
        rest.split(',')
            .next()?
            .trim()
            .strip_prefix('"')?
            .strip_suffix('"')
    });
    names.map(str::to_owned).collect()
}

/// The values of a key in a YAML file of one value a line.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let key = format!("{key}: ");
    text.lines()
        .filter_map(|line| {
            line.trim_start()
                .trim_start_matches("- ")
                .strip_prefix(&key)
        })
        .collect()
}

#[test]
fn alerts_watch_metrics_that_exist_and_every_metric_is_watched() {
    let watched = metrics_in(&read("deploy/prometheus/rules.yaml"));
    let registered = registered();
    let unknown: Vec<_> = watched.difference(&registered).collect();
    assert!(unknown.is_empty(), "there is no metric {unknown:?}");
    let unwatched: Vec<&String> = registered.difference(&watched).collect();
    assert_eq!(
        unwatched,
        UNWATCHED.map(|(name, _)| name),
        "metrics that no alert watches"
    );
}

#[test]
fn every_alert_is_in_the_runbook_and_in_the_tests_of_the_alerts() {
    let rules = read("deploy/prometheus/rules.yaml");
    let document = read("docs/operations.md");
    let tests = read("deploy/prometheus/rules_test.yaml");
    let (alerts, runbook) = (values(&rules, "alert"), values(&rules, "runbook"));
    assert_eq!(alerts.len(), runbook.len(), "each alert leads somewhere");
    for (alert, entry) in alerts.iter().zip(&runbook) {
        let anchor = entry.strip_prefix("docs/operations.md").unwrap();
        let row = document
            .lines()
            .find(|line| line.starts_with(&format!("| `{alert}` |")))
            .unwrap_or_else(|| panic!("docs/operations.md does not list {alert}"));
        // that the anchor is a heading is checked with all other links
        assert!(
            row.contains(&format!("]({anchor})")),
            "{alert} leads to {anchor}: {row}"
        );
        assert!(
            tests.contains(&format!("alertname=\"{alert}\"")),
            "{alert} never fires in a test"
        );
    }
    let listed = document
        .lines()
        .filter(|line| line.starts_with("| `Tenantry"))
        .count();
    assert_eq!(
        listed,
        alerts.len(),
        "docs/operations.md lists alerts that are no more"
    );
}

#[test]
fn whatever_stops_a_replica_waits_longer_than_it_drains() {
    let seconds = |text: &str| -> u64 { text.trim_end_matches('s').parse().unwrap() };
    let defaults = read("tenantry.default.toml");
    let drain = defaults
        .lines()
        .find_map(|line| line.strip_prefix("drain_timeout_s = "));
    let drain = seconds(drain.unwrap());
    let unit = read("deploy/systemd/tenantry.service");
    let stop = unit
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec="));
    assert!(seconds(stop.unwrap()) > drain + 10);
    let deployment = read("deploy/kubernetes/deployment.yaml");
    let grace = values(&deployment, "terminationGracePeriodSeconds")[0];
    let pause = values(&deployment, "seconds")[0];
    assert!(seconds(grace) > seconds(pause) + drain + 10);
    let compose = read("compose.yaml");
    assert!(
        values(&compose, "stop_grace_period")
            .iter()
            .all(|period| seconds(period) > drain + 10)
    );
}
