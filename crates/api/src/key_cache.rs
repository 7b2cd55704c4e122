//! A cache of API keys, so that not every request needs a database query.
//!
//! The database's answer about a key is valid for one second: a revoked key is refused after at most one
//! second, and a new key that was tried too early is accepted after one second. While the database does not
//! answer, its last answer is valid for up to an hour, so that publishing continues. An answer that arrives
//! late is cached as well: a slow database can delay the refusal of a revoked key only by the time that it
//! takes to answer.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{Quota, RateLimiter, clock::Clock as _};
use moka::future::Cache;
use runtime::Lasting;
use store::{ApiKeyRow, Store};
use tokio::{
    sync::Mutex,
    time::{interval, timeout},
};
use webhook::{ApiKey, ApiKeyId};

/// How long an answer of the database is valid.
const FRESH: Duration = Duration::from_secs(1);
/// How long an answer is valid while the database is unavailable.
const REMEMBERED: Duration = Duration::from_hours(1);
/// How long to wait for the database if there is an earlier answer to fall back on.
const PATIENCE: Duration = Duration::from_millis(500);
/// The maximum number of keys, including unknown ones, in the cache.
const KEYS_MAX: u64 = 10_000;
/// The interval at which the times when keys were last used are written to the database.
const NOTE_EVERY: Duration = Duration::from_mins(1);
/// The maximum time for the last such write when the process ends.
const LAST_NOTE: Duration = Duration::from_secs(2);

type Hash = [u8; 32];
type Limiter = governor::DefaultDirectRateLimiter;

/// A key that exists in the database.
pub(crate) struct Known {
    pub(crate) row: Arc<ApiKeyRow>,
    usage: Arc<Usage>,
}

/// The state of a key that is kept when its row is read again.
struct Usage {
    limiter: Limiter,
    last_used_ms: AtomicU64,
    noted_ms: AtomicU64,
    /// Locked while the database is queried about the key.
    asking: Arc<Mutex<()>>,
}

/// All keys that were used recently. Clones share the same cache.
#[derive(Clone)]
pub(crate) struct KeyCache {
    store: Store,
    quota: Quota,
    fresh: Cache<Hash, Option<Arc<Known>>>,
    remembered: Cache<Hash, Arc<Known>>,
    /// The condition that the database is unavailable.
    away: Arc<Lasting>,
    /// The condition that the times when keys were last used cannot be written.
    unnoted: Arc<Lasting>,
}

impl KeyCache {
    /// Creates a cache. `rate_per_key` is both the number of requests per second and the burst that each key
    /// may make.
    pub(crate) fn new(store: Store, rate_per_key: u32) -> Self {
        Self {
            store,
            quota: Quota::per_second(NonZeroU32::new(rate_per_key).unwrap_or(NonZeroU32::MIN)),
            fresh: Cache::builder()
                .max_capacity(KEYS_MAX)
                .time_to_live(FRESH)
                .build(),
            remembered: Cache::builder()
                .max_capacity(KEYS_MAX)
                .time_to_live(REMEMBERED)
                .build(),
            away: Arc::default(),
            unnoted: Arc::default(),
        }
    }

    /// Returns the key, even if it has expired or was revoked; `None` if it does not exist. Concurrent
    /// requests for the same key share one query.
    ///
    /// # Errors
    /// Returns an error if the query fails, unless the database is unavailable and an answer from the last
    /// hour is cached.
    pub(crate) async fn find(&self, key: &ApiKey) -> Result<Option<Arc<Known>>, Arc<store::Error>> {
        let hash = key.hash();
        self.fresh.try_get_with(hash, self.look_up(hash)).await
    }

    async fn look_up(&self, hash: Hash) -> Result<Option<Arc<Known>>, store::Error> {
        let Some(known) = self.remembered.get(&hash).await else {
            return self.ask(hash, None).await;
        };
        // Only one query per key is made at a time. Its answer is cached, however late it arrives.
        let Ok(asking) = Arc::clone(&known.usage.asking).try_lock_owned() else {
            return Ok(Some(known));
        };
        let (keys, remembered) = (self.clone(), Arc::clone(&known));
        let answer = tokio::spawn(async move {
            let answer = keys.ask(hash, Some(&remembered)).await;
            drop(asking);
            answer
        });
        match timeout(PATIENCE, answer).await {
            Ok(Ok(Ok(found))) => return Ok(found),
            Ok(Ok(Err(error))) if !error.is_unavailable() => return Err(error),
            _ => {}
        }
        if self.away.again().is_some() {
            tracing::warn!(
                api_key.id = %known.row.id,
                "cannot look up the API key in the database; using the cached key"
            );
        }
        Ok(Some(known))
    }

