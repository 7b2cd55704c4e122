//! Makes one attempt: one request to one endpoint.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use broker::Outgoing;
use bytes::Bytes;
use webhook::{
    AttemptResult, CancelReason, DeadReason, DeferReason, Delivery, DeliveryId, Endpoint, FailureKind,
    Outcome, Signatures, Trigger,
};

use crate::{
    Context,
    admission::{Slot, Slowness},
    display_chain, now_ms, outcome,
    refusal::Refusal,
    registry::Registered,
    relay,
    signing::Signer,
    work::Effects,
};

/// How late an attempt's timeout has to be noticed for the worker to assume that this process was stalled.
const SEEN_LATE_MIN: Duration = Duration::from_secs(1);

/// Makes the delivery's next attempt, if the endpoint gets a slot.
///
/// Returns the records to write, and the message that has to be published before the delivery's own message
/// may be acknowledged. A successful delivery has no such message.
///
/// `slowness` is set when the attempt has been in flight for a second.
///
/// During the overlap of a secret rotation, an endpoint that rejects the signature is sent a second request,
/// signed with the other secret. Both requests have the same attempt number, because an endpoint that knows
/// one of two valid secrets should not be charged two attempts.
pub(crate) async fn attempt(
    context: &Context,
    delivery: Delivery,
    found: &Arc<Registered>,
    slowness: &Slowness,
) -> Effects {
    let began = Instant::now();
    let mut slot = match admit(context, &found.endpoint).await {
        Ok(slot) => slot,
        Err(by) => return outcome::refused(context, delivery, by, began.elapsed()),
    };
    let registered = match renewed(context, &delivery, found).await {
        Ok(registered) => registered,
        Err(effects) => return *effects,
    };
    let id = delivery.id();
    let signer = registered.signing.first(now_ms() as i64);
    let mut in_flight = InFlight {
        slot: &mut slot,
        slowness,
    };
    let (mut answered, mut refused) = (
        request(context, &delivery, &id, &registered, signer, &mut in_flight).await,
        None,
    );
    if let Ok(first) = &answered
        && first.result.is_unauthorized()
        && let Some(other) = signer.other()
        && is_current(context, &registered)
    {
        let decided = Outcome::Retry {
            after: Duration::ZERO,
        };
        report(context, &delivery, &id, &first.result, decided, first.took);
        refused = outcome::attempt(context, &delivery, &first.result, decided, first.time());
        answered = request(context, &delivery, &id, &registered, other, &mut in_flight).await;
    }
    let effects = match answered {
        Ok(answered) => {
            let decided = webhook::outcome(
                &answered.result,
                delivery.trigger,
                &context.config.schedule,
                delivery.attempt,
                now_ms(),
            );
            slot.concluded(answered.result.is_success());
            context.faults.end();
            report(context, &delivery, &id, &answered.result, decided, answered.took);
            let time = answered.time();
            outcome::attempted(context, delivery, &registered, &answered.result, decided, time)
        }
        // It is unknown whether the endpoint received the request, so the attempt is not charged.
        Err(Unanswered::GivenUp) => Outgoing::due(&context.topology, &delivery).into(),
        Err(fault) => {
            drop(slot);
            if let Some(report) = context.faults.again() {
                let (error, attempts) = (fault.to_string(), report.times);
                tracing::warn!(delivery.id = %id, error, attempts, "a fault on Magnetite's side: no attempt is charged");
            } else {
                tracing::debug!(delivery.id = %id, error = fault.to_string(), "a fault on Magnetite's side: no attempt is charged");
            }
            outcome::defer(context, delivery, DeferReason::Fault, began.elapsed())
        }
    };
    effects.after(refused)
}

/// Returns the endpoint as it is when the attempt begins, or the end of a delivery whose attempt must not
/// begin any more.
///
/// The wait for a slot may have been long, and a request that changed the endpoint during that wait was
/// answered as soon as this worker had announced the change.
async fn renewed(
    context: &Context,
    delivery: &Delivery,
    found: &Arc<Registered>,
) -> Result<Arc<Registered>, Box<Effects>> {
    context.pulse.steady().await;
    let Some(registered) = context.registry.renewed(found) else {
        let reason = CancelReason::EndpointDeleted;
        return Err(Box::new(outcome::cancelled(context, delivery, reason)));
    };
    if registered.endpoint.disabled.is_some() && delivery.trigger != Trigger::Ping {
        let reason = DeadReason::EndpointDisabled;
        return Err(Box::new(outcome::dead_untried(context, delivery, reason)));
    }
    Ok(registered)
}

/// Returns whether the endpoint has not changed since the attempt began.
fn is_current(context: &Context, registered: &Arc<Registered>) -> bool {
    let now = context.registry.renewed(registered);
    now.is_some_and(|now| now.endpoint.version == registered.endpoint.version)
}

/// The slot and the slowness flag of an attempt in flight.
struct InFlight<'a> {
    slot: &'a mut Slot,
    slowness: &'a Slowness,
}

