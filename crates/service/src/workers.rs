//! Waits, after a change of an endpoint, until every running worker acts on it, so that what a request
//! reports as done is done.
//!
//! Workers announce in the database which version they act on. They are told of a change over the broker,
//! look for it, and announce it at once, so that the wait is some milliseconds; a worker that is not told
//! looks at its interval. Workers that are not known to act on the change after [`ACT_MAX`] are named in the
//! answer.

use std::time::Duration;

use broker::Changes;
use futures_util::future::join_all;
use store::{Position, Store, WorkerBehind};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// How long workers are waited for.
pub const ACT_MAX: Duration = Duration::from_secs(2);
/// Between the first two looks at what workers have announced; each later wait is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Between two later looks: many requests may wait at once.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// The most workers that the broker is asked for.
const ASKED_MAX: usize = 32;
/// A worker that is not closed, does not announce itself and does not consume was killed; after this time it
/// is not asked for again.
const LOST: Duration = Duration::from_mins(1);
/// How long a silent worker is named when the broker cannot say whether it consumes.
const NAMED_UNHEARD: Duration = Duration::from_mins(10);

/// Workers that are not known to act on a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Those that are known to run, or cannot be told from those that do.
    pub workers: Vec<WorkerBehind>,
    /// The database could not be asked: no worker is known to act on the change.
    pub unknown: bool,
}

impl Behind {
    /// Whether every running worker acts on the change.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty() && !self.unknown
    }

    /// The workers' names, which say nothing about where they run; `unknown` when not even those are known.
    pub fn names(&self) -> Vec<String> {
        let unknown = self.unknown.then(|| "unknown".to_owned());
        let names = self.workers.iter().map(|worker| worker.process.clone());
        names.chain(unknown).collect()
    }
}

/// Waits until every running worker acts on all that was written so far, for [`ACT_MAX`] at most, and returns
/// the workers that are not known to.
///
/// # Cancel safety
/// Cancel safe.
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
            tracing::warn!(%error, "it is not known which workers act on a change");
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

/// Tells workers of the change, and waits for these.
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
            // A database that fails now may answer the next time.
            if let Ok(behind) = store.workers_behind(position).await {
                let is_behind =
                    |worker: &WorkerBehind| behind.iter().any(|found| found.process == worker.process);
                heard.retain(is_behind);
            }
        }
    };
    tokio::select! {
        () = waiting => {}
        () = telling => unreachable!("it never returns"),
        () = sleep_until(deadline) => {}
    }
    heard
}

/// Returns, of workers that have not announced themselves lately, those that run all the same: cut off from
/// the database, or stopped.
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
    // So many silent workers are named without being asked for.
    found.chain(rest.iter().cloned()).collect()
}

/// Returns whether a silent worker consumes nevertheless. One that does not was killed, or is just starting.
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
