//! Sends copies of the journal's batches to processes that watch: `magnetite event tail`, and the API while it
//! serves streams.
//!
//! While no process watches, a batch costs one read of a flag. Copies delay nothing: a copy is discarded if
//! there is no room for it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use broker::{Copies, Link, Topology, WATCHED};
use bytes::Bytes;
use runtime::Lasting;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The maximum number of processes that can watch at once: each process of the API that serves streams, and
/// each command.
const WATCHERS_MAX: usize = 32;
/// The maximum number of batches that wait to be copied, each of at most 256 KiB before compression.
const WAITING_MAX: usize = 32;

/// The processes that watch this worker.
pub(crate) struct Tails {
    topology: Topology,
    /// Whether there may be watchers.
    is_watched: AtomicBool,
    watchers: Mutex<Vec<Watcher>>,
    /// The condition that further processes want to watch.
    refused: Lasting,
    /// The sender for batches to copy.
    copies: mpsc::Sender<Bytes>,
}

/// A process that watches.
struct Watcher {
    /// The process's queue of copies.
    queue: String,
    /// When the worker last received the queue's name.
    told: Instant,
}

impl Tails {
    /// Creates the set of watchers. Also returns the batches to copy, for [`run`](Self::run).
    pub(crate) fn new(topology: Topology) -> (Self, mpsc::Receiver<Bytes>) {
        let (copies, waiting) = mpsc::channel(WAITING_MAX);
        let tails = Self {
            topology,
            is_watched: AtomicBool::new(false),
            watchers: Mutex::default(),
            refused: Lasting::new(),
            copies,
        };
        (tails, waiting)
    }

    /// Registers a process with this queue as a watcher, or renews its registration.
    pub(crate) fn watched(&self, queue: &str) {
        if !self.topology.is_for_copies(queue) {
            tracing::debug!(
                queue,
                "ignored a queue whose name is not that of a queue for copies"
            );
            return;
        }
        let mut watchers = self.watchers();
        let told = Instant::now();
        if let Some(watcher) = watchers.iter_mut().find(|watcher| watcher.queue == queue) {
            watcher.told = told;
            return;
        }
        remove_expired(&mut watchers);
        if watchers.len() < WATCHERS_MAX {
            let queue = queue.to_owned();
            watchers.push(Watcher { queue, told });
            self.is_watched.store(true, Ordering::Release);
            drop(watchers);
            self.accepts();
        } else {
            drop(watchers);
            self.refuses(queue);
        }
    }

    fn accepts(&self) {
        if let Some(ended) = self.refused.end() {
            tracing::info!(refused = ended.times, "a further process can watch records again");
        }
    }

    fn refuses(&self, queue: &str) {
        if let Some(report) = self.refused.again() {
            tracing::warn!(
                queue,
                watchers = WATCHERS_MAX,
                refused = report.times,
                "too many processes watch records; further ones receive none from this worker; end commands `event tail` that are not needed"
            );
        }
    }

    /// Submits batches for copying, if a process watches.
    pub(crate) fn copy(&self, batches: &[Bytes]) {
        if !self.is_watched.load(Ordering::Acquire) {
            return;
        }
        for batch in batches {
            // An error means that too many batches wait.
            let _ = self.copies.try_send(batch.clone());
        }
    }

    /// Sends copies until `stop` is cancelled.
    pub(crate) async fn run(&self, link: Link, mut waiting: mpsc::Receiver<Bytes>, stop: CancellationToken) {
        let mut copies = Copies::over(link);
        let sending = async {
            while let Some(batch) = waiting.recv().await {
                for queue in self.current() {
                    copies.send(&queue, &batch).await;
                }
            }
        };
        stop.run_until_cancelled(sending).await;
    }

    /// Removes the processes that do not watch any more, and returns the queues of the others.
    fn current(&self) -> Vec<String> {
        let mut watchers = self.watchers();
        remove_expired(&mut watchers);
        self.is_watched.store(!watchers.is_empty(), Ordering::Release);
        watchers.iter().map(|watcher| watcher.queue.clone()).collect()
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<Watcher>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the processes from which the worker has not heard for too long.
fn remove_expired(watchers: &mut Vec<Watcher>) {
    watchers.retain(|watcher| watcher.told.elapsed() < WATCHED);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_copied_while_no_process_watches() {
        let (tails, mut waiting) = Tails::new(Topology::new("p", &[]));
        tails.copy(&[Bytes::from_static(b"a")]);
        tails.watched("p.events");
        tails.copy(&[Bytes::from_static(b"a")]);
        assert!(
            waiting.try_recv().is_err(),
            "a queue that is not for copies is ignored"
        );
        tails.watched("p.copies.1.2");
        tails.copy(&[Bytes::from_static(b"b")]);
        assert_eq!(waiting.try_recv().unwrap(), "b");
        tails.watchers()[0].told = Instant::now().checked_sub(WATCHED).unwrap();
        assert!(tails.current().is_empty());
        tails.copy(&[Bytes::from_static(b"c")]);
        assert!(waiting.try_recv().is_err());
    }

    #[test]
    fn watchers_and_waiting_batches_have_a_bound() {
        let (tails, _waiting) = Tails::new(Topology::new("p", &[]));
        for number in 0..100 {
            tails.watched(&format!("p.copies.1.{number}"));
            tails.copy(&[Bytes::from_static(b"a")]);
        }
        assert_eq!(tails.current().len(), WATCHERS_MAX);
        assert!(tails.refused.holds());
        // While nothing is recorded, only a further watcher removes those that are gone.
        for watcher in tails.watchers().iter_mut() {
            watcher.told = Instant::now().checked_sub(WATCHED).unwrap();
        }
        tails.watched("p.copies.2.1");
        assert_eq!(tails.current(), ["p.copies.2.1"]);
        assert!(!tails.refused.holds());
    }
}
