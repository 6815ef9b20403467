//! Whether a text is a key that works, asked by every request.
//!
//! Guarantees: a wrong text costs the database at most one look per id in ten seconds, and nothing at
//! all where it is not well formed; hashes are compared in constant time, and an unknown id takes the
//! same way as a wrong secret; expiry and overlap are looked at with each use, not with each load;
//! that a key is used is noted in the background and never delays or fails a request.
//!
//! A change of a key is seen by whoever asks ten seconds after its commit; after [`ApiKeys::forget`]
//! at once. The proof: the number of times that an id was forgotten is part of its place in the
//! cache. Who asks after `forget` looks at a new place, and what is there was loaded by somebody who
//! had seen the new number before the load began. What an older load finds goes to the old place,
//! also if it ends later, where nobody looks any more.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use chrono::{DateTime, TimeDelta, Utc};
use moka::{Expiry, future::Cache};
use sqlx::{FromRow, PgConnection};

use super::{ApiKey, ApiKeyText, Standing, with_columns};
use tokio::sync::Semaphore;

use crate::{db::Db, shutdown::Tasks};

/// Looks at the table at once: ids that somebody makes up are as many as they like.
const LOADS: usize = 2;

/// How long a loaded row is believed, from the beginning of its load.
const TTL: Duration = Duration::from_secs(10);

/// Rows in the cache, unknown ids among them.
const MAX_ENTRIES: u64 = 10_000;

/// How long a look at the database may take; less than [`TTL`].
const LOAD_LIMIT: Duration = Duration::from_secs(5);

/// Pause between two notes of one key's use.
const USE_PAUSE: TimeDelta = TimeDelta::minutes(1);

/// Ids share counters, so that ids that somebody makes up take no memory. To forget one is to forget
/// its neighbours: they are loaded again.
const COUNTERS: usize = 256;

/// Why a text opens nothing.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be a key: wrong shape or checksum.
    #[error("this is no well-formed API key")]
    Malformed,
    /// No key, or not any more. Which of them is nobody's business.
    #[error("the API key is unknown or revoked")]
    Refused,
    /// The right text of a key whose time is over.
    #[error("the API key has expired")]
    Expired,
    /// The control database does not answer.
    #[error("the API key cannot be looked up")]
    Unavailable(#[source] Arc<sqlx::Error>),
}

impl KeyError {
    /// Stable code, explained in docs/errors.md.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "api_key_malformed",
            Self::Refused => "api_key_refused",
            Self::Expired => "api_key_expired",
            Self::Unavailable(_) => "control_database_unavailable",
        }
    }

    /// Whether nobody knows: the same text may work in a moment.
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// A key's row with its hashes.
#[derive(FromRow)]
struct Row {
    #[sqlx(flatten)]
    key: ApiKey,
    hash: Vec<u8>,
    previous_hash: Option<Vec<u8>>,
}

/// What the database said of an id.
struct Loaded {
    began: Instant,
    /// `None`: there is no such key.
    key: Option<Arc<ApiKey>>,
    hash: [u8; 32],
    previous_hash: [u8; 32],
}

impl Loaded {
    fn new(began: Instant, row: Option<Row>) -> Self {
        // where there is none, a hash that no text has: the comparison is made all the same
        let known = |hash: Option<Vec<u8>>| {
            let hash = hash.and_then(|hash| hash.try_into().ok());
            hash.unwrap_or([0; 32])
        };
        let (key, hash, previous_hash) = match row {
            Some(row) => (Some(row.key), Some(row.hash), row.previous_hash),
            None => (None, None, None),
        };
        Self {
            began,
            key: key.map(Arc::new),
            hash: known(hash),
            previous_hash: known(previous_hash),
        }
    }

    /// The key whose text has this hash, if it works at `now`.
    fn open(&self, hash: &[u8; 32], now: DateTime<Utc>) -> Result<&Arc<ApiKey>, KeyError> {
        // both, whatever the first one says
        let is_current = verify_slices_are_equal(&self.hash, hash).is_ok();
        let is_previous = verify_slices_are_equal(&self.previous_hash, hash).is_ok();
        let key = self.key.as_ref().ok_or(KeyError::Refused)?;
        let overlaps = key.previous_until.is_some_and(|until| now < until);
        let is_right = is_current || (is_previous && overlaps);
        if !is_right {
            return Err(KeyError::Refused);
        }
        match key.standing(now) {
            Standing::Active => Ok(key),
            Standing::Expired => Err(KeyError::Expired),
            Standing::Revoked => Err(KeyError::Refused),
        }
    }
}

/// A place in the cache: id, and how often it was forgotten.
type Place = (String, u64);

