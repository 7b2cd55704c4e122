//! From an event to its deliveries.

use std::{panic::AssertUnwindSafe, sync::Arc};

use broker::{Message, Outgoing, Source};
use futures_util::{FutureExt as _, future::join_all};
use webhook::{Delivery, Event};

use crate::{Context, attempt::attempt, outcome, registry::Registered, settlement::Settlement};

/// Makes the first attempt for every endpoint that gets this event.
///
/// What is not attempted here becomes a message of its own, for any worker: everything when more than
/// [`inline_max`](crate::Config::inline_max) endpoints match, and among several matches those that failed or were slow
/// last. The event's message is acked only when all of its attempts have ended, and after a crash all of them are made
/// again: an endpoint that keeps them waiting would cost its healthy siblings copies.
pub(crate) async fn event(context: &Context, message: &Message) -> Settlement {
    let event = match message.event() {
        Ok(event) => Arc::new(event),
        Err(bad) => {
            return outcome::quarantine(context, Source::Events, message, bad.reason(), &bad.to_string())
                .into();
        }
    };
    let matches = context.registry.matches(&event);
    metrics::counter!("magnetite_events_total", "type" => event.event_type.as_str()).increment(1);
    tracing::debug!(event.id = %event.id, matches = matches.len(), "event fanned out");
    let (inline, apart) = split(context, matches);
    let attempts = inline.iter().map(|endpoint| guarded(context, &event, endpoint));
    let settlement: Settlement = join_all(attempts).await.into_iter().flatten().collect();
    settlement.and_apart(event, apart)
}

/// The first attempt. If it panics, that delivery becomes a message of its own, where a panic harms no sibling.
async fn guarded(context: &Context, event: &Arc<Event>, endpoint: &Registered) -> Option<Outgoing> {
    let attempting = AssertUnwindSafe(attempt(context, first(event, endpoint), endpoint));
    let panicked = |_| Some(Outgoing::due(&context.topology, &first(event, endpoint)));
    attempting.catch_unwind().await.unwrap_or_else(panicked)
}

type Endpoints = Vec<Arc<Registered>>;

/// Who is attempted inline, and who by a message apart.
fn split(context: &Context, matches: Endpoints) -> (Endpoints, Endpoints) {
    match matches.len() {
        0 | 1 => (matches, Vec::new()),
        many if many > context.config.inline_max => (Vec::new(), matches),
        _ => matches
            .into_iter()
            .partition(|registered| !context.admission.is_suspect(&registered.endpoint.id)),
    }
}

fn first(event: &Arc<Event>, registered: &Registered) -> Delivery {
    Delivery::first(Arc::clone(event), registered.endpoint.id.clone())
}