/// A request whose result is known.
struct Answered {
    result: AttemptResult,
    began_ms: u64,
    took: Duration,
}

/// The reason why the result of a request is unknown.
enum Unanswered {
    /// The worker is shutting down.
    GivenUp,
    /// The request could not be sent.
    Fault(egress::Fault),
    /// The request could not be passed to the relay.
    Relay(relay::Fault),
    /// The request failed, and this process was stalled meanwhile: the endpoint may have responded in time.
    Stalled(AttemptResult),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GivenUp => f.write_str("the worker is shutting down"),
            Self::Fault(fault) => f.write_str(&display_chain(fault)),
            Self::Relay(fault) => f.write_str(&display_chain(fault)),
            Self::Stalled(result) => write!(f, "this process was stalled during the attempt: {result}"),
        }
    }
}

impl Answered {
    fn time(&self) -> (u64, Duration) {
        (self.began_ms, self.took)
    }
}

async fn request(
    context: &Context,
    delivery: &Delivery,
    id: &DeliveryId,
    registered: &Registered,
    signer: Signer<'_>,
    in_flight: &mut InFlight<'_>,
) -> Result<Answered, Unanswered> {
    let (began, began_ms) = (Instant::now(), now_ms());
    let headers = headers(delivery, id, signer, began_ms);
    let ended = in_flight.slot.ended(in_flight.slowness);
    let posting = post(context, registered, headers, delivery.event.body.clone(), ended);
    let result = tokio::select! {
        biased;
        posted = posting => posted?,
        () = context.abort.cancelled() => return Err(Unanswered::GivenUp),
    };
    if result.is_success() {
        signer.accepted();
    } else if stalled(context, &result, began) {
        return Err(Unanswered::Stalled(result));
    }
    Ok(Answered {
        result,
        began_ms,
        took: began.elapsed(),
    })
}

/// Sends one request to the endpoint's URL or, if the endpoint is a relay, to the program that is connected to the API.
async fn post(
    context: &Context,
    registered: &Registered,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    ended: impl Future<Output = ()>,
) -> Result<AttemptResult, Unanswered> {
    let egress = &context.egress;
    if registered.endpoint.is_relay() {
        let (id, patience) = (&registered.endpoint.id, egress.attempt_timeout());
        // Boxed, so that requests to URLs do not reserve the space that this needs.
        let relaying = Box::pin(context.relay.attempt(id, headers, body, patience, ended));
        return relaying.await.map_err(Unanswered::Relay);
    }
    let target = registered.target(egress);
    let posted = egress.post_until(target, headers, body, ended).await;
    posted.map_err(Unanswered::Fault)
}

/// Returns whether the worker itself may have caused a failure: this process was stalled at some time since
/// the attempt began, or the timeout was noticed long after it had passed.
fn stalled(context: &Context, result: &AttemptResult, began: Instant) -> bool {
    let seen_late = || {
        let is_timeout =
            matches!(result, AttemptResult::Failed(failure) if failure.kind == FailureKind::Timeout);
        is_timeout && began.elapsed() > context.egress.attempt_timeout() + SEEN_LATE_MIN
    };
    result.may_be_a_stalled_senders() && (context.pulse.stalled_since(began) || seen_late())
}

/// Returns a slot, or the reason why the delivery has to be deferred.
///
/// While the broker is unavailable or blocks publishing, nothing can be deferred and the message stays
/// unacknowledged anyway. In that case this function waits for a slot.
async fn admit(context: &Context, endpoint: &Endpoint) -> Result<Slot, Refusal> {
    let (id, organization) = (&endpoint.id, &endpoint.organization_id);
    let admitted = context.admission.admit(id, organization).await;
    let Err(by) = admitted else {
        return admitted;
    };
    if context.publishing.is_writable() {
        return admitted;
    }
    tokio::select! {
        slot = context.admission.wait(id, organization) => slot.ok_or(by),
        _ = context.publishing.writable() => Err(by),
        () = context.abort.cancelled() => Err(by),
    }
}

/// Returns the request headers, signed with the time `now_ms`.
fn headers(
    delivery: &Delivery,
    id: &DeliveryId,
    signer: Signer<'_>,
    now_ms: u64,
) -> Vec<(&'static str, String)> {
    let (event, signed_s) = (&delivery.event, (now_ms / 1000) as i64);
    let signatures = Signatures {
        contract: signer.sign(&event.body),
        standard: signer.sign_standard(event.id.as_str(), signed_s, &event.body),
    };
    webhook::request_headers(event, id, delivery.attempt, signed_s, signatures)
}

/// Counts the attempt and writes its log line.
fn report(
    context: &Context,
    delivery: &Delivery,
    id: &DeliveryId,
    result: &AttemptResult,
    decided: Outcome,
    took: Duration,
) {
    context.meters.attempted(decided, took);
    if decided == Outcome::Delivered && delivery.trigger == Trigger::Event {
        let after_ms = now_ms().saturating_sub(delivery.event.timestamp_ms);
        context.meters.delivered(Duration::from_millis(after_ms));
    }
    let outcome = decided.as_str();
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
