//! Settles messages: publishes everything that a message requires, waits for the confirms, and passes the
//! message on to the recording, which records and acknowledges it.
//!
//! A message without outstanding publishes goes to the recording at once. The other messages go to the
//! worker's single committer, which commits them in groups. While some groups are being confirmed, the next
//! group gathers. So an idle worker commits at once and a busy one in groups, without a timer. A message
//! depends only on its own publishes: if one of them fails, that message waits and is committed again by
//! itself, and the other messages of the group continue.
//!
//! A publish that is not confirmed in time may still be confirmed later, and publishing it again would start
//! a second chain of retries. Its message therefore leaves the group and waits for the confirm, or for the
//! end of the connection. It does not delay other commits.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use broker::{Late, Link, Outgoing, PublishError, PublishResult, Publisher, Topology};
use runtime::Lasting;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::{
    Config, display_chain, meters,
    recall::Recall,
    recording,
    work::{Processed, Settled},
};

pub(crate) struct Committer {
    publisher: Publisher,
    link: Link,
    topology: Topology,
    recall: Arc<Recall>,
    recording: mpsc::Sender<Settled>,
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
pub(crate) fn channel(config: &Config) -> (mpsc::Sender<Processed>, mpsc::Receiver<Processed>) {
    mpsc::channel(config.unacked_max())
}

/// The result of a task of the committer.
enum TaskResult {
    /// A group was confirmed, except for the messages in `left`. `repeated` if the group was a single message
    /// that had failed before.
    Committed { repeated: bool, left: Left },
    /// Messages with late confirms were confirmed, except for these.
    Waited(Left),
    /// The message has waited and is to be committed again.
    Rested(Processed),
}

/// Messages of a group that could not be passed on to the recording.
#[derive(Default)]
struct Left {
    /// Messages with a failed publish.
    failed: Vec<Processed>,
    /// Messages with publishes that may still be confirmed.
    late: Vec<LateGroup>,
    /// Messages that require more than one window, and whose next window can be published.
    unfinished: Vec<Processed>,
}

/// Messages with publishes that may still be confirmed.
struct LateGroup {
    late: Late,
    /// Each message with its unconfirmed publishes, in the order of the late results.
    waiting: Vec<(Processed, Vec<Outgoing>)>,
}

/// Messages to be committed. Bounded by the prefetch, because each is an unacknowledged message.
#[derive(Default)]
struct Uncommitted {
    fresh: VecDeque<Processed>,
    failed: VecDeque<Processed>,
}

impl Committer {
    pub(crate) fn new(
        publisher: Publisher,
        link: Link,
        topology: Topology,
        recall: Arc<Recall>,
        recording: mpsc::Sender<Settled>,
    ) -> Arc<Self> {
        meters::UNCONFIRMED.level([]).set(0.0);
        Arc::new(Self {
            publisher,
            link,
            topology,
            recall,
            recording,
            refused: Lasting::new(),
            undeclared: Lasting::new(),
            unconfirmed: Lasting::new(),
        })
    }

    /// Settles submitted messages until all senders are dropped and nothing is left to commit.
    pub(crate) async fn run(self: Arc<Self>, mut submitted: mpsc::Receiver<Processed>) {
        let (mut uncommitted, mut tasks) = (Uncommitted::default(), JoinSet::new());
        let (mut committing, mut repeating) = (0, 0);
        let mut open = true;
        while open || !tasks.is_empty() {
            tokio::select! {
                processed = submitted.recv(), if open => match processed {
                    Some(processed) => {
                        uncommitted.fresh.push_back(processed);
                        while let Ok(processed) = submitted.try_recv() {
                            uncommitted.fresh.push_back(processed);
                        }
                    }
                    None => open = false,
                },
                Some(done) = tasks.join_next() => match done.expect("a commit neither panics nor is aborted") {
                    TaskResult::Committed { repeated, left } => {
                        *(if repeated { &mut repeating } else { &mut committing }) -= 1;
                        self.go_on(left, &mut uncommitted, &mut tasks);
                    }
                    TaskResult::Waited(left) => self.go_on(left, &mut uncommitted, &mut tasks),
                    TaskResult::Rested(processed) => uncommitted.failed.push_back(processed),
                },
            }
            while committing < COMMITS_MAX && !uncommitted.fresh.is_empty() {
                committing += 1;
                tasks.spawn(Arc::clone(&self).committed(false, uncommitted.group()));
            }
            while repeating < REPEATS_MAX
                && let Some(processed) = uncommitted.failed.pop_front()
            {
                repeating += 1;
                tasks.spawn(Arc::clone(&self).committed(true, vec![processed]));
            }
        }
    }

    fn go_on(self: &Arc<Self>, left: Left, uncommitted: &mut Uncommitted, tasks: &mut JoinSet<TaskResult>) {
        for processed in left.failed {
            tasks.spawn(rest(processed));
        }
        for group in left.late {
            tasks.spawn(Arc::clone(self).waited(group));
        }
        uncommitted.fresh.extend(left.unfinished);
    }

    async fn committed(self: Arc<Self>, repeated: bool, group: Vec<Processed>) -> TaskResult {
        TaskResult::Committed {
            repeated,
            left: self.commit(group).await,
        }
    }

