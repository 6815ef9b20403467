//! The one integration-test binary.
#![expect(
    unreachable_pub,
    reason = "one binary: what is public is public to its modules"
)]
#![expect(
    clippy::print_stdout,
    reason = "the harness shows it when a test fails"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod support;

mod api_keys;
mod architecture;
mod bench;
mod blueprint;
mod blueprint_changes;
mod canary;
mod cli;
mod cli_keys;
mod cli_members;
mod cli_operator;
mod cli_webhook;
mod connections;
mod convergence;
mod crash;
mod deploy;
mod docs;
mod edge;
mod edge_limits;
mod example_apps;
mod fleet;
mod fleet_cli;
mod fleet_clones;
mod fleet_clusters;
mod fleet_drift;
mod fleet_exec;
mod fleet_lost;
mod fleet_marks;
mod fleet_meanwhile;
mod fleet_runs_http;
mod fleet_storm;
mod fleet_to;
mod fleet_waits;
mod form_keys;
mod forward_auth;
mod idempotency;
mod inbox;
mod isolation;
mod jwks;
mod labels;
mod matrix;
mod members;
mod members_http;
mod members_invitations;
mod members_pages;
mod members_roles;
mod members_sync;
mod migrators;
mod migrators_programs;
mod migrators_real;
mod notifications;
mod notifications_crash;
mod openapi;
mod operator;
mod operator_api;
mod operator_jobs;
mod organizations;
mod outage;
mod pages;
mod path;
mod pool;
mod pool_crash;
mod pool_storm;
mod private_postgres;
mod provider_api;
mod provider_registration;
mod provisioning;
mod proxies;
mod queue;
mod queue_model;
mod registration_storm;
mod registrations;
mod retention;
mod signup;
mod sources;
mod tokens;
mod undo;
mod upgrade;
mod waiting;
mod webhooks;
mod webhooks_clerk;
mod webhooks_signed;
mod webhooks_standard;
