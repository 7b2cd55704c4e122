//! From a message to a task.

use std::{panic::AssertUnwindSafe, sync::Arc};

use broker::{Incoming, Message, Outgoing, Source};
use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::{
    Context, due,
    fanout::{self, Pending},
    journal::Closing,
    outcome,
    recall::{Arrival, Recall, Work},
    settle::Finished,
    settlement::Settlement,
};

/// Starts one task for each message; the prefetch bounds how many there are.
pub(crate) struct Intake {
    context: Arc<Context>,
    recall: Arc<Recall>,
    submit: mpsc::Sender<Finished>,
    closing: Closing,
    tasks: TaskTracker,
}

impl Intake {
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
            tasks: TaskTracker::new(),
        }
    }

    pub(crate) fn take(self: &Arc<Self>, source: Source, incoming: Incoming) {
        match self.recall.arrive(source, &incoming) {
            Arrival::New(work) => {
                let intake = Arc::clone(self);
                self.spawn(
                    work,
                    async move { intake.settlement(source, &incoming.message).await },
                );
            }
            Arrival::Parked(work, settlement) => self.spawn(work, std::future::ready(settlement)),
            Arrival::Settled => incoming.ack.ack(),
            Arrival::Attached => {}
        }
    }

    fn spawn(&self, work: Arc<Work>, settlement: impl Future<Output = Settlement> + Send + 'static) {
        let (submit, closing) = (self.submit.clone(), self.closing.clone());
        self.tasks.spawn(async move {
            let settlement = settlement.await;
            if settlement.owed() > 0 {
                // The committer ends only after every task has.
                let _ = submit.send(Finished::new(work, settlement)).await;
            } else {
                closing.close(work, settlement).await;
            }
        });
    }

    /// Goes on with an attempt as the work on a message of its own, which is to be published for it.
    pub(crate) fn hold(&self, pending: Pending) -> Outgoing {
        let message = Outgoing::held(&self.context.topology, &pending.delivery());
        let work = self.recall.expect(Source::Held, &message.message());
        self.spawn(work, async move { pending.await.into() });
        message
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.tasks.len()
    }

    /// Waits until no message is in work. Messages that arrive meanwhile are waited for as well.
    pub(crate) async fn idle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Works on one message. A panic is a bug in the work on this very message: it is set aside, so that it neither stops the
    /// others nor comes back for ever.
    async fn settlement(&self, source: Source, message: &Message) -> Settlement {
        let work = async {
            match source {
                Source::Events => fanout::event(&self.context, self, message).await,
                Source::Due | Source::Held => due::delivery(&self.context, message).await,
            }
        };
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(settlement) => settlement,
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(ToString::to_string);
                let text = text
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_default();
                tracing::error!(
                    panic = text,
                    "a bug: the work on a message panicked; the message is set aside"
                );
                outcome::quarantine(&self.context, source, message, "panic", &text).into()
            }
        }
    }
}
