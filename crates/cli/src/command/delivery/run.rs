//! Formatting of one run of a delivery as text: each attempt, and what comes next.

use runtime::time;
use service::{history::Run, resend::IN_HAND};
use store::{AttemptRow, DeliveryRow};
use webhook::{CancelReason, DeadReason, Endpoint, Trigger, journal::DeliveryState};

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
pub(in crate::command) fn text(run: &Run, around: Around<'_>) -> Vec<String> {
    let mut lines = vec![heading(&run.delivery)];
    lines.extend(attempts(&run.attempts));
    lines.extend(
        next(&run.delivery, around)
            .into_iter()
            .map(|line| format!("  -> {line}")),
    );
    lines
}

fn heading(row: &DeliveryRow) -> String {
    let DeliveryRow {
        id,
        delivery,
        requested_ms,
        ..
    } = row;
    match (delivery.trigger, requested_ms) {
        (Trigger::Event, _) => format!("{id}"),
        (Trigger::Ping, _) => format!("{id}  ping"),
        (trigger, None) => format!("{id}  run {}, {trigger}", delivery.run),
        (trigger, Some(requested_ms)) => format!(
            "{id}  run {}, {trigger}, requested at {}",
            delivery.run,
            time::second(*requested_ms)
        ),
    }
}

/// Returns what comes next, one fact per line.
fn next(row: &DeliveryRow, around: Around<'_>) -> Vec<String> {
    let standing = &row.standing;
    match standing.state {
        DeliveryState::Delivered => {
            let at = time::millisecond(standing.updated_ms);
            vec![format!("delivered at {at}, by attempt {}", standing.attempts)]
        }
        DeliveryState::Cancelled => vec![cancelled(&standing.reason)],
        DeliveryState::Dead => dead(row, around),
        DeliveryState::Pending => vec![pending(row, around)],
    }
}

fn dead(row: &DeliveryRow, around: Around<'_>) -> Vec<String> {
    let (id, standing) = (&row.id, &row.standing);
    let mut lines = vec![format!(
        "dead since {}: {}",
        time::second(standing.updated_ms),
        why_dead(&standing.reason, standing.attempts)
    )];
    lines.push(match around.endpoint {
        _ if around.is_superseded => "it was sent again in a later run".to_owned(),
        None => "it cannot be sent again: the endpoint was deleted".to_owned(),
        Some(Endpoint {
            id: endpoint,
            disabled: Some(disabled),
            ..
        }) => {
            let reason = disabled.reason;
            format!(
                "the endpoint is disabled ({reason}); to send it again: magnetite endpoint enable {endpoint} && \
                 magnetite delivery resend {id}"
            )
        }
        Some(_) => format!("to send it again: magnetite delivery resend {id}"),
    });
    lines
}

fn pending(row: &DeliveryRow, around: Around<'_>) -> String {
    let (id, standing) = (&row.id, &row.standing);
    let number = standing.attempts + 1;
    if row.requested_ms.is_some() && row.sent_ms.is_none() && standing.attempts == 0 {
        return format!("requested but not sent yet; to send it now: magnetite delivery resend {id}");
    }
    let put_off = match standing.reason.as_str() {
        "" => String::new(),
        "no_slot" => " (deferred: no slot was free for the endpoint)".to_owned(),
        reason => format!(" (deferred: {})", printable(reason)),
    };
    if standing.next_ms > around.now_ms {
        let (at, left) = (
            time::millisecond(standing.next_ms),
            time::span(standing.next_ms - around.now_ms),
        );
        return format!("attempt {number} is due at {at}, in {left}{put_off}");
    }
    let overdue_ms = around.now_ms - standing.next_ms;
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

fn attempts(attempts: &[AttemptRow]) -> Vec<String> {
    let spans: Vec<String> = attempts
        .iter()
        .map(|attempt| time::span(attempt.duration_ms))
        .collect();
    let width = spans.iter().map(String::len).max().unwrap_or_default();
    let line = |(attempt, span): (&AttemptRow, &String)| {
        let at = time::millisecond(attempt.began_ms);
        let AttemptRow { number, .. } = attempt;
        format!("  #{number:<2}  {at}  {span:>width$}  {}", result(attempt))
    };
    attempts.iter().zip(&spans).map(line).collect()
}

fn result(attempt: &AttemptRow) -> String {
    let mut text = match (attempt.status, attempt.error.as_str()) {
        (Some(status), "") => format!("status {status}"),
        (_, error) => printable(error).into_owned(),
    };
    if let Some(line) = first_line(&attempt.response) {
        text = format!("{text}  {line}");
    }
    text
}

/// Returns the first line that is not blank, shortened.
fn first_line(response: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(response);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let mut shown: String = line.chars().take(RESPONSE_CHARS_MAX).collect();
    if shown.len() < line.len() {
        shown.push_str("...");
    }
    Some(format!("\"{}\"", printable(&shown)))
}
