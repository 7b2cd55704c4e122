//! The tasks that process messages, and how they finish.

use std::{pin::Pin, sync::Arc};

use broker::{Outgoing, Source};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use webhook::{Delivery, journal::Record};

use crate::{
    Context,
    recall::Recall,
    recording,
    work::{Effects, Processed, Settled, Work},
};

/// The tasks of a worker, each of which processes one message. Clones share the same tasks.
#[derive(Clone)]
pub(crate) struct Tasks {
    pub(crate) context: Arc<Context>,
    pub(crate) recall: Arc<Recall>,
    committer: mpsc::Sender<Processed>,
    recording: mpsc::Sender<Settled>,
    tracker: TaskTracker,
}

/// The message that a task processes. It is replaced when the delivery moves to a held message.
pub(crate) struct Job<'a> {
    pub(crate) tasks: &'a Tasks,
    pub(crate) source: Source,
    /// The message with the effects of the steps so far.
    pub(crate) processed: Processed,
}

impl Tasks {
    pub(crate) fn new(
        context: Arc<Context>,
        recall: Arc<Recall>,
        committer: mpsc::Sender<Processed>,
        recording: mpsc::Sender<Settled>,
    ) -> Self {
        Self {
            context,
            recall,
            committer,
            recording,
            tracker: TaskTracker::new(),
        }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Passes on a processed message: to the committer if messages have to be published before the ack,
    /// otherwise to the recording.
    pub(crate) async fn finish(&self, processed: Processed) {
        if processed.outstanding() > 0 {
            // The committer ends only after all tasks have ended.
            let _ = self.committer.send(processed).await;
        } else {
            recording::submit(processed.into_settled(), &self.recording, &self.recall).await;
        }
    }

    /// Returns the message that is to hold a delivery in progress, and the registered work on that message.
    fn expect(&self, delivery: &Delivery) -> (Outgoing, Arc<Work>) {
        let message = Outgoing::held(&self.context.topology, delivery);
        let work = self.recall.expect(Source::Held, &message.message());
        (message, work)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until no message is being processed, including messages that arrive during the wait.
    pub(crate) async fn idle(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Job<'_> {
    /// Returns the queue that the message came from.
    pub(crate) fn source(&self) -> Source {
        self.source
    }

    /// Moves a slow attempt from the current message to a separate held message, so that it does not occupy
    /// the prefetch of other messages, and returns its effects.
    ///
    /// The effects then belong to the held message. The current message is passed on with the publish of the
    /// held message and with `records`, which are taken.
    ///
    /// The attempt stays with the current message if the delivery is already held, and as long as it cannot
    /// be moved. While the broker accepts no publishes, the current message could not be acknowledged. During
    /// a shutdown the worker would not consume the held message.
    pub(crate) async fn hold(
        &mut self,
        delivery: Delivery,
        records: &mut Vec<Record>,
        mut attempting: Pin<&mut impl Future<Output = Effects>>,
    ) -> Effects {
        if self.source == Source::Held {
            return attempting.await;
        }
        tokio::select! {
            biased;
            effects = attempting.as_mut() => return effects,
            () = self.tasks.context.may_hold() => {}
        }
        let (message, held) = self.tasks.expect(&delivery);
        let mut current = std::mem::replace(&mut self.processed, Processed::new(held));
        self.source = Source::Held;
        current.add_publish(message);
        current.add_records(std::mem::take(records));
        let ((), effects) = tokio::join!(self.tasks.finish(current), attempting);
        effects
    }

    /// Moves one of several slow attempts to a separate held message, and adds that message to the outstanding
    /// publishes.
    pub(crate) fn hold_apart(
        &mut self,
        delivery: &Delivery,
        attempt: impl Future<Output = Effects> + Send + 'static,
    ) {
        let (message, work) = self.tasks.expect(delivery);
        let tasks = self.tasks.clone();
        self.tasks.spawn(async move {
            let mut processed = Processed::new(work);
            processed.add(attempt.await);
            tasks.finish(processed).await;
        });
        self.processed.add_publish(message);
    }
}
