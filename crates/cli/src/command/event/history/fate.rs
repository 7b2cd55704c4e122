//! Why an endpoint received an event, or did not.

use runtime::time;
use wire::{Considered, EventHistory};

use crate::output::printable;

/// Returns whether the event was to be delivered to the endpoint.
pub(super) fn is_matched(at: &Considered) -> bool {
    matches!(at.verdict.as_str(), "matched" | "pinged")
}

/// Returns the reason in words, as a predicate of "the endpoint ...".
pub(super) fn in_words(at: &Considered, history: &EventHistory) -> String {
    let endpoint = at.endpoint.as_ref();
    match (at.verdict.as_str(), &at.disabled) {
        ("project", _) => {
            let takes = endpoint.and_then(|endpoint| endpoint.project_id.as_ref());
            let takes = takes
                .map(|project| format!(" (only of project {project})"))
                .unwrap_or_default();
            format!(
                "not matched: does not receive events of project {}{}",
                printable(&history.project_id),
                printable(&takes)
            )
        }
        ("event_type", _) => {
            let takes = endpoint.map(|endpoint| format!(" (only to {})", endpoint.events.join(",")));
            format!(
                "not matched: not subscribed to {}{}",
                history.event_type,
                takes.unwrap_or_default()
            )
        }
        ("disabled", Some(disabled)) => format!(
            "not matched: disabled since {} ({})",
            second(disabled.since_ms),
            printable(&disabled.reason)
        ),
        ("created_after", _) => {
            let at = endpoint.map(|endpoint| format!(", at {}", second(endpoint.created_at_ms)));
            format!("not matched: created after the event{}", at.unwrap_or_default())
        }
        ("unknown", _) => unknown(at, history),
        // The other verdicts are words of their own: `matched`, `pinged`.
        (verdict, _) => printable(verdict).into_owned(),
    }
}

fn unknown(at: &Considered, history: &EventHistory) -> String {
    match &at.endpoint {
        _ if history.verdicts_missing => {
            "the journal does not say whether it matched: that record was lost, or has not arrived yet"
                .to_owned()
        }
        Some(endpoint) => format!(
            "not matched: not yet known to the worker that received the event (created at {})",
            second(endpoint.created_at_ms)
        ),
        None => "the journal does not say whether it matched".to_owned(),
    }
}

/// Returns what can be done for an endpoint without a delivery; `None` if nothing.
pub(super) fn next(at: &Considered) -> Option<String> {
    if is_matched(at) {
        return Some("the journal contains no delivery; see `magnetite audit`".to_owned());
    }
    let (id, disabled) = (&at.endpoint_id, at.disabled.as_ref()?);
    let recover = format!(
        "magnetite endpoint recover {id} --since {}",
        second(disabled.since_ms)
    );
    Some(if at.endpoint.as_ref()?.enabled {
        format!("it is enabled again; to send all that it missed: {recover}")
    } else {
        format!("to send all that it missed: magnetite endpoint enable {id} && {recover}")
    })
}

fn second(unix_ms: i64) -> String {
    time::second(unix_ms.try_into().unwrap_or_default())
}
