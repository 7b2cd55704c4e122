//! Waits, after a change of an endpoint, until every running worker uses it, so that a request reports
//! success only after its change has taken effect.
//!
//! Workers announce in the database which version they use. They are notified of a change over the broker,
//! read it, and announce it at once, so the wait takes some milliseconds. A worker that is not notified reads
//! changes at its regular interval. The result lists the workers that are not known to use the change after
//! [`ACT_MAX`].

use std::time::Duration;

use broker::Changes;
use futures_util::future::join_all;
use store::{Position, Store, WorkerBehind};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// The maximum time to wait for workers.
pub const ACT_MAX: Duration = Duration::from_secs(2);
/// The pause between the first two reads of the workers' announcements. Each later pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The maximum pause between two reads, because many requests may wait at once.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// The maximum number of silent workers about which the broker is asked.
const ASKED_MAX: usize = 32;
/// The time after which a silent worker that does not consume is marked as ended in the database, so that the
/// broker is not asked about it again.
///
/// Such a worker was killed: it did not report its end, announces nothing and does not consume.
const LOST: Duration = Duration::from_mins(1);
/// How long a silent worker is listed if the broker cannot say whether it consumes.
const NAMED_UNHEARD: Duration = Duration::from_mins(10);

/// Workers that are not known to use a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Workers that are known to run, or that may be running.
    pub workers: Vec<WorkerBehind>,
    /// Whether the database could not be read. In that case no worker is known to use the change.
    pub unknown: bool,
}

impl Behind {
    /// Returns whether every running worker uses the change.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty() && !self.unknown
    }

    /// Returns the workers' names, which do not reveal where they run. If the workers are not known, the only
    /// name is `unknown`.
    pub fn names(&self) -> Vec<String> {
        let unknown = self.unknown.then(|| "unknown".to_owned());
        let names = self.workers.iter().map(|worker| worker.process.clone());
        names.chain(unknown).collect()
    }
}

/// Waits until every running worker uses all that was written so far, for at most [`ACT_MAX`]. Returns the
/// workers that are not known to do so.
///
/// # Cancel safety
/// This function is cancel safe.
pub async fn act(store: &Store, changes: &Changes) -> Behind {
    let deadline = Instant::now() + ACT_MAX;
    match timeout_at(deadline, first_look(store)).await {
        Ok(Ok((position, behind))) => {
            let (heard, silent): (Vec<_>, Vec<_>) = behind.into_iter().partition(WorkerBehind::is_heard);
            let (mut workers, silent) = tokio::join!(
                wait(store, changes, &position, heard, deadline),
                running(store, changes, silent, deadline),
            );
            workers.extend(silent);
            let unknown = false;
            Behind { workers, unknown }
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot determine which workers use a change");
            unknown()
        }
        Err(_) => unknown(),
    }
}

fn unknown() -> Behind {
    Behind {
        workers: Vec::new(),
        unknown: true,
    }
}

async fn first_look(store: &Store) -> Result<(Position, Vec<WorkerBehind>), store::Error> {
    let position = store.registry_position().await?;
    let behind = store.workers_behind(&position).await?;
    Ok((position, behind))
}

/// Notifies workers of the change, and waits for the given ones.
async fn wait(
    store: &Store,
    changes: &Changes,
    position: &Position,
    mut heard: Vec<WorkerBehind>,
    deadline: Instant,
) -> Vec<WorkerBehind> {
    if heard.is_empty() {
        return heard;
    }
    let telling = async {
        changes.tell().await;
        std::future::pending::<()>().await;
    };
    let mut pause = FIRST_PAUSE;
    let waiting = async {
        while !heard.is_empty() {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            // A database that fails now may respond the next time.
            if let Ok(behind) = store.workers_behind(position).await {
                let is_behind =
                    |worker: &WorkerBehind| behind.iter().any(|found| found.process == worker.process);
                heard.retain(is_behind);
            }
        }
    };
    tokio::select! {
        () = waiting => {}
        () = telling => unreachable!("the notification never ends"),
        () = sleep_until(deadline) => {}
    }
    heard
}

/// Returns the silent workers that still run. A silent worker has not announced itself recently. If it still
/// runs, it is cut off from the database, or stopped.
async fn running(
    store: &Store,
    changes: &Changes,
    silent: Vec<WorkerBehind>,
    deadline: Instant,
) -> Vec<WorkerBehind> {
    let (asked, rest) = silent.split_at(silent.len().min(ASKED_MAX));
    let asking = asked.iter().map(|worker| runs(store, changes, worker, deadline));
    let answers = join_all(asking).await;
    let found = asked.iter().zip(answers).filter(|(_, runs)| *runs);
    let found = found.map(|(worker, _)| worker.clone());
    // The silent workers beyond this number are listed without asking the broker about them.
    found.chain(rest.iter().cloned()).collect()
}

/// Returns whether a silent worker still consumes. A worker that does not was killed, or is just starting.
async fn runs(store: &Store, changes: &Changes, worker: &WorkerBehind, deadline: Instant) -> bool {
    let asking = timeout_at(deadline, changes.is_consuming(&worker.process));
    match asking.await.ok().flatten() {
        Some(true) => true,
        Some(false) => {
            if worker.unseen > LOST {
                let closing = store.close_role(&worker.process, "worker");
                let _ = timeout_at(deadline, closing).await;
            }
            false
        }
        None => worker.unseen < NAMED_UNHEARD,
    }
}
