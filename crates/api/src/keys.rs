//! Who has which key, without asking the database for every request.
//!
//! The database's answer about a key counts for a second: a revoked key is refused after a second at most,
//! and a new key that was tried too early is known after a second. While the database does not answer, its
//! last answer counts for up to an hour, so that publishing goes on. A late answer is remembered as well: a
//! slow database can delay the refusal of a revoked key by as long as it takes to answer, and no longer.

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

/// How long the database's word counts.
const FRESH: Duration = Duration::from_secs(1);
/// How long it counts while the database is away.
const REMEMBERED: Duration = Duration::from_hours(1);
/// How long the database is waited for when there is a word of it to fall back to.
const PATIENCE: Duration = Duration::from_millis(500);
/// The most keys, and things that are none, that are remembered.
const KEYS_MAX: u64 = 10_000;
/// How often it is written down when keys were last used.
const NOTE_EVERY: Duration = Duration::from_mins(1);
/// How long the last note may take when the process ends.
const LAST_NOTE: Duration = Duration::from_secs(2);

type Hash = [u8; 32];
type Limiter = governor::DefaultDirectRateLimiter;

/// A key that the database knows.
pub(crate) struct Known {
    pub(crate) row: ApiKeyRow,
    usage: Arc<Usage>,
}

/// What outlives the row that was read.
struct Usage {
    limiter: Limiter,
    last_used_ms: AtomicU64,
    noted_ms: AtomicU64,
    /// Locked while the database is asked about the key.
    asking: Arc<Mutex<()>>,
}

/// Every key that was used lately. Clones share it.
#[derive(Clone)]
pub(crate) struct Keys {
    store: Store,
    quota: Quota,
    fresh: Cache<Hash, Option<Arc<Known>>>,
    remembered: Cache<Hash, Arc<Known>>,
    /// The database is away.
    away: Arc<Lasting>,
    /// The database does not take when keys were used.
    unnoted: Arc<Lasting>,
}

impl Keys {
    /// Each key may be used so many times a second, and at once.
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

    /// The key, also one that has expired or was revoked. Requests that ask at once share one answer of the
    /// database.
    ///
    /// # Errors
    /// When the database is away, and the key was not seen in the last hour.
    pub(crate) async fn find(&self, key: &ApiKey) -> Result<Option<Arc<Known>>, Arc<store::Error>> {
        let hash = key.hash();
        self.fresh.try_get_with(hash, self.look_up(hash)).await
    }

    async fn look_up(&self, hash: Hash) -> Result<Option<Arc<Known>>, store::Error> {
        let Some(known) = self.remembered.get(&hash).await else {
            return self.ask(hash, None).await;
        };
        // One question at a time: its answer is remembered, however late it comes.
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
                "the database does not say whether the key is valid; its last answer counts"
            );
        }
        Ok(Some(known))
    }

    /// Asks the database, and remembers its answer.
    async fn ask(&self, hash: Hash, before: Option<&Known>) -> Result<Option<Arc<Known>>, store::Error> {
        let found = self.store.api_key_by_hash(&hash).await?;
        if let Some(ended) = self.away.end() {
            tracing::info!(
                failures = ended.times,
                "the database says again which keys are valid"
            );
        }
        let Some(row) = found else {
            self.remembered.invalidate(&hash).await;
            return Ok(None);
        };
        let usage = before.map_or_else(|| self.unused(), |known| Arc::clone(&known.usage));
        let known = Arc::new(Known { row, usage });
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

    /// Writes down when keys were last used, once a minute. Never ends.
    pub(crate) async fn note_uses(&self) {
        let mut ticks = interval(NOTE_EVERY);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.note().await;
        }
    }

    /// The last time, when the process ends.
    pub(crate) async fn note_last_uses(&self) {
        let _ = timeout(LAST_NOTE, self.note()).await;
    }

    /// As if a second had passed.
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
                tracing::debug!(error = %runtime::display_chain(&error), "when keys were last used is not written down");
            }
            Err(error) => {
                tracing::warn!(error = %runtime::display_chain(&error), "when keys were last used is not written down; trying again in a minute");
            }
        }
    }
}

impl Known {
    /// Counts a request at this time, or says how long to wait before the next.
    ///
    /// # Errors
    /// When there were too many.
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
