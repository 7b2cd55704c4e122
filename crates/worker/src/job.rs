//! The tasks that process messages, and how they finish.

use std::{pin::Pin, sync::Arc};

use broker::{Outgoing, Source};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use webhook::{Delivery, journal::Record};

use crate::{
    Context,
    committer::Finished,
    journal::Closing,
    recall::{Recall, Work},
    settlement::{Settlement, Turn},
};

/// The tasks of a worker, each of which processes one message. Clones share the same tasks.
#[derive(Clone)]
pub(crate) struct Tasks {
    pub(crate) context: Arc<Context>,
    pub(crate) recall: Arc<Recall>,
    submit: mpsc::Sender<Finished>,
    closing: Closing,
    tracker: TaskTracker,
}

/// The message that a task processes. It is replaced when the delivery moves to a held message.
pub(crate) struct Job<'a> {
    pub(crate) tasks: &'a Tasks,
    pub(crate) source: Source,
    pub(crate) work: Arc<Work>,
}

impl Tasks {
    pub(crate) fn new(
        context: Arc<Context>,
        recall: Arc<Recall>,
        submit: mpsc::Sender<Finished>,
        closing: Closing,
    ) -> Self {
        Self {
            context,
            recall,
            submit,
            closing,
            tracker: TaskTracker::new(),
        }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Passes on the result of processing a message: to the committer if messages have to be published before
    /// the ack, otherwise to the journal.
    pub(crate) async fn finish(&self, work: Arc<Work>, settlement: Settlement) {
        if settlement.owed() > 0 {
            // The committer ends only after all tasks have ended.
            let _ = self.submit.send(Finished::new(work, settlement)).await;
        } else {
            self.closing.close(work, settlement).await;
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
    /// the prefetch of other messages.
    ///
    /// The attempt's result then settles the held message. The current message is settled with the publish of
    /// the held message and with `records`.
    ///
    /// The attempt stays with the current message if the delivery is already held, and as long as it cannot
    /// be moved. While the broker accepts no publishes, the current message could not be acknowledged. During
    /// a shutdown the worker would not consume the held message.
    pub(crate) async fn hold(
        &mut self,
        delivery: Delivery,
        records: Vec<Record>,
        mut attempting: Pin<&mut impl Future<Output = Turn>>,
    ) -> Settlement {
        if self.source != Source::Held {
            tokio::select! {
                biased;
                turn = attempting.as_mut() => return Settlement::from(turn).and_records(records),
                () = self.tasks.context.may_hold() => {}
            }
            let (message, held) = self.tasks.expect(&delivery);
            let work = std::mem::replace(&mut self.work, held);
            self.source = Source::Held;
            let owing = Settlement::from(message).and_records(records);
            let ((), turn) = tokio::join!(self.tasks.finish(work, owing), attempting);
            return turn.into();
        }
        Settlement::from(attempting.await).and_records(records)
    }

    /// Moves one of several slow attempts to a separate held message, and returns that message for
    /// publishing.
    pub(crate) fn hold_apart(
        &self,
        delivery: &Delivery,
        attempt: impl Future<Output = Turn> + Send + 'static,
    ) -> Outgoing {
        let (message, work) = self.tasks.expect(delivery);
        let tasks = self.tasks.clone();
        self.tasks
            .spawn(async move { tasks.finish(work, attempt.await.into()).await });
        message
    }
}
