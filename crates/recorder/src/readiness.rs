//! Reports for `/readyz` whether the recorder can do its main job: consume its three queues, and write to the
//! database.
//!
//! A recorder that cannot publish operational messages stays ready and reports itself as degraded.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use broker::{BLOCKED, Link, RefusalKind, Topology};
use runtime::send_if_changed;
use tokio::{sync::watch, time::sleep};

use crate::{INBOXES, display_chain};

/// The interval between two reports, unless something changes sooner.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a transaction may take before it is reported. After that the database is unresponsive, or the
/// transaction waits for a lock.
const COMMIT_MAX: Duration = Duration::from_secs(5);

/// Whether the database accepts the records. Clones share the same state.
#[derive(Clone, Default)]
pub(crate) struct Writing(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// When the transaction in progress began; `None` between two transactions.
    began: Option<Instant>,
    /// Why the last transaction failed; `None` unless it is retried.
    failing: Option<String>,
}

impl Writing {
    /// Records that a transaction begins.
    pub(crate) fn begins(&self) {
        self.state().began = Some(Instant::now());
    }

    /// Records the result of the transaction. Only an unavailable database counts as failing, because a
    /// database that refuses some records may accept the others.
    pub(crate) fn ended(&self, result: &Result<(), store::Error>) {
        self.state().began = None;
        match result {
            Ok(()) => self.state().failing = None,
            Err(error) if error.is_unavailable() => self.fails(error),
            Err(_) => {}
        }
    }

    /// Records that the database accepts no records.
    pub(crate) fn fails(&self, error: &store::Error) {
        self.state().failing = Some(display_chain(error));
    }

    /// Records that no transaction is being retried.
    pub(crate) fn given_up(&self) {
        *self.state() = State::default();
    }

    fn obstacle(&self) -> Option<String> {
        let state = self.state();
        if let Some(error) = &state.failing {
            return Some(format!("cannot write to the database: {error}"));
        }
        let hangs = state.began.is_some_and(|began| began.elapsed() > COMMIT_MAX);
        hangs.then(|| {
            format!("the database has not answered for over {COMMIT_MAX:?}; it is unavailable or locked")
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Readiness {
    /// Receives what the recorder is waiting for.
    pub(crate) ready: watch::Sender<Option<String>>,
    /// Receives why the recorder runs in a degraded state.
    pub(crate) degraded: watch::Sender<Option<String>>,
    /// Which queues are being consumed.
    pub(crate) consumed: watch::Receiver<[bool; INBOXES.len()]>,
    pub(crate) consuming: Link,
    pub(crate) publishing: Link,
    pub(crate) topology: Topology,
    pub(crate) writing: Writing,
    /// Why this process last failed to write its row in the table `roles`, which it does every second; `None`
    /// if it succeeded.
    pub(crate) database: watch::Receiver<Option<String>>,
}

impl Readiness {
    /// Reports until the consumers have ended.
    pub(crate) async fn watch(mut self) {
        let operations = [self.topology.operations_exchange()];
        let (publishing, topology) = (self.publishing.clone(), self.topology.clone());
        let asking = publishing.watch_permissions(&topology, &operations);
        let reporting = async {
            loop {
                self.report();
                tokio::select! {
                    // An error means that the consumers have ended, and their state does not change any more.
                    changed = self.consumed.changed() => if changed.is_err() { return },
                    () = sleep(LOOK_EVERY) => {}
                }
            }
        };
        tokio::select! {
            () = asking => unreachable!("`watch_permissions` never returns"),
            () = reporting => {}
        }
    }

    fn report(&mut self) {
        let waits_for = self.waits_for();
        let degraded = self.degraded();
        send_if_changed(&self.ready, waits_for);
        send_if_changed(&self.degraded, degraded);
    }

    fn waits_for(&mut self) -> Option<String> {
        let consumes_all = self.consumed.borrow_and_update().iter().all(|consumed| *consumed);
        if let Some(why) = self.writing.obstacle().or_else(|| self.database.borrow().clone()) {
            return Some(format!("{why}; records wait in the queues"));
        }
        (!consumes_all).then(|| {
            let refusals = self.consuming.is_up().then(|| self.consuming.refusals());
            let refusal = refusals.into_iter().flatten().next();
            let waits_for = "connecting to the broker, or declaring its queues";
            refusal.map_or_else(|| waits_for.to_owned(), |refusal| refusal.why)
        })
    }

    fn degraded(&self) -> Option<String> {
        if self.publishing.is_blocked() {
            return Some(format!("{BLOCKED}; operational messages are delayed"));
        }
        // An exchange without a bound queue is not a fault.
        let mut refusals = self.publishing.refusals().into_iter();
        let refusal = refusals.find(|refusal| refusal.kind == RefusalKind::Exchange)?;
        Some(format!("{}; operational messages are delayed", refusal.why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_reported_until_a_transaction_succeeds_or_nothing_is_tried() {
        let writing = Writing::default();
        assert_eq!(writing.obstacle(), None);
        writing.begins();
        writing.ended(&Err(store::Error::NoSealingKey));
        assert_eq!(writing.obstacle(), None, "the database refused a record");
        writing.fails(&store::Error::NoSealingKey);
        writing.begins();
        assert!(
            writing.obstacle().unwrap().contains("cannot write"),
            "the write is retried"
        );
        writing.ended(&Ok(()));
        assert_eq!(writing.obstacle(), None);
        writing.fails(&store::Error::NoSealingKey);
        writing.given_up();
        assert_eq!(writing.obstacle(), None);
    }

    #[test]
    fn a_transaction_that_hangs_is_reported() {
        let writing = Writing::default();
        writing.state().began = Instant::now().checked_sub(COMMIT_MAX + Duration::from_secs(1));
        assert!(writing.obstacle().unwrap().contains("has not answered"));
    }
}
