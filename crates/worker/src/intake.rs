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
    work::Processed,
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
                    processed: Processed::new(work),
                };
                process(&mut job, &incoming.message).await;
                all.finish(job.processed).await;
            });
        }
        Arrival::Parked(processed) => {
            let all = Arc::clone(tasks);
            tasks.spawn(async move { all.finish(processed).await });
        }
        Arrival::Settled => incoming.ack.ack(),
        Arrival::Attached => {}
    }
}

/// Processes one message. A panic indicates a bug in processing this particular message. The message is
/// quarantined, so that it neither stops other messages nor is redelivered endlessly.
async fn process(job: &mut Job<'_>, message: &Message) {
    let (context, source) = (&job.tasks.context, job.source);
    let processing = async {
        match source {
            Source::Events => fanout::event(context, job, message).await,
            Source::Due | Source::Held => {
                let effects = due::delivery(context, job, message).await;
                job.processed.add(effects);
            }
        }
    };
    let Err(panic) = AssertUnwindSafe(processing).catch_unwind().await else {
        return;
    };
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(
        panic = text,
        "a bug: processing a message panicked; the message is rejected"
    );
    let rejected = outcome::quarantine(context, source, message, PANIC, &text);
    job.processed.replace(rejected);
}
