//! Announces to other processes that this worker runs, and which version of the endpoints it uses.
//!
//! A request that changes an endpoint waits until every running worker has announced that version
//! (`store::Announcement`). An announcement promises that no attempt that begins from now on uses an older
//! version. Therefore it is made after the registry has applied the version, and every attempt reads its
//! endpoint when its slot is granted.
//!
//! A worker that cannot reach the database continues with the endpoints in memory, and reports itself as
//! degraded.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use runtime::send_if_changed;
use store::{ANNOUNCED_MAX, Announcement, Store};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{display_chain, now_ms, registry::Registry, tally::Tally};

/// The interval between two announcements when nothing changes.
const EVERY: Duration = Duration::from_secs(1);
/// The maximum time for the last announcement when the process ends.
const CLOSE_MAX: Duration = Duration::from_millis(500);
const ROLE: &str = "worker";
const CUT_OFF: &str =
    "cut off from the database; delivering to the endpoints in memory, without the latest changes";

/// What other processes know about this worker.
pub(crate) struct Presence {
    process: String,
    host: String,
    /// Receives why the worker runs in a degraded state; `None` while nothing is wrong.
    degraded: watch::Sender<Option<String>>,
    /// Allows one announcement at a time, so that an older one is never written after a newer one.
    announcing: tokio::sync::Mutex<()>,
    announced: Mutex<Instant>,
    /// Whether the last announcement failed.
    failing: AtomicBool,
    /// Why the journal's queue accepts no records; `None` if it does, or if this is not known.
    unrecorded: Mutex<Option<String>>,
    /// The journal totals, which are part of each announcement.
    pub(crate) tally: Tally,
}

impl Presence {
    pub(crate) fn new(process: String, host: String, degraded: watch::Sender<Option<String>>) -> Self {
        Self {
            process,
            host,
            degraded,
            announcing: tokio::sync::Mutex::default(),
            announced: Mutex::new(Instant::now()),
            failing: AtomicBool::new(false),
            unrecorded: Mutex::default(),
            tally: Tally::default(),
        }
    }

    /// Announces the registry's position and the journal totals.
    pub(crate) async fn announce(&self, store: &Store, registry: &Registry) -> Result<(), store::Error> {
        let _alone = self.announcing.lock().await;
        let announcement = Announcement {
            process: &self.process,
            role: ROLE,
            host: &self.host,
            position: registry.position(),
            journal: self.tally.totals(),
            in_hand: self.tally.in_hand.load(Ordering::Relaxed),
            now_ms: now_ms(),
        };
        // Taken before the write, so that this worker's three seconds begin no later than the database's.
        let began = Instant::now();
        let announced = store.announce_role(&announcement).await;
        self.failing.store(announced.is_err(), Ordering::Relaxed);
        if announced.is_ok() {
            *self.announced() = began;
        }
        announced
    }

    /// Announces this worker every second, and at once when the registry's position changes. Never returns.
    pub(crate) async fn run(&self, store: &Store, registry: &Registry) {
        loop {
            let _ = timeout(EVERY, registry.moved()).await;
            if let Err(error) = self.announce(store, registry).await {
                tracing::debug!(
                    error = display_chain(&error),
                    "cannot announce this worker to the database"
                );
            }
        }
    }

    /// Stores why the journal's queue accepts no records; `None` if it does, or if this is not known.
    pub(crate) fn cannot_record(&self, why: Option<String>) {
        *self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Reports whether the worker is cut off from the database or drops records. Called several times a
    /// second.
    pub(crate) fn judge(&self, registry: &Registry) {
        let silent = self.announced().elapsed() > ANNOUNCED_MAX;
        let cut_off = silent || self.failing.load(Ordering::Relaxed) || registry.is_failing();
        let unrecorded = self
            .unrecorded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let is_dropping = self.tally.totals().dropping.is_some();
        let unrecorded = unrecorded
            .or_else(|| is_dropping.then(|| "the broker does not accept journal records".to_owned()))
            .map(|why| format!("{why}; deliveries that the worker makes meanwhile are not recorded"));
        let reasons = cut_off.then(|| CUT_OFF.to_owned()).into_iter().chain(unrecorded);
        let reasons: Vec<_> = reasons.collect();
        let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
        send_if_changed(&self.degraded, reason);
    }

    /// Returns whether the last announcement failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Announces the final journal totals, and that this worker has ended.
    pub(crate) async fn end(&self, store: &Store, registry: &Registry) {
        let ending = async {
            let _ = self.announce(store, registry).await;
            let _ = store.close_role(&self.process, ROLE).await;
        };
        let _ = timeout(CLOSE_MAX, ending).await;
    }

    /// Announces that this worker has ended before it consumed anything.
    pub(crate) async fn close(&self, store: &Store) {
        let _ = timeout(CLOSE_MAX, store.close_role(&self.process, ROLE)).await;
    }

    fn announced(&self) -> MutexGuard<'_, Instant> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
