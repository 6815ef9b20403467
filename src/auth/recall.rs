//! Answers of the database that are remembered for a short time.
//!
//! Guarantees: an answer that was read before a change of its subjects is not given once the change
//! was heard; of callers who ask the same at once one reads; an error is not remembered.

use std::{fmt::Debug, hash::Hash, sync::Arc, time::Duration};

use super::changes::{Changes, Moment};

/// Answers remembered of one kind; the least used go first.
const CAPACITY: u64 = 50_000;

/// How often an answer that was out of date when it arrived is read again.
const READINGS: usize = 3;

/// Remembered answers of one kind.
pub(super) struct Recall<K, V> {
    answers: moka::future::Cache<K, Answer<V>>,
    changes: Arc<Changes>,
}

impl<K, V> Debug for Recall<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recall").finish_non_exhaustive()
    }
}

impl<K, V> Clone for Recall<K, V> {
    fn clone(&self) -> Self {
        Self {
            answers: self.answers.clone(),
            changes: Arc::clone(&self.changes),
        }
    }
}

/// An answer, and when its reading began.
#[derive(Debug)]
struct Answer<V> {
    read: Moment,
    value: Arc<V>,
}

impl<V> Clone for Answer<V> {
    fn clone(&self) -> Self {
        Self {
            read: self.read,
            value: Arc::clone(&self.value),
        }
    }
}

impl<K, V> Recall<K, V>
where
    K: Hash + Eq + Clone + Debug + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    pub(super) fn new(keep: Duration, changes: &Arc<Changes>) -> Self {
        let answers = moka::future::Cache::builder()
            .max_capacity(CAPACITY)
            .time_to_live(keep)
            .build();
        Self {
            answers,
            changes: Arc::clone(changes),
        }
    }

    /// The remembered answer, or the one that `read` brings.
    pub(super) async fn get<E, R>(
        &self,
        key: &K,
        subjects: &[&str],
        read: impl Fn() -> R,
    ) -> Result<Arc<V>, Arc<E>>
    where
        E: Send + Sync + 'static,
        R: Future<Output = Result<V, E>>,
    {
        if let Some(known) = self.answers.get(key).await {
            if self.changes.is_current(known.read, subjects) {
                return Ok(known.value);
            }
            self.answers.invalidate(key).await;
        }
        // rare and large: callers' futures need not carry it
        Box::pin(self.fetch(key, subjects, read)).await
    }

    async fn fetch<E, R>(
        &self,
        key: &K,
        subjects: &[&str],
        read: impl Fn() -> R,
    ) -> Result<Arc<V>, Arc<E>>
    where
        E: Send + Sync + 'static,
        R: Future<Output = Result<V, E>>,
    {
        for _ in 0..READINGS {
            let answer = self
                .answers
                .try_get_with_by_ref(key, self.begin(read()))
                .await?;
            if self.changes.is_current(answer.read, subjects) {
                return Ok(answer.value);
            }
            self.answers.invalidate(key).await;
        }
        // it changes faster than it can be read: as of now, for this caller alone
        Ok(self.begin(read()).await.map_err(Arc::new)?.value)
    }

    /// Nothing is read before the moment is taken: a future does nothing until it is awaited.
    async fn begin<E>(&self, read: impl Future<Output = Result<V, E>>) -> Result<Answer<V>, E> {
        let began = self.changes.now();
        let value = Arc::new(read.await?);
        Ok(Answer { read: began, value })
    }
}
