//! One request to one endpoint.

use std::time::{Duration, Instant, SystemTime};

use broker::Outgoing;
use webhook::{AttemptResult, DeferReason, Delivery, DeliveryId, EndpointId, Outcome};

use crate::{
    Context, admission::Slot, display_chain, now_ms, outcome, registry::Registered, settlement::Turn,
};

/// Makes the delivery's next attempt, if the endpoint has a slot free. Returns the message that has to be published before
/// the delivery's own message may be acked, none when it was delivered; and what there is to record.
pub(crate) async fn attempt(context: &Context, delivery: Delivery, registered: &Registered) -> Turn {
    let endpoint = &registered.endpoint;
    let Some(slot) = admit(context, &endpoint.id).await else {
        return outcome::refused(context, delivery);
    };
    let (began, began_ms) = (Instant::now(), now_ms());
    let id = delivery.id();
    let headers = headers(&delivery, &id, registered, began_ms);
    let posting = context
        .egress
        .post(&endpoint.url, headers, delivery.event.body.clone());
    let posted = tokio::select! {
        biased;
        posted = posting => posted,
        // Shutting down: whether the endpoint got it is not known, so it is not charged.
        () = context.abort.cancelled() => {
            let untried = Delivery { no_slot_since_ms: None, ..delivery };
            return Outgoing::due(&context.topology, &untried).into();
        }
    };
    match posted {
        Ok(result) => {
            let decided = webhook::outcome(
                &result,
                &context.config.schedule,
                delivery.attempt,
                SystemTime::now(),
            );
            slot.concluded(result.is_success());
            let took = began.elapsed();
            report(&delivery, &id, &result, decided, took);
            outcome::attempted(context, delivery, registered, &result, decided, (began_ms, took))
        }
        Err(fault) => {
            drop(slot);
            tracing::warn!(
                delivery.id = %id, error = display_chain(&fault),
                "no attempt could be made; the endpoint is not charged"
            );
            outcome::defer(context, delivery, DeferReason::Fault)
        }
    }
}

/// A slot, or none when the delivery is to be deferred. While the broker takes no publishes nothing can be deferred, and the
/// message stays unacked for as long anyway: then it waits for its slot here.
async fn admit(context: &Context, endpoint: &EndpointId) -> Option<Slot> {
    let admitted = context.admission.admit(endpoint).await;
    if admitted.is_some() || !context.publishing.is_blocked() {
        return admitted;
    }
    tokio::select! {
        slot = context.admission.wait(endpoint) => slot,
        _ = context.publishing.writable() => None,
        () = context.abort.cancelled() => None,
    }
}

/// Everything a request says besides its body (public contract, "Webhook Headers", and Standard Webhooks 1.0).
fn headers(
    delivery: &Delivery,
    id: &DeliveryId,
    registered: &Registered,
    now_ms: u64,
) -> Vec<(&'static str, String)> {
    let event = &delivery.event;
    let now_s = (now_ms / 1000) as i64;
    vec![
        (signature::SIGNATURE_HEADER, registered.key.sign(&event.body)),
        ("x-magnetite-event", event.event_type.as_str().to_owned()),
        ("x-magnetite-timestamp", event.timestamp_ms.to_string()),
        ("x-magnetite-delivery", id.to_string()),
        ("x-magnetite-attempt", delivery.attempt.to_string()),
        (signature::WEBHOOK_ID_HEADER, event.id.to_string()),
        (signature::WEBHOOK_TIMESTAMP_HEADER, now_s.to_string()),
        (
            signature::WEBHOOK_SIGNATURE_HEADER,
            registered
                .key
                .sign_standard(event.id.as_str(), now_s, &event.body),
        ),
    ]
}

/// Counts the attempt and writes its one line.
fn report(delivery: &Delivery, id: &DeliveryId, result: &AttemptResult, decided: Outcome, took: Duration) {
    let outcome = decided.as_str();
    metrics::counter!("magnetite_attempts_total", "outcome" => outcome).increment(1);
    metrics::histogram!("magnetite_attempt_duration_seconds").record(took);
    let delay_ms = match decided {
        Outcome::Retry { after } => Some(after.as_millis() as u64),
        _ => None,
    };
    let failure = (!result.is_success()).then(|| result.to_string());
    tracing::info!(
        event.id = %delivery.event.id,
        endpoint.id = %delivery.endpoint_id,
        delivery.id = %id,
        attempt.number = delivery.attempt,
        http.status = result.status(),
        outcome,
        delay_ms,
        duration_ms = took.as_millis() as u64,
        failure,
        "delivery attempted"
    );
}
