//! Creates the messages to publish and the records to write for each outcome of a delivery.

use std::time::Duration;

use broker::{DeadLetter, Message, Outgoing, Source};
use webhook::{
    AttemptId, AttemptResult, CancelReason, DeadReason, DeferReason, Delivery, Outcome, Trigger,
    journal::{AttemptRecord, Record, StepRecord, Then},
};

use crate::{Context, meters, now_ms, refusal::Refusal, registry::Registered, work::Effects};

/// Returns the effects of a charged attempt that began at `began_ms`, in Unix milliseconds. A 410
/// response also disables the endpoint.
pub(crate) fn attempted(
    context: &Context,
    delivery: Delivery,
    registered: &Registered,
    result: &AttemptResult,
    decided: Outcome,
    (began_ms, took): (u64, Duration),
) -> Effects {
    let record = attempt(context, &delivery, result, decided, (began_ms, took));
    let publish = match decided {
        Outcome::Delivered => None,
        Outcome::Cancelled { reason } => {
            count_cancelled(reason);
            None
        }
        Outcome::Retry { after } => Some(Outgoing::delay(
            &context.topology,
            &delivery.after_attempt(began_ms),
            after,
        )),
        Outcome::Dead { reason } => {
            if reason == DeadReason::Gone {
                context.gone.disable(&context.registry, &registered.endpoint);
            }
            let letter = DeadLetter {
                reason,
                attempts: delivery.attempt,
                last_status: result.status(),
                last_error: result.to_string(),
                dead_ms: now_ms(),
            };
            Some(dead(context, &delivery.after_attempt(began_ms), &letter))
        }
    };
    Effects::new(publish, record)
}

/// Returns the journal record of a request.
pub(crate) fn attempt(
    context: &Context,
    delivery: &Delivery,
    result: &AttemptResult,
    decided: Outcome,
    (began_ms, took): (u64, Duration),
) -> Option<Record> {
    let took_ms = took.as_millis() as u64;
    context.record(|| {
        let id = AttemptId::generate(began_ms, rand::random());
        let then = Then::after(decided, began_ms + took_ms);
        Record::Attempt(AttemptRecord::new(id, delivery, began_ms, took_ms, result, then))
    })
}

/// Defers a delivery that was refused a slot after waiting `spent` for one.
pub(crate) fn refused(context: &Context, delivery: Delivery, by: Refusal, spent: Duration) -> Effects {
    meters::SLOTS_REFUSED.count([by.into()]).increment(1);
    defer(context, delivery, DeferReason::NoSlot, spent)
}

/// Defers a delivery after `spent` was spent on trying; no attempt is charged.
///
/// Consecutive deferrals become longer. A delivery that has been deferred for too long in total is
/// dead-lettered, or cancelled if it is a ping.
pub(crate) fn defer(context: &Context, delivery: Delivery, why: DeferReason, spent: Duration) -> Effects {
    let put_off = delivery.put_off.longer(why, spent);
    if put_off.sum(why) > context.config.put_off_max(delivery.trigger, why) {
        return given_up(context, &delivery, why);
    }
    let tier = context.config.schedule.deferral(delivery.deferrals);
    let reason = why.as_str();
    meters::DEFERRALS.count([reason]).increment(1);
    tracing::debug!(delivery.id = %delivery.id(), reason, delay_ms = tier.as_millis() as u64, "delivery deferred");
    let at_ms = now_ms();
    let until_ms = at_ms + tier.as_millis() as u64;
    let record = step(
        context,
        &delivery,
        at_ms,
        Then::Deferred {
            reason: why,
            at_ms: until_ms,
        },
    );
    let deferred = Delivery {
        deferrals: delivery.deferrals.saturating_add(1),
        put_off: put_off.longer(why, tier),
        ..delivery
    };
    Effects::new(Some(Outgoing::delay(&context.topology, &deferred, tier)), record)
}

/// Ends a delivery that was deferred for too long. A ping is cancelled, because it must not be sent again.
fn given_up(context: &Context, delivery: &Delivery, why: DeferReason) -> Effects {
    if delivery.trigger == Trigger::Ping {
        return cancelled(context, delivery, CancelReason::PingFailed);
    }
    let reason = match why {
        DeferReason::NoSlot => DeadReason::NoSlot,
        DeferReason::Fault | DeferReason::Database => DeadReason::Fault,
    };
    dead_untried(context, delivery, reason)
}

/// Dead-letters a delivery without making the attempt that was due.
pub(crate) fn dead_untried(context: &Context, delivery: &Delivery, reason: DeadReason) -> Effects {
    let dead_ms = now_ms();
    let letter = DeadLetter {
        reason,
        attempts: delivery.attempt - 1,
        last_status: None,
        last_error: String::new(),
        dead_ms,
    };
    Effects::new(
        Some(dead(context, delivery, &letter)),
        step(context, delivery, dead_ms, Then::Dead { reason }),
    )
}

fn dead(context: &Context, delivery: &Delivery, letter: &DeadLetter) -> Outgoing {
    let reason = letter.reason.as_str();
    meters::DEAD.count([reason]).increment(1);
    tracing::warn!(
        event.id = %delivery.event.id,
        endpoint.id = %delivery.endpoint_id,
        delivery.id = %delivery.id(),
        reason,
        attempts = letter.attempts,
        http.status = letter.last_status,
        "delivery is dead; publishing it to the queue {}", context.topology.dead()
    );
    Outgoing::dead(&context.topology, delivery, letter)
}

/// Cancels a delivery that has no endpoint any more, or a ping. Nothing is published.
pub(crate) fn cancelled(context: &Context, delivery: &Delivery, reason: CancelReason) -> Effects {
    count_cancelled(reason);
    tracing::info!(
        delivery.id = %delivery.id(),
        endpoint.id = %delivery.endpoint_id,
        reason = reason.as_str(),
        "delivery cancelled"
    );
    Effects::new(
        None,
        step(context, delivery, now_ms(), Then::Cancelled { reason }),
    )
}

fn count_cancelled(reason: CancelReason) {
    meters::CANCELLED.count([reason.as_str()]).increment(1);
}

/// Returns the record of a delivery that continues or ends without the attempt that was due.
fn step(context: &Context, delivery: &Delivery, at_ms: u64, then: Then) -> Option<Record> {
    context.record(|| {
        Record::Step(StepRecord {
            delivery: delivery.into(),
            at_ms,
            attempts: delivery.attempt - 1,
            last_status: None,
            last_error: String::new(),
            then,
        })
    })
}

/// Quarantines a message: publishes it to the queue of rejected messages with the reason, which is one of
/// [`meters::rejection_reasons`]. The other messages of its queue are not affected.
pub(crate) fn quarantine(
    context: &Context,
    source: Source,
    message: &Message,
    reason: &'static str,
    detail: &str,
) -> Outgoing {
    let topology = &context.topology;
    tracing::warn!(
        queue = source.queue(topology),
        bytes = message.body.len(),
        reason,
        detail,
        "message rejected; publishing it to the queue {}",
        topology.rejected()
    );
    meters::REJECTED.count([reason]).increment(1);
    let id = format!("rej_{:032x}", rand::random::<u128>());
    Outgoing::rejected(topology, &id, message, source, reason, detail, now_ms())
}
