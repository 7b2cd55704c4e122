//! Settling: everything a message caused is published and confirmed, then it is recorded, then the message is acked.
//!
//! A message that owes nothing goes on to the journal at once. The others go to the worker's one committer, which commits them
//! in groups: while some groups are being confirmed the next one gathers, so an idle worker commits at once and a busy one in
//! groups, without a timer. A message depends on its own publishes alone: when one of them fails, that message waits and is
//! committed again by itself, and its neighbours in the group go on.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use broker::{Link, Outgoing, PublishError, Publisher, Topology};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::{
    Config, display_chain,
    journal::Closing,
    recall::{Recall, Work},
    settlement::Settlement,
};

/// A message whose work is done.
pub(crate) struct Finished {
    work: Arc<Work>,
    settlement: Settlement,
    /// How often its commit failed.
    failures: u32,
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

pub(crate) struct Committer {
    publisher: Publisher,
    link: Link,
    topology: Topology,
    recall: Arc<Recall>,
    closing: Closing,
}

/// Publishes of a group, at most, unless one message alone owes more.
const GROUP_MAX: usize = broker::WINDOW_MAX;
/// Groups being confirmed at once. More than one, so that a confirm that never comes holds up no more than its group.
const COMMITS_MAX: usize = 4;
/// Messages being committed once more at once. Each alone: whatever failed may be what makes its neighbours fail.
const REPEATS_MAX: usize = 4;
/// A broker that answers declares a topology in milliseconds.
const DECLARE_MAX: Duration = Duration::from_secs(10);

/// The way to the committer, with room for every message that can be in work.
pub(crate) fn channel(config: &Config) -> (mpsc::Sender<Finished>, mpsc::Receiver<Finished>) {
    mpsc::channel(config.unacked_max())
}

/// What a task of the committer ended with.
enum Done {
    /// A group was confirmed, except for these. `repeated` when it was one message that had failed before.
    Committed { repeated: bool, failed: Vec<Finished> },
    /// This one has waited and is to be committed again.
    Rested(Finished),
}

/// What is to be committed. Bounded by the prefetch: each is an unacked message.
#[derive(Default)]
struct Owing {
    fresh: VecDeque<Finished>,
    failed: VecDeque<Finished>,
}

impl Committer {
    pub(crate) fn new(
        publisher: Publisher,
        link: Link,
        topology: Topology,
        recall: Arc<Recall>,
        closing: Closing,
    ) -> Arc<Self> {
        Arc::new(Self {
            publisher,
            link,
            topology,
            recall,
            closing,
        })
    }

    /// Settles what is submitted until every sender is gone and nothing is left to commit.
    pub(crate) async fn run(self: Arc<Self>, mut submitted: mpsc::Receiver<Finished>) {
        let (mut owing, mut tasks) = (Owing::default(), JoinSet::new());
        let (mut committing, mut repeating) = (0, 0);
        let mut open = true;
        while open || !tasks.is_empty() {
            tokio::select! {
                finished = submitted.recv(), if open => match finished {
                    Some(finished) => {
                        owing.fresh.push_back(finished);
                        while let Ok(finished) = submitted.try_recv() {
                            owing.fresh.push_back(finished);
                        }
                    }
                    None => open = false,
                },
                Some(done) = tasks.join_next() => match done.expect("a commit neither panics nor is aborted") {
                    Done::Committed { repeated, failed } => {
                        *(if repeated { &mut repeating } else { &mut committing }) -= 1;
                        for finished in failed {
                            tasks.spawn(rest(finished));
                        }
                    }
                    Done::Rested(finished) => owing.failed.push_back(finished),
                },
            }
            while committing < COMMITS_MAX && !owing.fresh.is_empty() {
                committing += 1;
                tasks.spawn(Arc::clone(&self).committed(false, owing.group()));
            }
            while repeating < REPEATS_MAX
                && let Some(finished) = owing.failed.pop_front()
            {
                repeating += 1;
                tasks.spawn(Arc::clone(&self).committed(true, vec![finished]));
            }
        }
    }

    async fn committed(self: Arc<Self>, repeated: bool, group: Vec<Finished>) -> Done {
        Done::Committed {
            repeated,
            failed: self.commit(group).await,
        }
    }

    /// Publishes what the group owes, a window at a time, hands on those of whom everything was confirmed, and returns the others.
    async fn commit(&self, group: Vec<Finished>) -> Vec<Finished> {
        let mut failed = Vec::new();
        let mut redeclare = false;
        let mut owing: Vec<_> = group
            .into_iter()
            .filter_map(|finished| self.live(finished))
            .collect();
        while !owing.is_empty() {
            let windows: Vec<_> = owing
                .iter_mut()
                .map(|finished| finished.settlement.take_window(&self.topology))
                .collect();
            let owed: Vec<_> = windows.iter().map(Vec::len).collect();
            let publishes: Vec<_> = windows.into_iter().flatten().collect();
            let results = self.publisher.publish_all(&publishes).await;
            let mut answers = publishes.into_iter().zip(results);
            let mut unfinished = Vec::new();
            for (mut finished, owed) in owing.into_iter().zip(owed) {
                match finished.refused(answers.by_ref().take(owed)) {
                    Some(error) => {
                        redeclare |=
                            error.is_missing_exchange() || matches!(error, PublishError::Unroutable { .. });
                        finished.report(&error);
                        failed.push(finished);
                    }
                    None if finished.settlement.owed() == 0 => {
                        self.closing.close(finished.work, finished.settlement).await;
                    }
                    None => unfinished.push(finished),
                }
            }
            owing = unfinished;
        }
        if redeclare {
            self.redeclare().await;
        }
        failed
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

    /// Somebody deleted a queue or an exchange under us.
    async fn redeclare(&self) {
        match timeout(DECLARE_MAX, self.topology.declare(&self.link)).await {
            Ok(Ok(())) => tracing::info!("the topology is declared again"),
            Ok(Err(error)) => {
                tracing::warn!(error = display_chain(&error), "cannot declare the topology again");
            }
            Err(_) => tracing::warn!("cannot declare the topology again: no answer within {DECLARE_MAX:?}"),
        }
    }
}

impl Owing {
    /// The oldest messages that owe about a window together, at least one.
    fn group(&mut self) -> Vec<Finished> {
        let (mut group, mut owed) = (Vec::new(), 0);
        while let Some(next) = self.fresh.front() {
            owed += next.settlement.owed();
            if owed > GROUP_MAX && !group.is_empty() {
                break;
            }
            group.extend(self.fresh.pop_front());
        }
        group
    }
}

impl Finished {
    /// Takes back what was not confirmed, and says why the last of it was not.
    fn refused(
        &mut self,
        answers: impl Iterator<Item = (Outgoing, Result<(), PublishError>)>,
    ) -> Option<PublishError> {
        let mut why = None;
        for (publish, result) in answers {
            if let Err(error) = result {
                self.settlement.owe(publish);
                why = Some(error);
            }
        }
        why
    }

    fn report(&mut self, error: &PublishError) {
        self.failures += 1;
        metrics::counter!("magnetite_publish_failures_total").increment(1);
        tracing::warn!(
            error = display_chain(error),
            failures = self.failures,
            "cannot publish what a message owes; the message stays unacked and is committed again"
        );
    }
}

async fn rest(finished: Finished) -> Done {
    tokio::time::sleep(broker::backoff(finished.failures)).await;
    Done::Rested(finished)
}