    /// Queries the database and caches its answer.
    async fn ask(&self, hash: Hash, before: Option<&Known>) -> Result<Option<Arc<Known>>, store::Error> {
        let found = self.store.api_key_by_hash(&hash).await?;
        if let Some(ended) = self.away.end() {
            tracing::info!(
                failures = ended.times,
                "the database answers look-ups of API keys again"
            );
        }
        let Some(row) = found else {
            self.remembered.invalidate(&hash).await;
            return Ok(None);
        };
        let usage = before.map_or_else(|| self.unused(), |known| Arc::clone(&known.usage));
        let known = Arc::new(Known {
            row: Arc::new(row),
            usage,
        });
        self.remembered.insert(hash, Arc::clone(&known)).await;
        Ok(Some(known))
    }

    fn unused(&self) -> Arc<Usage> {
        Arc::new(Usage {
            limiter: RateLimiter::direct(self.quota),
            last_used_ms: AtomicU64::new(0),
            noted_ms: AtomicU64::new(0),
            asking: Arc::default(),
        })
    }

    /// Writes the times when keys were last used, once a minute. Never returns.
    pub(crate) async fn note_uses(&self) {
        let mut ticks = interval(NOTE_EVERY);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.note().await;
        }
    }

    /// Writes the times when keys were last used once more, when the process ends.
    pub(crate) async fn note_last_uses(&self) {
        let _ = timeout(LAST_NOTE, self.note()).await;
    }

    /// Replaces what is cached about a key that this process has revoked, so that it is refused at once. Other
    /// processes refuse it within a second, and so does this one if a query about the key is in progress.
    pub(crate) async fn replace(&self, row: ApiKeyRow) {
        let Some((hash, known)) = self.remembered.iter().find(|(_, known)| known.row.id == row.id) else {
            return;
        };
        let known = Arc::new(Known {
            row: Arc::new(row),
            usage: Arc::clone(&known.usage),
        });
        self.remembered.insert(*hash, Arc::clone(&known)).await;
        self.fresh.insert(*hash, Some(known)).await;
    }

    /// Expires the answers that are valid for a second.
    #[cfg(test)]
    pub(crate) fn forget_what_is_fresh(&self) {
        self.fresh.invalidate_all();
    }

    async fn note(&self) {
        let known: Vec<_> = self.remembered.iter().map(|(_, known)| known).collect();
        let uses: Vec<(ApiKeyId, u64)> = known.iter().filter_map(|known| known.new_use()).collect();
        match self.store.note_api_key_uses(&uses).await {
            Ok(()) => {
                self.unnoted.end();
                for known in &known {
                    known.noted(&uses);
                }
            }
            Err(error) if self.unnoted.again().is_none() => {
                tracing::debug!(error = %runtime::display_chain(&error), "cannot record when API keys were last used");
            }
            Err(error) => {
                tracing::warn!(error = %runtime::display_chain(&error), "cannot record when API keys were last used; trying again in a minute");
            }
        }
    }
}

impl Known {
    /// Counts a request against the key's rate limit and records the time of its use.
    ///
    /// # Errors
    /// Returns how long to wait if the rate limit is exceeded.
    pub(crate) fn use_at(&self, now_ms: u64) -> Result<(), Duration> {
        self.usage.limiter.check().map_err(|not_until| {
            let clock = governor::clock::DefaultClock::default();
            not_until.wait_time_from(clock.now())
        })?;
        self.usage.last_used_ms.fetch_max(now_ms, Ordering::Relaxed);
        Ok(())
    }

    fn new_use(&self) -> Option<(ApiKeyId, u64)> {
        let used_ms = self.usage.last_used_ms.load(Ordering::Relaxed);
        (used_ms > self.usage.noted_ms.load(Ordering::Relaxed)).then(|| (self.row.id.clone(), used_ms))
    }

    fn noted(&self, uses: &[(ApiKeyId, u64)]) {
        if let Some((_, used_ms)) = uses.iter().find(|(id, _)| *id == self.row.id) {
            self.usage.noted_ms.fetch_max(*used_ms, Ordering::Relaxed);
        }
    }
}