    async fn waited(self: Arc<Self>, group: LateGroup) -> TaskResult {
        let messages = group.waiting.len();
        if self.unconfirmed.again().is_some() {
            tracing::warn!(
                messages,
                "the broker has not confirmed publishes in time; their messages stay unacknowledged until it does or the connection ends"
            );
        }
        let waiting = meters::UNCONFIRMED.level([]);
        waiting.increment(messages as f64);
        let results = group.late.results().await.into_iter().map(Some);
        waiting.decrement(messages as f64);
        if let Some(ended) = self.unconfirmed.end() {
            tracing::info!(
                groups = ended.times,
                "the broker has confirmed the late publishes, or their connection has ended"
            );
        }
        TaskResult::Waited(self.sort(group.waiting, results, None).await)
    }

    /// Publishes what the group has outstanding, one window at a time. Passes messages on to the recording
    /// once all their publishes are confirmed, and returns the others.
    async fn commit(&self, group: Vec<Processed>) -> Left {
        let mut left = Left::default();
        let mut group: Vec<_> = group
            .into_iter()
            .filter_map(|processed| self.live(processed))
            .collect();
        while !group.is_empty() {
            let windows: Vec<_> = group
                .into_iter()
                .map(|mut processed| {
                    let window = processed.take_window(&self.topology);
                    (processed, window)
                })
                .collect();
            let publishes: Vec<_> = windows.iter().flat_map(|(_, window)| window).collect();
            let (results, late) = self.publisher.publish_once(&publishes).await;
            let sorted = self.sort(windows, results, late).await;
            left.failed.extend(sorted.failed);
            left.late.extend(sorted.late);
            group = sorted.unfinished;
        }
        left
    }

    /// Passes messages on to the recording if all their publishes are confirmed, and returns the others.
    /// `results` has one result for each publish, in order; `late` waits for those that are `None`.
    async fn sort(
        &self,
        windows: Vec<(Processed, Vec<Outgoing>)>,
        results: impl IntoIterator<Item = Option<PublishResult>>,
        late: Option<Late>,
    ) -> Left {
        let (mut left, mut waiting, mut redeclare) = (Left::default(), Vec::new(), false);
        let mut results = results.into_iter();
        for (mut processed, window) in windows {
            let answers = window.into_iter().zip(results.by_ref());
            let (refused, unanswered) = take_answers(&mut processed, answers);
            if let Some(error) = &refused {
                redeclare |= error.is_missing_exchange() || matches!(error, PublishError::Unroutable { .. });
                self.report(&mut processed, error);
            }
            if !unanswered.is_empty() {
                waiting.push((processed, unanswered));
            } else if refused.is_some() {
                left.failed.push(processed);
            } else if processed.outstanding() == 0 {
                recording::submit(processed.into_settled(), &self.recording, &self.recall).await;
            } else {
                left.unfinished.push(processed);
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
            tracing::info!(failures = ended.times, "publishing works again");
        }
        left
    }

    fn report(&self, processed: &mut Processed, error: &PublishError) {
        processed.failures += 1;
        meters::PUBLISH_FAILURES.count([]).increment(1);
        if let Some(report) = self.refused.again() {
            tracing::warn!(
                error = display_chain(error),
                failures = report.times,
                "publishing failed; the messages that require it stay unacknowledged, and publishing is tried again"
            );
        }
    }

    /// Returns the message if its ack handle is alive. Otherwise parks the message until the broker
    /// redelivers it: if its publishes were made now, the redelivery could repeat them.
    fn live(&self, processed: Processed) -> Option<Processed> {
        if processed.work.is_live() {
            return Some(processed);
        }
        self.recall.park(processed).err()
    }

    /// Declares the topology again after a queue or an exchange was deleted while the worker runs.
    async fn redeclare(&self) {
        match timeout(DECLARE_MAX, self.topology.declare(&self.link)).await {
            Ok(Ok(())) => {
                self.undeclared.end();
                tracing::info!("declared the topology again");
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

impl Uncommitted {
    /// Returns the oldest messages that together require about one window of publishes, at least one message.
    fn group(&mut self) -> Vec<Processed> {
        let (mut group, mut publishes) = (Vec::new(), 0);
        while let Some(next) = self.fresh.front() {
            publishes += next.outstanding();
            if publishes > GROUP_MAX && !group.is_empty() {
                break;
            }
            group.extend(self.fresh.pop_front());
        }
        group
    }
}

/// Puts refused publishes of a message back. Returns the last error, and the publishes that are not confirmed
/// or refused yet.
fn take_answers(
    processed: &mut Processed,
    answers: impl Iterator<Item = (Outgoing, Option<PublishResult>)>,
) -> (Option<PublishError>, Vec<Outgoing>) {
    let (mut why, mut unanswered) = (None, Vec::new());
    for (publish, result) in answers {
        match result {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                processed.add_publish(publish);
                why = Some(error);
            }
            None => unanswered.push(publish),
        }
    }
    (why, unanswered)
}

async fn rest(processed: Processed) -> TaskResult {
    tokio::time::sleep(broker::backoff(processed.failures)).await;
    TaskResult::Rested(processed)
}