/// Counts from the beginning of the load: it may have read before a change, and ended after it.
struct SinceLoad;

impl Expiry<Place, Arc<Loaded>> for SinceLoad {
    fn expire_after_create(
        &self,
        _: &Place,
        loaded: &Arc<Loaded>,
        created_at: Instant,
    ) -> Option<Duration> {
        Some(TTL.saturating_sub(created_at.saturating_duration_since(loaded.began)))
    }
}

/// The keys as requests see them; clones share what they remember.
#[derive(Clone)]
pub struct ApiKeys {
    db: Db,
    tasks: Tasks,
    loaded: Cache<Place, Arc<Loaded>>,
    forgotten: Arc<[AtomicU64; COUNTERS]>,
    /// Looks at the table that may be under way.
    loads: Arc<Semaphore>,
    /// When a key's use was noted last. Only keys that exist get here.
    noted: Arc<Mutex<HashMap<String, DateTime<Utc>>>>,
}

impl std::fmt::Debug for ApiKeys {
    /// Without the hashes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKeys")
            .field("entries", &self.loaded.entry_count())
            .finish_non_exhaustive()
    }
}

impl ApiKeys {
    /// Remembers nothing yet, connects to nothing yet.
    pub fn new(db: &Db, tasks: &Tasks) -> Self {
        let loaded = Cache::builder()
            .max_capacity(MAX_ENTRIES)
            .expire_after(SinceLoad)
            .build();
        Self {
            db: db.within(LOAD_LIMIT),
            tasks: tasks.clone(),
            loaded,
            loads: Arc::new(Semaphore::new(LOADS)),
            forgotten: Arc::new([const { AtomicU64::new(0) }; COUNTERS]),
            noted: Arc::default(),
        }
    }

    /// The key of this text, if it works at `now`.
    pub async fn authenticate(
        &self,
        text: &str,
        now: DateTime<Utc>,
    ) -> Result<Arc<ApiKey>, KeyError> {
        let text = ApiKeyText::parse(text).ok_or(KeyError::Malformed)?;
        let loaded = self.load(text.id()).await?;
        let key = loaded.open(&text.hash(), now)?;
        self.note_use(&key.id, now);
        Ok(Arc::clone(key))
    }

    /// A key has changed: the next request looks at the database.
    pub fn forget(&self, id: &str) {
        self.counter(id).fetch_add(1, Ordering::SeqCst);
    }

    /// Any key may have changed, as after a time without word from the other replicas.
    pub fn forget_all(&self) {
        for counter in self.forgotten.iter() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn counter(&self, id: &str) -> &AtomicU64 {
        &self.forgotten[crc32fast::hash(id.as_bytes()) as usize % COUNTERS]
    }

    /// What is known of an id: one look, however many ask at a time.
    async fn load(&self, id: &str) -> Result<Arc<Loaded>, KeyError> {
        // before the load begins: see the proof above
        let place = (id.to_owned(), self.counter(id).load(Ordering::SeqCst));
        let load = async {
            // whoever makes up keys takes few connections from those who bring events
            let _permit = self.loads.acquire().await;
            let began = Instant::now();
            let row = self.db.run(async |connection| find(connection, id).await);
            Ok(Arc::new(Loaded::new(began, row.await?)))
        };
        let loaded = self.loaded.try_get_with(place, load).await;
        loaded.map_err(KeyError::Unavailable)
    }

    /// Notes the use unless that was done a moment ago.
    fn note_use(&self, id: &str, now: DateTime<Utc>) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        // a clock that was set back must not stop the notes
        let is_recent = |last: &DateTime<Utc>| (now - *last).abs() < USE_PAUSE;
        if noted.get(id).is_some_and(is_recent) {
            return;
        }
        noted.insert(id.to_owned(), now);
        drop(noted);
        let (db, id) = (self.db.clone(), id.to_owned());
        self.tasks.spawn(async move {
            let note = async |connection: &mut _| mark_used(connection, &id, now).await;
            if let Err(error) = db.run(note).await {
                tracing::debug!(key.id = id, %error, "the use of an API key was not noted");
            }
        });
    }
}

async fn find(connection: &mut PgConnection, id: &str) -> sqlx::Result<Option<Row>> {
    sqlx::query_as(with_columns!(
        "select hash, previous_hash,",
        "from api_keys where id = $1"
    ))
    .bind(id)
    .fetch_optional(connection)
    .await
}

async fn mark_used(
    connection: &mut PgConnection,
    id: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update api_keys
         -- another replica may have noted a later use
         set last_used_at = greatest(last_used_at, $2)
         where id = $1",
    )
    .bind(id)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}
