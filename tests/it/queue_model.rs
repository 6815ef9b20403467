//! The queue against a model: whatever order claims, losses and settlements come in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tenantry::queue::{Claim, Error, JobId};

use crate::queue::Queue;

#[derive(Debug, Clone)]
enum Operation {
    Enqueue {
        key: Option<u8>,
        max_attempts: i32,
    },
    Claim {
        limit: i64,
    },
    Settle {
        claim: prop::sample::Index,
        how: How,
    },
    Heartbeat {
        claim: prop::sample::Index,
    },
    Expire {
        claim: prop::sample::Index,
    },
    Rescue,
    AnHourPasses,
}

impl Operation {
    const fn needs_a_claim(&self) -> bool {
        matches!(
            self,
            Self::Settle { .. } | Self::Heartbeat { .. } | Self::Expire { .. }
        )
    }
}

#[derive(Debug, Clone, Copy)]
enum How {
    Complete,
    RetryNow,
    RetryInAnHour,
    Release,
    Bury,
}

fn operation() -> impl Strategy<Value = Operation> {
    let claim = any::<prop::sample::Index>;
    let how = prop_oneof![
        Just(How::Complete),
        Just(How::RetryNow),
        Just(How::RetryInAnHour),
        Just(How::Release),
        Just(How::Bury)
    ];
    prop_oneof![
        3 => (prop::option::of(0..2_u8), 1..3_i32)
            .prop_map(|(key, max_attempts)| Operation::Enqueue { key, max_attempts }),
        4 => (1..4_i64).prop_map(|limit| Operation::Claim { limit }),
        4 => (claim(), how).prop_map(|(claim, how)| Operation::Settle { claim, how }),
        1 => claim().prop_map(|claim| Operation::Heartbeat { claim }),
        2 => claim().prop_map(|claim| Operation::Expire { claim }),
        2 => Just(Operation::Rescue),
        1 => Just(Operation::AnHourPasses),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Due,
    Later,
    Running { expired: bool },
    Completed,
    Dead,
}

#[derive(Debug)]
struct Job {
    key: Option<u8>,
    state: State,
    attempt: i32,
    /// Attempts that may still do work.
    left: i32,
}

/// What the queue should be, and every claim that anybody ever held.
#[derive(Default)]
struct Model {
    jobs: BTreeMap<JobId, Job>,
    claims: Vec<Claim>,
}

impl Model {
    fn is_held(&self, claim: &Claim) -> bool {
        let job = &self.jobs[&claim.id];
        matches!(job.state, State::Running { .. }) && job.attempt == claim.attempt
    }

    /// Nothing of its key runs and no older job of its key is due.
    fn may_run(&self, id: JobId) -> bool {
        let job = &self.jobs[&id];
        let in_the_way = |(other_id, other): (&JobId, &Job)| {
            other.key == job.key
                && (matches!(other.state, State::Running { .. })
                    || (other.state == State::Due && *other_id < id))
        };
        job.state == State::Due && (job.key.is_none() || !self.jobs.iter().any(in_the_way))
    }

    fn claimed(&mut self, limit: i64, claims: Vec<Claim>) -> Result<(), TestCaseError> {
        let may: BTreeSet<JobId> = self
            .jobs
            .keys()
            .copied()
            .filter(|id| self.may_run(*id))
            .collect();
        let expected = may.len().min(usize::try_from(limit).unwrap());
        prop_assert_eq!(claims.len(), expected, "of {:?}", may);
        for claim in claims {
            prop_assert!(
                may.contains(&claim.id),
                "{:?} is not among {:?}",
                claim,
                may
            );
            let job = self.jobs.get_mut(&claim.id).unwrap();
            job.state = State::Running { expired: false };
            job.attempt += 1;
            prop_assert_eq!(claim.attempt, job.attempt);
            // an attempt beyond the last one says so: it does no work
            prop_assert_eq!(claim.is_exhausted(), job.left <= 0);
            prop_assert_eq!(claim.is_last_attempt(), job.left <= 1);
            job.left -= 1;
            self.claims.push(claim);
        }
        Ok(())
    }

    fn settled(
        &mut self,
        claim: &Claim,
        how: How,
        result: &Result<(), Error>,
    ) -> Result<(), TestCaseError> {
        if !self.is_held(claim) {
            let lost = matches!(result, Err(Error::LostClaim { .. }));
            prop_assert!(lost, "a stale {:?} was let through", how);
            return Ok(());
        }
        prop_assert!(result.is_ok(), "{:?}", result);
        let job = self.jobs.get_mut(&claim.id).unwrap();
        job.state = match how {
            How::Complete => State::Completed,
            How::RetryNow | How::Release => State::Due,
            How::RetryInAnHour => State::Later,
            How::Bury => State::Dead,
        };
        if matches!(how, How::Release) {
            job.left += 1;
        }
        Ok(())
    }
}

async fn apply(
    queue: &Queue,
    model: &mut Model,
    operation: &Operation,
) -> Result<(), TestCaseError> {
    match operation {
        Operation::Enqueue { key, max_attempts } => {
            let name = key.map(|key| key.to_string());
            let id = queue.enqueue(name.as_deref(), *max_attempts).await;
            let job = Job {
                key: *key,
                state: State::Due,
                attempt: 0,
                left: *max_attempts,
            };
            model.jobs.insert(id, job);
        }
        Operation::Claim { limit } => {
            let claims = queue.claim(*limit).await;
            model.claimed(*limit, claims)?;
        }
        Operation::Settle { claim, how } => {
            let claim = claim.get(&model.claims).clone();
            let result = settle(queue, &claim, *how).await;
            model.settled(&claim, *how, &result)?;
        }
        Operation::Heartbeat { claim } => {
            let claim = claim.get(&model.claims).clone();
            let held = model.is_held(&claim);
            prop_assert_eq!(queue.heartbeat(&claim).await, held);
            if held {
                model.jobs.get_mut(&claim.id).unwrap().state = State::Running { expired: false };
            }
        }
        Operation::Expire { claim } => {
            let id = claim.get(&model.claims).id;
            queue.expire(id).await;
            let job = model.jobs.get_mut(&id).unwrap();
            if matches!(job.state, State::Running { .. }) {
                job.state = State::Running { expired: true };
            }
        }
        Operation::Rescue => {
            let expired = State::Running { expired: true };
            let lost: Vec<_> = model
                .jobs
                .values_mut()
                .filter(|job| job.state == expired)
                .collect();
            prop_assert_eq!(queue.rescue().await, lost.len() as u64);
            for job in lost {
                job.state = State::Due;
            }
        }
        Operation::AnHourPasses => {
            queue.an_hour_passes().await;
            for job in model
                .jobs
                .values_mut()
                .filter(|job| job.state == State::Later)
            {
                job.state = State::Due;
            }
        }
    }
    Ok(())
}

async fn settle(queue: &Queue, claim: &Claim, how: How) -> Result<(), Error> {
    match how {
        How::Complete => queue.complete(claim).await,
        How::RetryNow => queue.retry(claim, Duration::ZERO).await,
        How::RetryInAnHour => queue.retry(claim, Duration::from_hours(1)).await,
        How::Release => queue.release(claim).await,
        How::Bury => queue.bury(claim).await,
    }
}

/// The real table says what the model says; so no completed job ever ran again.
async fn compare(queue: &Queue, model: &Model) -> Result<(), TestCaseError> {
    let shown = |job: &Job| match job.state {
        State::Due | State::Later => "available",
        State::Running { .. } => "running",
        State::Completed => "completed",
        State::Dead => "dead",
    };
    let expected: Vec<_> = model
        .jobs
        .iter()
        .map(|(id, job)| (*id, shown(job).to_owned(), job.attempt))
        .collect();
    prop_assert_eq!(queue.rows().await, expected);
    for key in [0, 1] {
        let running = model
            .jobs
            .values()
            .filter(|job| job.key == Some(key) && matches!(job.state, State::Running { .. }));
        prop_assert!(running.count() <= 1);
    }
    Ok(())
}

#[test]
fn any_interleaving_keeps_one_running_per_key_and_never_repeats_a_completed_job() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let queue = runtime.block_on(Queue::new());
    let config = Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&vec(operation(), 1..40), |operations| {
        runtime.block_on(async {
            queue.clear().await;
            let mut model = Model::default();
            for operation in &operations {
                if operation.needs_a_claim() && model.claims.is_empty() {
                    continue;
                }
                apply(&queue, &mut model, operation).await?;
                compare(&queue, &model).await?;
            }
            Ok(())
        })
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
