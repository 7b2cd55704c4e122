//! What is published for each way a delivery can go on.

use broker::{DeadLetter, Message, Outgoing, Source};
use webhook::{AttemptResult, CancelReason, DeadReason, Delivery, Outcome};

use crate::{Context, now_ms, registry::Registered};

/// Why a delivery is put off without an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deferral {
    /// The endpoint has no slot free.
    NoSlot,
    /// This machine could not make the attempt.
    Fault,
    /// The endpoint is not known here and the database is away.
    Database,
}

impl Deferral {
    const fn as_str(self) -> &'static str {
        match self {
            Self::NoSlot => "no_slot",
            Self::Fault => "fault",
            Self::Database => "database",
        }
    }
}

/// What follows from a charged attempt that began at `began_ms`. A 410 also disables the endpoint.
pub(crate) fn publish(
    context: &Context,
    delivery: Delivery,
    registered: &Registered,
    result: &AttemptResult,
    decided: Outcome,
    began_ms: u64,
) -> Option<Outgoing> {
    match decided {
        Outcome::Delivered | Outcome::Cancelled { .. } => None,
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
    }
}

/// No slot: put off again, or dead when it has been for too long.
pub(crate) fn refused(context: &Context, delivery: Delivery) -> Outgoing {
    let now_ms = now_ms();
    let since_ms = delivery.no_slot_since_ms.unwrap_or(now_ms);
    if u128::from(now_ms.saturating_sub(since_ms)) > context.config.defer_age_max.as_millis() {
        return dead_untried(context, &delivery, DeadReason::NoSlot);
    }
    defer(
        context,
        Delivery {
            no_slot_since_ms: Some(since_ms),
            ..delivery
        },
        Deferral::NoSlot,
    )
}

/// Puts a delivery off; no attempt is spent. Each deferral in a row waits longer.
pub(crate) fn defer(context: &Context, delivery: Delivery, deferral: Deferral) -> Outgoing {
    let tier = context.config.schedule.deferral(delivery.deferrals);
    let no_slot_since_ms = delivery.no_slot_since_ms.filter(|_| deferral == Deferral::NoSlot);
    let reason = deferral.as_str();
    metrics::counter!("magnetite_deferrals_total", "reason" => reason).increment(1);
    tracing::debug!(delivery.id = %delivery.id(), reason, delay_ms = tier.as_millis() as u64, "delivery deferred");
    let deferrals = delivery.deferrals.saturating_add(1);
    Outgoing::delay(
        &context.topology,
        &Delivery {
            deferrals,
            no_slot_since_ms,
            ..delivery
        },
        tier,
    )
}

/// Dead without the attempt that was due.
pub(crate) fn dead_untried(context: &Context, delivery: &Delivery, reason: DeadReason) -> Outgoing {
    let letter = DeadLetter {
        reason,
        attempts: delivery.attempt - 1,
        last_status: None,
        last_error: String::new(),
        dead_ms: now_ms(),
    };
    dead(context, delivery, &letter)
}

fn dead(context: &Context, delivery: &Delivery, letter: &DeadLetter) -> Outgoing {
    let reason = letter.reason.as_str();
    metrics::counter!("magnetite_dead_total", "reason" => reason).increment(1);
    tracing::warn!(
        event.id = %delivery.event.id,
        endpoint.id = %delivery.endpoint_id,
        delivery.id = %delivery.id(),
        reason,
        attempts = letter.attempts,
        http.status = letter.last_status,
        "delivery is dead; it is in the queue {}", context.topology.dead()
    );
    Outgoing::dead(&context.topology, delivery, letter)
}

/// Nobody is left to deliver to: there is nothing to publish.
pub(crate) fn cancelled(delivery: &Delivery, reason: CancelReason) {
    let reason = reason.as_str();
    metrics::counter!("magnetite_cancelled_total", "reason" => reason).increment(1);
    tracing::info!(delivery.id = %delivery.id(), endpoint.id = %delivery.endpoint_id, reason, "delivery cancelled");
}

/// Sets a message aside with the reason; the queue goes on.
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
        "message rejected; it is in the queue {}",
        topology.rejected()
    );
    metrics::counter!("magnetite_rejected_total", "reason" => reason).increment(1);
    Outgoing::rejected(topology, message, source, reason, detail, now_ms())
}
