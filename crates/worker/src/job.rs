//! The work on a message, and where it ends.

use std::{pin::Pin, sync::Arc};

use broker::{Outgoing, Source};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use webhook::{Delivery, journal::Record};

use crate::{
    Context,
    journal::Closing,
    recall::{Recall, Work},
    settle::Finished,
    settlement::{Settlement, Turn},
};

/// The tasks of a worker, of which each works on one message. Clones share them.
#[derive(Clone)]
pub(crate) struct Tasks {
    pub(crate) context: Arc<Context>,
    pub(crate) recall: Arc<Recall>,
    submit: mpsc::Sender<Finished>,
    closing: Closing,
    tracker: TaskTracker,
}

/// The message that a task works on: the one that came, and another one once the delivery is held by a
/// message of its own.
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

    /// Hands on what the work on a message came to.
    pub(crate) async fn finish(&self, work: Arc<Work>, settlement: Settlement) {
        if settlement.owed() > 0 {
            // The committer ends only after every task has.
            let _ = self.submit.send(Finished::new(work, settlement)).await;
        } else {
            self.closing.close(work, settlement).await;
        }
    }

    /// The message that a delivery under way is held by, and the work on it.
    fn expect(&self, delivery: &Delivery) -> (Outgoing, Arc<Work>) {
        let message = Outgoing::held(&self.context.topology, delivery);
        let work = self.recall.expect(Source::Held, &message.message());
        (message, work)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until no message is in work. Messages that arrive meanwhile are waited for as well.
    pub(crate) async fn idle(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Job<'_> {
    /// Where the message came from.
    pub(crate) fn source(&self) -> Source {
        self.source
    }

    /// Goes on with a slow attempt as the work on a message of its own, so that it keeps no room from others;
    /// what it came to then settles that message. The message so far owes it, and `records`.
    ///
    /// A delivery that is held already stays as it is, and so does one that cannot be: while the broker takes
    /// no publishes, its message could not be acked, and while the worker shuts down nothing that is
    /// published for it would be taken.
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

    /// Goes on with one of several slow attempts as the work on a message of its own, which is to be
    /// published for it.
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
