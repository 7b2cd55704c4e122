//! Settling: everything a message caused is published and confirmed, then it is recorded, then the message is
//! acked.
//!
//! A message that owes nothing goes on to the journal at once. The others go to the worker's one committer,
//! which commits them in groups: while some groups are being confirmed the next one gathers, so an idle
//! worker commits at once and a busy one in groups, without a timer. A message depends on its own publishes
//! alone: when one of them fails, that message waits and is committed again by itself, and its neighbours in
//! the group go on.
//!
//! A publish that is not confirmed in time may be confirmed later: publishing it again would begin a second
//! chain of retries. Its message leaves the group and waits for the confirm, or for the end of the
//! connection, and holds up no other commit meanwhile.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use broker::{Late, Link, Outgoing, PublishError, PublishResult, Publisher, Topology};
use runtime::Lasting;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::{
    Config, display_chain,
    journal::Closing,
    meters,
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
    /// The broker does not take what messages owe.
    refused: Lasting,
    /// A queue or exchange is missing and cannot be declared.
    undeclared: Lasting,
    /// The broker has not confirmed what messages owe in time.
    unconfirmed: Lasting,
}

/// Publishes of a group, at most, unless one message alone owes more.
const GROUP_MAX: usize = broker::WINDOW_MAX;
/// Groups being confirmed at once. More than one, so that a confirm that never comes holds up no more than
/// its group.
const COMMITS_MAX: usize = 4;
/// Messages being committed once more at once. Each alone: whatever failed may be what makes its neighbours
/// fail.
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
    Committed { repeated: bool, left: Left },
    /// Messages whose confirms were late were confirmed, except for these.
    Waited(Left),
    /// This one has waited and is to be committed again.
    Rested(Finished),
}

/// Messages of a group that could not be handed on.
#[derive(Default)]
struct Left {
    /// A publish of theirs has failed.
    failed: Vec<Finished>,
    /// Publishes of theirs may still be confirmed.
    late: Vec<LateGroup>,
    /// They owe more than one window, and the next one can be published.
    unfinished: Vec<Finished>,
}

