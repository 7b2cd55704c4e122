//! Starts a task for each message that arrives.

use std::{panic::AssertUnwindSafe, sync::Arc};

use broker::{Incoming, Message, Source};
use futures_util::FutureExt as _;

use crate::{
    due, fanout,
    job::{Job, Tasks},
    meters::PANIC,
    outcome,
    recall::Arrival,
    settlement::Settlement,
};

/// Starts a task for the message, unless an earlier copy of it is still being processed or is already
/// settled. The prefetch limits the number of tasks.
pub(crate) fn take(tasks: &Arc<Tasks>, source: Source, incoming: Incoming) {
    let first = || incoming.message.first_queue();
    let was_held =
        source == Source::Due && first().is_some_and(|queue| tasks.context.topology.is_held(&queue));
    let from = if was_held { Source::Held } else { source };
    match tasks.recall.arrive(from, &incoming, was_held) {
        Arrival::New(work) => {
            let all = Arc::clone(tasks);
            tasks.spawn(async move {
                let mut job = Job {
                    tasks: &all,
                    source,
                    work,
                };
                let settlement = settlement(&mut job, &incoming.message).await;
                all.finish(job.work, settlement).await;
            });
        }
        Arrival::Parked(work, settlement) => {
            let all = Arc::clone(tasks);
            tasks.spawn(async move { all.finish(work, settlement).await });
        }
        Arrival::Settled => incoming.ack.ack(),
        Arrival::Attached => {}
    }
}

/// Processes one message. A panic indicates a bug in processing this particular message. The message is
/// quarantined, so that it neither stops other messages nor is redelivered endlessly.
async fn settlement(job: &mut Job<'_>, message: &Message) -> Settlement {
    let (context, source) = (&job.tasks.context, job.source);
    let work = async {
        match source {
            Source::Events => fanout::event(context, job, message).await,
            Source::Due | Source::Held => due::delivery(context, job, message).await,
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
