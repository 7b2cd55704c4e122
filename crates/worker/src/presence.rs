//! Announces this worker to other processes: that it runs, and which version of the endpoints it acts on.
//!
//! A request that changes an endpoint waits until every running worker has announced that version
//! (`store::Announcement`). An announcement says that no attempt that begins from now on begins with an older
//! one. So it is made after the registry has taken the version over, and every attempt reads its endpoint
//! when its slot is granted.
//!
//! A worker that cannot reach the database goes on with what it knows, and reports itself as degraded.

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

/// How often a worker announces itself when nothing changes.
const EVERY: Duration = Duration::from_secs(1);
/// How long the last word to the database may take when the process ends.
const CLOSE_MAX: Duration = Duration::from_millis(500);
const ROLE: &str = "worker";
const CUT_OFF: &str =
    "cut off from the database; delivering to the endpoints that are known, without the latest changes";

/// What other processes know of this worker.
pub(crate) struct Presence {
    process: String,
    host: String,
    /// Why the worker works on with less than all it should have; `None` while nothing is wrong.
    degraded: watch::Sender<Option<String>>,
    /// One announcement at a time, so that an older one never comes after a newer one.
    announcing: tokio::sync::Mutex<()>,
    announced: Mutex<Instant>,
    /// The last announcement failed.
    failing: AtomicBool,
    /// Why the journal's queue takes no records, as far as it is known.
    unrecorded: Mutex<Option<String>>,
    /// What became of the journal, which is announced as well.
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

    /// Announces what the worker acts on now.
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
        // Measured from before the write: the database's three seconds begin later.
        let began = Instant::now();
        let announced = store.announce_role(&announcement).await;
        self.failing.store(announced.is_err(), Ordering::Relaxed);
        if announced.is_ok() {
            *self.announced() = began;
        }
        announced
    }

    /// Announces every change of what the worker acts on at once, and the worker every second. Never returns.
    pub(crate) async fn run(&self, store: &Store, registry: &Registry) {
        loop {
            let _ = timeout(EVERY, registry.moved()).await;
            if let Err(error) = self.announce(store, registry).await {
                tracing::debug!(error = display_chain(&error), "cannot announce this worker");
            }
        }
    }

    /// Notes why the journal's queue takes no records; `None` if it does, or it is not known.
    pub(crate) fn cannot_record(&self, why: Option<String>) {
        *self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Reports whether the worker is cut off from the database, or drops records. Called several times a
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
            .or_else(|| is_dropping.then(|| "the broker takes no records".to_owned()))
            .map(|why| format!("{why}; deliveries that the worker makes meanwhile are not recorded"));
        let reasons = cut_off.then(|| CUT_OFF.to_owned()).into_iter().chain(unrecorded);
        let reasons: Vec<_> = reasons.collect();
        let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
        send_if_changed(&self.degraded, reason);
    }

    /// Whether the last announcement failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Announces a last time what became of the journal, and that this worker has ended.
    pub(crate) async fn end(&self, store: &Store, registry: &Registry) {
        let ending = async {
            let _ = self.announce(store, registry).await;
            let _ = store.close_role(&self.process, ROLE).await;
        };
        let _ = timeout(CLOSE_MAX, ending).await;
    }

    /// Announces that this worker has ended, which did nothing.
    pub(crate) async fn close(&self, store: &Store) {
        let _ = timeout(CLOSE_MAX, store.close_role(&self.process, ROLE)).await;
    }

    fn announced(&self) -> MutexGuard<'_, Instant> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
