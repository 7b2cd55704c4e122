//! Processes a delivery whose next attempt is due.

use std::{sync::Arc, time::Instant};

use broker::{Message, Source};
use store::Lookup;
use webhook::{
    CancelReason, DeadReason, DeferReason, Delivery, Trigger,
    journal::{EventRecord, Record, Verdict},
};

use crate::{
    Context,
    admission::Slowness,
    attempt::attempt,
    display_chain,
    fanout::until_slow,
    job::Job,
    meters::{OTHER_ORGANIZATION, UNKNOWN_ENDPOINT},
    now_ms, outcome,
    registry::Registered,
    work::Effects,
};

/// Makes the next attempt of a delivery, with the endpoint's current URL and secret. An attempt that lasts
/// longer than a second is moved to a held message.
pub(crate) async fn delivery(context: &Context, job: &mut Job<'_>, message: &Message) -> Effects {
    let reject =
        |reason, detail: &str| outcome::quarantine(context, Source::Due, message, reason, detail).into();
    let delivery = match message.delivery() {
        Ok(delivery) => delivery,
        Err(bad) => return reject(bad.reason(), &bad.to_string()),
    };
    let pinged = pinged(context, &delivery);
    let (may_be_disabled, began) = (delivery.trigger == Trigger::Ping, Instant::now());
    let effects = match look_up(context, &delivery).await {
        Found::Endpoint(registered) if !is_own(&delivery, &registered) => {
            return reject(OTHER_ORGANIZATION, &foreign(&delivery, &registered));
        }
        Found::Endpoint(registered) if registered.endpoint.disabled.is_some() && !may_be_disabled => {
            outcome::dead_untried(context, &delivery, DeadReason::EndpointDisabled)
        }
        Found::Endpoint(registered) => {
            return attempted(context, job, delivery, &registered, pinged).await;
        }
        Found::Deleted => outcome::cancelled(context, &delivery, CancelReason::EndpointDeleted),
        Found::Unknown => {
            return reject(
                UNKNOWN_ENDPOINT,
                "this endpoint has never existed in the worker's database; check that it is the right database",
            );
        }
        Found::Unavailable => outcome::defer(context, delivery, DeferReason::Database, began.elapsed()),
    };
    effects.after(pinged)
}

/// Returns whether the event belongs to the endpoint's organization.
///
/// This is true of every delivery that a worker has written. The projects are not compared, because an
/// endpoint's project may change while its deliveries wait.
fn is_own(delivery: &Delivery, registered: &Registered) -> bool {
    delivery.event.organization_id == registered.endpoint.organization_id
}

fn foreign(delivery: &Delivery, registered: &Registered) -> String {
    format!(
        "the event belongs to organization {} and the endpoint to organization {}; nothing was sent",
        delivery.event.organization_id, registered.endpoint.organization_id
    )
}

async fn attempted(
    context: &Context,
    job: &mut Job<'_>,
    delivery: Delivery,
    registered: &Arc<Registered>,
    pinged: Option<Record>,
) -> Effects {
    let slowness = Slowness::default();
    let attempting = async {
        let effects: Effects = attempt(context, delivery.clone(), registered, &slowness).await;
        effects.after(pinged)
    };
    let mut attempting = std::pin::pin!(attempting);
    match until_slow(attempting.as_mut(), &slowness).await {
        Some(effects) => effects,
        None => job.hold(delivery.clone(), &mut Vec::new(), attempting).await,
    }
}

/// Returns the event record of a ping; `None` for other deliveries. A ping was addressed to this one endpoint
/// by the process that published it, so no other worker records its event.
fn pinged(context: &Context, delivery: &Delivery) -> Option<Record> {
    if delivery.trigger != Trigger::Ping {
        return None;
    }
    context.record(|| {
        Record::Event(EventRecord {
            event: Arc::clone(&delivery.event),
            received_ms: now_ms(),
            considered: [(delivery.endpoint_id.clone(), Verdict::Matched)]
                .into_iter()
                .collect(),
            seen: None,
        })
    })
}

enum Found {
    Endpoint(Arc<Registered>),
    Deleted,
    Unknown,
    Unavailable,
}

/// Looks up the endpoint in memory, then in the store: an endpoint that is not in memory may be newer than
/// the last refresh, or deleted.
async fn look_up(context: &Context, delivery: &Delivery) -> Found {
    if let Some(registered) = context.registry.get(&delivery.endpoint_id) {
        return Found::Endpoint(registered);
    }
    // The query is boxed because its future is fifteen kilobytes large. Otherwise every message would reserve
    // and copy that much, even without a query.
    let found = Box::pin(context.store.endpoint(&delivery.endpoint_id)).await;
    if found.is_ok() {
        context.look_ups.end();
    }
    match found {
        Ok(Lookup::Found(endpoint)) => Found::Endpoint(Arc::new(endpoint.into())),
        Ok(Lookup::Deleted) => Found::Deleted,
        Ok(Lookup::Unknown) => Found::Unknown,
        Err(error) => {
            if let Some(report) = context.look_ups.again() {
                tracing::warn!(
                    endpoint.id = %delivery.endpoint_id, error = display_chain(&error), failures = report.times,
                    "cannot look up the endpoint of a due delivery"
                );
            }
            Found::Unavailable
        }
    }
}