/// Messages whose publishes may still be confirmed.
struct LateGroup {
    late: Late,
    /// Each with its publishes that were not answered, in the order of the late results.
    waiting: Vec<(Finished, Vec<Outgoing>)>,
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
        meters::UNCONFIRMED.level([]).set(0.0);
        Arc::new(Self {
            publisher,
            link,
            topology,
            recall,
            closing,
            refused: Lasting::new(),
            undeclared: Lasting::new(),
            unconfirmed: Lasting::new(),
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
                    Done::Committed { repeated, left } => {
                        *(if repeated { &mut repeating } else { &mut committing }) -= 1;
                        self.go_on(left, &mut owing, &mut tasks);
                    }
                    Done::Waited(left) => self.go_on(left, &mut owing, &mut tasks),
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

    fn go_on(self: &Arc<Self>, left: Left, owing: &mut Owing, tasks: &mut JoinSet<Done>) {
        for finished in left.failed {
            tasks.spawn(rest(finished));
        }
        for group in left.late {
            tasks.spawn(Arc::clone(self).waited(group));
        }
        owing.fresh.extend(left.unfinished);
    }

    async fn committed(self: Arc<Self>, repeated: bool, group: Vec<Finished>) -> Done {
        Done::Committed {
            repeated,
            left: self.commit(group).await,
        }
    }

    async fn waited(self: Arc<Self>, group: LateGroup) -> Done {
        let messages = group.waiting.len();
        if self.unconfirmed.again().is_some() {
            tracing::warn!(
                messages,
                "publishes are not confirmed in time; their messages stay unacknowledged until they are, or the connection ends"
            );
        }
        let waiting = meters::UNCONFIRMED.level([]);
        waiting.increment(messages as f64);
        let results = group.late.results().await.into_iter().map(Some);
        waiting.decrement(messages as f64);
        if let Some(ended) = self.unconfirmed.end() {
            tracing::info!(
                groups = ended.times,
                "publishes are confirmed again, or their connection has ended"
            );
        }
        Done::Waited(self.sort(group.waiting, results, None).await)
    }

    /// Publishes what the group owes, a window at a time, hands on those of whom everything was confirmed,
    /// and returns the others.
    async fn commit(&self, group: Vec<Finished>) -> Left {
        let mut left = Left::default();
        let mut owing: Vec<_> = group
            .into_iter()
            .filter_map(|finished| self.live(finished))
            .collect();
        while !owing.is_empty() {
            let windows: Vec<_> = owing
                .into_iter()
                .map(|mut finished| {
                    let window = finished.settlement.take_window(&self.topology);
                    (finished, window)
                })
                .collect();
            let publishes: Vec<_> = windows.iter().flat_map(|(_, window)| window).collect();
            let (results, late) = self.publisher.publish_once(&publishes).await;
            let sorted = self.sort(windows, results, late).await;
            left.failed.extend(sorted.failed);
            left.late.extend(sorted.late);
            owing = sorted.unfinished;
        }
        left
    }

    /// Hands on the messages of whom everything was confirmed, and returns the others. `results` has one for
    /// each publish, in order; `late` waits for those that are `None`.
    async fn sort(
        &self,
        windows: Vec<(Finished, Vec<Outgoing>)>,
        results: impl IntoIterator<Item = Option<PublishResult>>,
        late: Option<Late>,
    ) -> Left {
        let (mut left, mut waiting, mut redeclare) = (Left::default(), Vec::new(), false);
        let mut results = results.into_iter();
        for (mut finished, window) in windows {
            let mut answers = window.into_iter().zip(results.by_ref());
            let (refused, unanswered) = finished.take_answers(&mut answers);
            if let Some(error) = &refused {
                redeclare |= error.is_missing_exchange() || matches!(error, PublishError::Unroutable { .. });
                self.report(&mut finished, error);
            }
            if !unanswered.is_empty() {
                waiting.push((finished, unanswered));
            } else if refused.is_some() {
                left.failed.push(finished);
            } else if finished.settlement.owed() == 0 {
                self.closing.close(finished.work, finished.settlement).await;
            } else {
                left.unfinished.push(finished);
            }
        }
        left.late.extend(late.map(|late| LateGroup { late, waiting }));
        if redeclare {
            self.redeclare().await;
        }
        if left.failed.is_empty()
            && left.late.is_empty()
            && let Some(ended) = self.refused.end()
        {
            tracing::info!(failures = ended.times, "what messages owe can be published again");
        }
        left
    }

    fn report(&self, finished: &mut Finished, error: &PublishError) {
        finished.failures += 1;
        meters::PUBLISH_FAILURES.count([]).increment(1);
        if let Some(report) = self.refused.again() {
            tracing::warn!(
                error = display_chain(error),
                failures = report.times,
                "cannot publish what messages owe; the messages stay unacked and are committed again"
            );
        }
    }

    /// Publishing for a message that the broker hands out again anyway would double what it causes: it waits
    /// for that.
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
            Ok(Ok(())) => {
                self.undeclared.end();
                tracing::info!("the topology is declared again");
            }
            Ok(Err(error)) => self.cannot_declare(&display_chain(&error)),
            Err(_) => self.cannot_declare(&format!("no answer within {DECLARE_MAX:?}")),
        }
    }

    fn cannot_declare(&self, error: &str) {
        if self.undeclared.again().is_some() {
            tracing::warn!(error, "cannot declare the topology again");
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
    /// Takes back what was refused, says why the last of it was, and returns what is not answered yet.
    fn take_answers(
        &mut self,
        answers: impl Iterator<Item = (Outgoing, Option<PublishResult>)>,
    ) -> (Option<PublishError>, Vec<Outgoing>) {
        let (mut why, mut unanswered) = (None, Vec::new());
        for (publish, result) in answers {
            match result {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    self.settlement.owe(publish);
                    why = Some(error);
                }
                None => unanswered.push(publish),
            }
        }
        (why, unanswered)
    }
}

async fn rest(finished: Finished) -> Done {
    tokio::time::sleep(broker::backoff(finished.failures)).await;
    Done::Rested(finished)
}
