//! Points at which a test makes the product fail.
//!
//! Guarantees: nothing happens outside debug builds, and nothing without `TENANTRY_FAULTS`. The
//! points belong to one [`Config`](crate::config::Config), never to the process, so that tests
//! run in parallel.
//!
//! A plan is `point=action`, several separated by `;`. Actions: `kill` (SIGKILL to ourselves),
//! `stop` (SIGSTOP), `error` (once), `panic` (once), `stall:<ms>`, `hold` (until the test that shares
//! the process releases it).

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::{Signal, getpid, kill_process};
use tokio_util::sync::CancellationToken;

/// What a point does when it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Stop,
    Error,
    Panic,
    Stall(Duration),
    Hold,
}

#[derive(Debug)]
struct Point {
    action: Action,
    used: AtomicBool,
    released: CancellationToken,
}

/// The faults to inject; empty in production.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<HashMap<String, Point>>);

/// The error that an `error` action makes.
#[derive(Debug, thiserror::Error)]
#[error("injected fault at {0}")]
pub struct Injected(String);

impl Faults {
    /// Reads a plan; outside debug builds there is none.
    pub fn parse(plan: &str) -> Self {
        if !cfg!(debug_assertions) {
            return Self::default();
        }
        let point = |entry: &str| {
            let (name, action) = entry.trim().split_once('=')?;
            let action = match action.split_once(':') {
                Some(("stall", ms)) => Action::Stall(Duration::from_millis(ms.parse().ok()?)),
                None if action == "kill" => Action::Kill,
                None if action == "stop" => Action::Stop,
                None if action == "error" => Action::Error,
                None if action == "panic" => Action::Panic,
                None if action == "hold" => Action::Hold,
                _ => return None,
            };
            Some((
                name.to_owned(),
                Point {
                    action,
                    used: AtomicBool::new(false),
                    released: CancellationToken::new(),
                },
            ))
        };
        Self(Arc::new(plan.split(';').filter_map(point).collect()))
    }

    /// Whether the plan names the point and it was reached.
    pub fn was_hit(&self, point: &str) -> bool {
        let point = self.0.get(point);
        point.is_some_and(|point| point.used.load(Ordering::SeqCst))
    }

    /// Whoever is held at the point goes on, and whoever comes later is not held.
    pub fn release(&self, point: &str) {
        if let Some(point) = self.0.get(point) {
            point.released.cancel();
        }
    }

    /// A point of the product was reached. Each acts once.
    pub async fn hit(&self, point: &str) -> Result<(), Injected> {
        let Some(found) = self.0.get(point) else {
            return Ok(());
        };
        if found.used.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        match found.action {
            Action::Kill => signal_self(Signal::KILL),
            Action::Stop => {
                signal_self(Signal::STOP);
                // the signal may reach another thread first: do nothing until all of them have stopped
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Action::Error => return Err(Injected(point.to_owned())),
            Action::Panic => panic!("injected fault at {point}"),
            Action::Stall(time) => tokio::time::sleep(time).await,
            Action::Hold => found.released.cancelled().await,
        }
        Ok(())
    }
}

fn signal_self(signal: Signal) {
    // it can only fail for a process that is not there
    let _ = kill_process(getpid(), signal);
}
