//! Settling: everything a message caused is published and confirmed, then the message is acked.
//!
//! One committer for each worker. A message that owes nothing is acked at once. The others are committed in groups: while
//! some groups are being confirmed the next one gathers, so an idle worker commits at once and a busy one in groups,
//! without a timer. A message depends on its own publishes alone: when one of them fails, that message waits and is
//! committed again, and its neighbours in the group are acked.

use std::sync::Arc;

use broker::{Link, Outgoing, PublishError, Publisher, Topology};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Config,
    recall::{Recall, Work},
    registry::display_chain,
};

/// What has to be confirmed before a message may be acked.
#[derive(Debug, Default)]
pub(crate) struct Settlement {
    publishes: Vec<Outgoing>,
}

/// A message whose work is done.
pub(crate) struct Finished {
    work: Arc<Work>,
    settlement: Settlement,
    /// How often its commit failed.
    failures: u32,
}

pub(crate) struct Committer {
    publisher: Publisher,
    link: Link,
    topology: Topology,
    recall: Arc<Recall>,
}

/// Messages in a group, at most: about what one window of publishes holds.
const GROUP_MAX: usize = broker::WINDOW_MAX;
/// Groups being confirmed at once. More than one, so that a confirm that never comes holds up no more than its group.
const COMMITS_MAX: usize = 4;

/// The way to the committer, with room for every message that can be in work.
pub(crate) fn channel(config: &Config) -> (mpsc::Sender<Finished>, mpsc::Receiver<Finished>) {
    mpsc::channel(config.unacked_max())
}

impl Finished {
    pub(crate) fn new(work: Arc<Work>, settlement: Settlement) -> Self {
        Self {
            work,
            settlement,
            failures: 0,
        }
    }
}

impl Settlement {
    pub(crate) fn extend(&mut self, publishes: impl IntoIterator<Item = Outgoing>) {
        self.publishes.extend(publishes);
    }
}

impl From<Outgoing> for Settlement {
    fn from(publish: Outgoing) -> Self {
        Self {
            publishes: vec![publish],
        }
    }
}

impl FromIterator<Outgoing> for Settlement {
    fn from_iter<I: IntoIterator<Item = Outgoing>>(publishes: I) -> Self {
        Self {
            publishes: publishes.into_iter().collect(),
        }
    }
}

/// What a task of the committer ended with.
enum Done {
    /// A group was confirmed, except for these.
    Committed(Vec<Finished>),
    /// This one has waited and is to be committed again.
    Rested(Finished),
}

impl Committer {
    pub(crate) fn new(
        publisher: Publisher,
        link: Link,
        topology: Topology,
        recall: Arc<Recall>,
    ) -> Arc<Self> {
        Arc::new(Self {
            publisher,
            link,
            topology,
            recall,
        })
    }

    /// Settles what is submitted until every sender is gone and nothing is left to commit.
    pub(crate) async fn run(self: Arc<Self>, mut submitted: mpsc::Receiver<Finished>) {
        // Bounded by the prefetch: each is an unacked message.
        let mut owing: Vec<Finished> = Vec::new();
        let mut tasks = JoinSet::new();
        let mut committing = 0;
        let mut open = true;
        while open || !tasks.is_empty() {
            tokio::select! {
                finished = submitted.recv(), if open => match finished {
                    Some(finished) => {
                        self.ack_or_owe(finished, &mut owing);
                        while let Ok(finished) = submitted.try_recv() {
                            self.ack_or_owe(finished, &mut owing);
                        }
                    }
                    None => open = false,
                },
                Some(done) = tasks.join_next() => match done.expect("a commit neither panics nor is aborted") {
                    Done::Committed(failed) => {
                        committing -= 1;
                        for finished in failed {
                            tasks.spawn(rest(finished));
                        }
                    }
                    Done::Rested(finished) => owing.push(finished),
                },
            }
            while committing < COMMITS_MAX && !owing.is_empty() {
                let group: Vec<_> = owing.drain(..owing.len().min(GROUP_MAX)).collect();
                committing += 1;
                tasks.spawn(Arc::clone(&self).commit(group));
            }
        }
    }

    fn ack_or_owe(&self, finished: Finished, owing: &mut Vec<Finished>) {
        if finished.settlement.publishes.is_empty() {
            self.recall.settled(&finished.work);
        } else {
            owing.push(finished);
        }
    }

    /// Publishes what the group owes and acks those of whom everything was confirmed.
    async fn commit(self: Arc<Self>, group: Vec<Finished>) -> Done {
        let mut group: Vec<_> = group
            .into_iter()
            .filter_map(|finished| self.live(finished))
            .collect();
        let (mut publishes, mut owed) = (Vec::new(), Vec::with_capacity(group.len()));
        for finished in &mut group {
            owed.push(finished.settlement.publishes.len());
            publishes.append(&mut finished.settlement.publishes);
        }
        let results = self.publisher.publish_all(&publishes).await;
        let mut answers = publishes.into_iter().zip(results);
        let mut failed = Vec::new();
        for (mut finished, owed) in group.into_iter().zip(owed) {
            let mut error = None;
            for (publish, result) in answers.by_ref().take(owed) {
                if let Err(refused) = result {
                    finished.settlement.publishes.push(publish);
                    error = Some(refused);
                }
            }
            match error {
                None => self.recall.settled(&finished.work),
                Some(error) => {
                    self.report(&finished, &error).await;
                    finished.failures += 1;
                    failed.push(finished);
                }
            }
        }
        Done::Committed(failed)
    }

    /// Publishing for a message that the broker hands out again anyway would double what it causes: it waits for that.
    fn live(&self, finished: Finished) -> Option<Finished> {
        if finished.work.is_live() {
            return Some(finished);
        }
        let Finished {
            work,
            settlement,
            failures,
        } = finished;
        match self.recall.park(&work, settlement) {
            Ok(()) => None,
            Err(settlement) => Some(Finished {
                work,
                settlement,
                failures,
            }),
        }
    }

    async fn report(&self, finished: &Finished, error: &PublishError) {
        metrics::counter!("magnetite_publish_failures_total")
            .increment(finished.settlement.publishes.len() as u64);
        tracing::warn!(
            error = display_chain(error),
            failures = finished.failures + 1,
            "cannot publish what a message owes; the message stays unacked and is committed again"
        );
        // Somebody deleted a queue under us.
        if matches!(error, PublishError::Unroutable { .. })
            && let Err(error) = self.topology.declare(&self.link).await
        {
            tracing::warn!(error = display_chain(&error), "cannot declare the topology again");
        }
    }
}

async fn rest(finished: Finished) -> Done {
    tokio::time::sleep(broker::backoff(finished.failures)).await;
    Done::Rested(finished)
}
