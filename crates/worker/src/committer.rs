//! Settles messages: publishes everything that a message requires, waits for the confirms, and passes the
//! message on to the journal, which records and acknowledges it.
//!
//! A message without outstanding publishes goes to the journal at once. The other messages go to the worker's
//! single committer, which commits them in groups. While some groups are being confirmed, the next group
//! gathers. So an idle worker commits at once and a busy one in groups, without a timer. A message depends
//! only on its own publishes: if one of them fails, that message waits and is committed again by itself, and
//! the other messages of the group continue.
//!
//! A publish that is not confirmed in time may still be confirmed later, and publishing it again would start
//! a second chain of retries. Its message therefore leaves the group and waits for the confirm, or for the
//! end of the connection. It does not delay other commits.

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

/// A message that has been processed.
pub(crate) struct Finished {
    work: Arc<Work>,
    settlement: Settlement,
    /// How many of its commits have failed.
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
    /// Tracks publishes that the broker refuses.
    refused: Lasting,
    /// Tracks a missing queue or exchange that cannot be declared.
    undeclared: Lasting,
    /// Tracks publishes that the broker has not confirmed in time.
    unconfirmed: Lasting,
}

/// The maximum number of publishes in a group, unless a single message requires more.
const GROUP_MAX: usize = broker::WINDOW_MAX;
/// The maximum number of groups being confirmed at once. It is more than one, so that a confirm that never
/// arrives delays only its own group.
const COMMITS_MAX: usize = 4;
/// The maximum number of messages being committed again at once. Each is committed alone, because the cause
/// of its failure might make other messages of a group fail too.
const REPEATS_MAX: usize = 4;
/// The maximum time to wait while the topology is declared. A responsive broker takes milliseconds.
const DECLARE_MAX: Duration = Duration::from_secs(10);

/// Creates the channel to the committer, with room for every message that can be in progress.
pub(crate) fn channel(config: &Config) -> (mpsc::Sender<Finished>, mpsc::Receiver<Finished>) {
    mpsc::channel(config.unacked_max())
}

/// The result of a task of the committer.
enum Done {
    /// A group was confirmed, except for the messages in `left`. `repeated` if the group was a single message
    /// that had failed before.
    Committed { repeated: bool, left: Left },
    /// Messages with late confirms were confirmed, except for these.
    Waited(Left),
    /// The message has waited and is to be committed again.
    Rested(Finished),
}

/// Messages of a group that could not be passed on to the journal.
#[derive(Default)]
struct Left {
    /// Messages with a failed publish.
    failed: Vec<Finished>,
    /// Messages with publishes that may still be confirmed.
    late: Vec<LateGroup>,
    /// Messages that require more than one window, and whose next window can be published.
    unfinished: Vec<Finished>,
}

/// Messages with publishes that may still be confirmed.
struct LateGroup {
    late: Late,
    /// Each message with its unconfirmed publishes, in the order of the late results.
    waiting: Vec<(Finished, Vec<Outgoing>)>,
}

/// Messages to be committed. Bounded by the prefetch, because each is an unacknowledged message.
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

    /// Settles submitted messages until all senders are dropped and nothing is left to commit.
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

    /// Publishes what the group has outstanding, one window at a time. Passes messages on to the journal once
    /// all their publishes are confirmed, and returns the others.
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

    /// Passes messages on to the journal if all their publishes are confirmed, and returns the others.
    /// `results` has one result for each publish, in order; `late` waits for those that are `None`.
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

    /// Returns the message if its ack handle is alive. Otherwise parks the message until the broker
    /// redelivers it: if its publishes were made now, the redelivery could repeat them.
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

    /// Declares the topology again after a queue or an exchange was deleted while the worker runs.
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
    /// Returns the oldest messages that together require about one window of publishes, at least one message.
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
    /// Puts refused publishes back. Returns the last error, and the publishes that are not confirmed or
    /// refused yet.
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
