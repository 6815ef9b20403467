//! The bench measures every figure it names, and leaves nothing behind.

use std::path::PathBuf;

use tenantry::bench::{self, Events, Options, Setup};

use crate::support::cluster::{ask, parent, settings, shared};

fn tiny() -> Options {
    Options {
        json: true,
        database_url: None,
        only: Vec::new(),
        events: Events::Organizations,
        accept_seconds: 0.3,
        door_seconds: 0.3,
        ack_seconds: 0.2,
        registration_seconds: 0.3,
        streams: 40,
        tenants_serial: 2,
        tenants_at_once: 3,
        people_events: 300,
        tenants_burst: 4,
        fleet_databases: 3,
    }
}

fn setup() -> Setup {
    Setup {
        program: PathBuf::from(env!("CARGO_BIN_EXE_tenantry")),
        scratch: parent(),
        postgres: settings(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_measure_is_there_with_its_floor() {
    let report = bench::run(&tiny(), &setup()).await.unwrap();

    let names: Vec<&str> = report.results.iter().map(|it| it.name).collect();
    assert_eq!(
        names,
        [
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
            "auth_verify_c32",
            "auth_verify_at_5000_per_s",
            "tenants_resolve_c32",
            "tenants_resolve_at_5000_per_s",
            "registrations_c32",
            "registrations_at_200_per_s",
            "registration_status_by_key_c32",
            "registration_status_by_token_c32",
            "registration_streams_mib",
            "start_to_ready_ms",
            "rss_idle_mib",
            "ready_serial",
            "ready_100_at_once",
            "signups_100_at_once",
            "people_jobs",
            "people_jobs_one_org",
            "rss_after_mib",
            "ready_serial_pool",
            "burst_1000_at_once",
            "burst_cost_ratio",
            "burst_rss_mib",
            "fleet_migrate_500",
            "fleet_noop_500",
        ]
    );
    for measure in &report.results {
        let beside = [
            "accept_",
            "ready_",
            "people_",
            "auth_verify_c",
            "tenants_resolve_c",
            "registrations_c",
            "registration_status_",
            "signups_",
            "fleet_",
            "burst_1000",
        ];
        let beside = beside.iter().any(|it| measure.name.starts_with(it));
        assert_eq!(measure.floor.is_some(), beside, "{measure:?}");
        assert_eq!(measure.ratio.is_some(), beside, "{measure:?}");
        assert!(measure.value > 0.0, "{measure:?}");
    }
    assert!(report.environment.durability.starts_with("fsync on"));
    assert!(report.table().contains("ready_serial"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_events_are_accepted_like_organizations() {
    let options = Options {
        events: Events::Mixed,
        only: vec![
            "accept_new_c8".to_owned(),
            "accept_duplicate_c8".to_owned(),
            "ack".to_owned(),
        ],
        ..tiny()
    };

    let report = bench::run(&options, &setup()).await.unwrap();

    assert_eq!(report.results.len(), 3);
    assert!(report.results.iter().all(|measure| measure.value > 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_server_is_left_as_it_was() {
    let postgres = shared().url("postgres");
    let options = Options {
        database_url: Some(postgres.clone()),
        only: vec!["ready_serial".to_owned()],
        ..tiny()
    };

    let report = bench::run(&options, &setup()).await.unwrap();

    // with a clone, and with a database of the pool
    assert_eq!(report.results.len(), 2);
    let left = "select (select count(*) from pg_database where starts_with(datname, 'tenantry_bench_control_'))
                     + (select count(*) from pg_roles where rolname ~ '^b[0-9a-f]{8}_')
                     + (select count(*) from pg_database where datname ~ '^b[0-9a-f]{8}_')";
    assert_eq!(ask::<i64>(&postgres, left).await, 0);
}

#[tokio::test]
async fn a_name_that_no_measure_has_is_refused_before_anything_starts() {
    let options = Options {
        only: vec!["accept_old".to_owned()],
        ..tiny()
    };
    let error = bench::run(&options, &setup()).await.unwrap_err();
    assert_eq!(error.to_string(), "no measure begins with \"accept_old\"");
}
