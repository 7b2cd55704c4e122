//! Formatting of one run of a delivery as text: each attempt, and what comes next.

use runtime::time;
use service::resend::IN_HAND;
use webhook::{CancelReason, DeadReason, Trigger, journal::DeliveryState};
use wire::{Attempt, Delivery, DeliveryWithAttempts, Endpoint};

use crate::output::printable;

/// The maximum length of a response that is shown, in characters.
const RESPONSE_CHARS_MAX: usize = 120;

/// Context that determines what comes next.
#[derive(Clone, Copy)]
pub(in crate::command) struct Around<'a> {
    /// The endpoint's present state; `None` if it was deleted.
    pub(in crate::command) endpoint: Option<&'a Endpoint>,
    /// Whether there is a later run of the same event to the same endpoint.
    pub(in crate::command) is_superseded: bool,
    pub(in crate::command) now_ms: u64,
}

/// Returns the heading of the delivery, its attempts, and what comes next.
pub(in crate::command) fn text(run: &DeliveryWithAttempts, around: Around<'_>) -> Vec<String> {
    let mut lines = vec![heading(&run.delivery)];
    lines.extend(attempts(&run.attempts));
    lines.extend(
        next(&run.delivery, around)
            .into_iter()
            .map(|line| format!("  -> {line}")),
    );
    lines
}

fn heading(delivery: &Delivery) -> String {
    let Delivery {
        id,
        run,
        trigger,
        requested_ms,
        ..
    } = delivery;
    match (trigger.parse::<Trigger>(), requested_ms) {
        (Ok(Trigger::Event), _) => id.clone(),
        (Ok(Trigger::Ping), _) => format!("{id}  ping"),
        (_, None) => format!("{id}  run {run}, {}", printable(trigger)),
        (_, Some(requested_ms)) => format!(
            "{id}  run {run}, {}, requested at {}",
            printable(trigger),
            time::second(*requested_ms)
        ),
    }
}

/// Returns what comes next, one fact per line.
fn next(delivery: &Delivery, around: Around<'_>) -> Vec<String> {
    match delivery.state.parse::<DeliveryState>() {
        Ok(DeliveryState::Delivered) => {
            let at = time::millisecond(delivery.updated_ms);
            vec![format!(
                "delivered at {at}, by attempt {}",
                delivery.attempt_count
            )]
        }
        Ok(DeliveryState::Cancelled) => vec![cancelled(reason(delivery))],
        Ok(DeliveryState::Dead) => dead(delivery, around),
        Ok(DeliveryState::Pending) => vec![pending(delivery, around)],
        Err(_) => vec![printable(&delivery.state).into_owned()],
    }
}

fn reason(delivery: &Delivery) -> &str {
    delivery.reason.as_deref().unwrap_or_default()
}

fn dead(delivery: &Delivery, around: Around<'_>) -> Vec<String> {
    let id = &delivery.id;
    let mut lines = vec![format!(
        "dead since {}: {}",
        time::second(delivery.updated_ms),
        why_dead(reason(delivery), delivery.attempt_count)
    )];
    lines.push(match around.endpoint {
        _ if around.is_superseded => "it was sent again in a later run".to_owned(),
        None => "it cannot be sent again: the endpoint was deleted".to_owned(),
        Some(Endpoint {
            id: endpoint,
            disabled_reason: Some(reason),
            ..
        }) => format!(
            "the endpoint is disabled ({}); to send it again: magnetite endpoint enable {endpoint} && magnetite delivery \
             resend {id}",
            printable(reason)
        ),
        Some(_) => format!("to send it again: magnetite delivery resend {id}"),
    });
    lines
}

fn pending(delivery: &Delivery, around: Around<'_>) -> String {
    let number = delivery.attempt_count + 1;
    if delivery.requested_ms.is_some() && delivery.sent_ms.is_none() && delivery.attempt_count == 0 {
        let id = &delivery.id;
        return format!("requested but not sent yet; to send it now: magnetite delivery resend {id}");
    }
    let put_off = match reason(delivery) {
        "" => String::new(),
        "no_slot" => " (deferred: no slot was free for the endpoint)".to_owned(),
        reason => format!(" (deferred: {})", printable(reason)),
    };
    let next_ms = delivery.next_attempt_ms.unwrap_or_default();
    if next_ms > around.now_ms {
        let (at, left) = (time::millisecond(next_ms), time::span(next_ms - around.now_ms));
        return format!("attempt {number} is due at {at}, in {left}{put_off}");
    }
    let overdue_ms = around.now_ms - next_ms;
    let overdue = time::span(overdue_ms);
    if overdue_ms < IN_HAND.as_millis() as u64 {
        return format!(
            "attempt {number} has been due for {overdue}{put_off}: it is in progress or not recorded yet"
        );
    }
    format!(
        "attempt {number} has been due for {overdue}{put_off}: check that a worker and a recorder are running; \
         `magnetite audit` says whether it was lost"
    )
}

fn cancelled(reason: &str) -> String {
    match reason {
        _ if reason == CancelReason::EndpointDeleted.as_str() => {
            "cancelled: the endpoint was deleted".to_owned()
        }
        _ if reason == CancelReason::PingFailed.as_str() => {
            "cancelled: the ping failed, and pings are not retried".to_owned()
        }
        _ => format!("cancelled: {}", printable(reason)),
    }
}

fn why_dead(reason: &str, attempts: u32) -> String {
    match reason.parse() {
        Ok(DeadReason::Exhausted) => format!("exhausted, all {attempts} attempts failed"),
        Ok(DeadReason::Gone) => "gone, the endpoint answered 410 and was disabled".to_owned(),
        Ok(DeadReason::EndpointDisabled) => {
            "endpoint_disabled, it came due while the endpoint was disabled".to_owned()
        }
        Ok(DeadReason::NoSlot) => "no_slot, no slot was free for the endpoint for too long".to_owned(),
        Ok(DeadReason::Fault) => "fault, faults of Magnetite prevented the attempt for too long".to_owned(),
        Err(_) if reason == "lost" => "lost, it was no longer in any queue".to_owned(),
        Err(_) => printable(reason).into_owned(),
    }
}

fn attempts(attempts: &[Attempt]) -> Vec<String> {
    let spans: Vec<String> = attempts
        .iter()
        .map(|attempt| time::span(attempt.duration_ms))
        .collect();
    let width = spans.iter().map(String::len).max().unwrap_or_default();
    let line = |(attempt, span): (&Attempt, &String)| {
        let at = time::millisecond(attempt.began_ms);
        let Attempt { number, .. } = attempt;
        format!("  #{number:<2}  {at}  {span:>width$}  {}", result(attempt))
    };
    attempts.iter().zip(&spans).map(line).collect()
}

fn result(attempt: &Attempt) -> String {
    let mut text = match (attempt.status, attempt.error.as_deref().unwrap_or_default()) {
        (Some(status), "") => format!("status {status}"),
        (_, error) => printable(error).into_owned(),
    };
    if let Some(line) = first_line(&attempt.response) {
        text = format!("{text}  {line}");
    }
    text
}

/// Returns the first line that is not blank, shortened.
fn first_line(response: &str) -> Option<String> {
    let line = response.lines().map(str::trim).find(|line| !line.is_empty())?;
    let mut shown: String = line.chars().take(RESPONSE_CHARS_MAX).collect();
    if shown.len() < line.len() {
        shown.push_str("...");
    }
    Some(format!("\"{}\"", printable(&shown)))
}
