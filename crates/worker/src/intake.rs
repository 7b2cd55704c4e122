//! From a message to a task.

use std::{panic::AssertUnwindSafe, pin::Pin, sync::Arc};

use broker::{Incoming, Message, Outgoing, Source};
use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use webhook::{Delivery, journal::Record};

use crate::{
    Context, due,
    fanout::{self, Pending},
    journal::Closing,
    outcome,
    recall::{Arrival, Recall, Work},
    settle::Finished,
    settlement::{Settlement, Turn},
};

/// Why a message is quarantined on which the work panicked.
pub(crate) const PANIC: &str = "panic";

/// Starts one task for each message; the prefetch bounds how many there are.
#[derive(Clone)]
pub(crate) struct Intake {
    context: Arc<Context>,
    recall: Arc<Recall>,
    submit: mpsc::Sender<Finished>,
    closing: Closing,
    tasks: TaskTracker,
}

/// The message that a task works on: the one that came, and another one once the delivery is held by a
/// message of its own.
pub(crate) struct Job<'a> {
    intake: &'a Intake,
    source: Source,
    work: Arc<Work>,
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
        let first = || incoming.message.first_queue();
        let was_held =
            source == Source::Due && first().is_some_and(|queue| self.context.topology.is_held(&queue));
        let from = if was_held { Source::Held } else { source };
        match self.recall.arrive(from, &incoming, was_held) {
            Arrival::New(work) => {
                let intake = Arc::clone(self);
                self.tasks.spawn(async move {
                    let mut job = Job {
                        intake: &intake,
                        source,
                        work,
                    };
                    let settlement = job.settlement(&incoming.message).await;
                    intake.finish(job.work, settlement).await;
                });
            }
            Arrival::Parked(work, settlement) => {
                let intake = Arc::clone(self);
                self.tasks
                    .spawn(async move { intake.finish(work, settlement).await });
            }
            Arrival::Settled => incoming.ack.ack(),
            Arrival::Attached => {}
        }
    }

    /// Hands on what the work on a message came to.
    async fn finish(&self, work: Arc<Work>, settlement: Settlement) {
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
        self.tasks.len()
    }

    /// Waits until no message is in work. Messages that arrive meanwhile are waited for as well.
    pub(crate) async fn idle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
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
                () = self.intake.context.may_hold() => {}
            }
            let (message, held) = self.intake.expect(&delivery);
            let work = std::mem::replace(&mut self.work, held);
            self.source = Source::Held;
            let owing = Settlement::from(message).and_records(records);
            let ((), turn) = tokio::join!(self.intake.finish(work, owing), attempting);
            return turn.into();
        }
        Settlement::from(attempting.await).and_records(records)
    }

    /// Goes on with one of several slow attempts as the work on a message of its own, which is to be
    /// published for it.
    pub(crate) fn hold_apart(&self, pending: Pending) -> Option<Outgoing> {
        let (delivery, attempt) = pending.into_parts()?;
        let (message, work) = self.intake.expect(&delivery);
        let intake = self.intake.clone();
        self.intake
            .tasks
            .spawn(async move { intake.finish(work, attempt.await.into()).await });
        Some(message)
    }

    /// Works on one message. A panic is a bug in the work on this very message: it is set aside, so that it
    /// neither stops the others nor comes back for ever.
    async fn settlement(&mut self, message: &Message) -> Settlement {
        let (context, source) = (&self.intake.context, self.source);
        let work = async {
            match source {
                Source::Events => fanout::event(context, self, message).await,
                Source::Due | Source::Held => due::delivery(context, self, message).await,
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
                outcome::quarantine(context, source, message, PANIC, &text).into()
            }
        }
    }
}
