//! Why an endpoint received an event, or did not.

use runtime::time;
use service::history::{EndpointHistory, Fate};
use webhook::{Endpoint, journal::EventEntry};

use crate::output::printable;

/// Returns the reason in words, as a predicate of "the endpoint ...".
pub(super) fn in_words(entry: &EndpointHistory, stored: &EventEntry) -> String {
    let event = &stored.event;
    let endpoint = entry.endpoint.as_ref();
    match entry.fate(stored) {
        Fate::Matched => "matched".to_owned(),
        Fate::Pinged => "pinged".to_owned(),
        Fate::Project => {
            let takes = endpoint.and_then(|endpoint| endpoint.project_id.as_ref());
            let takes = takes
                .map(|project| format!(" (only of project {project})"))
                .unwrap_or_default();
            format!(
                "not matched: does not receive events of project {}{}",
                printable(event.project_id.as_str()),
                printable(&takes)
            )
        }
        Fate::EventType => {
            let takes = endpoint.map(|endpoint| format!(" (only to {})", endpoint.subscription));
            format!(
                "not matched: not subscribed to {}{}",
                event.event_type,
                takes.unwrap_or_default()
            )
        }
        Fate::Disabled { at_ms, reason } => {
            format!("not matched: disabled since {} ({reason})", second(at_ms))
        }
        Fate::CreatedAfter { at_ms } => {
            format!("not matched: created after the event, at {}", second(at_ms))
        }
        Fate::Unknown => unknown(endpoint, stored),
    }
}

fn unknown(endpoint: Option<&Endpoint>, stored: &EventEntry) -> String {
    match endpoint {
        _ if stored.considered.iter().next().is_none() && stored.seen.is_none() => {
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
pub(super) fn next(entry: &EndpointHistory, stored: &EventEntry) -> Option<String> {
    let (endpoint, id) = (entry.endpoint.as_ref(), &entry.endpoint_id);
    match entry.fate(stored) {
        Fate::Matched | Fate::Pinged => {
            Some("the journal contains no delivery; see `magnetite audit`".to_owned())
        }
        Fate::Disabled { at_ms, .. } => {
            let recover = format!("magnetite endpoint recover {id} --since {}", second(at_ms));
            match endpoint?.disabled {
                Some(_) => Some(format!(
                    "to send all that it missed: magnetite endpoint enable {id} && {recover}"
                )),
                None => Some(format!(
                    "it is enabled again; to send all that it missed: {recover}"
                )),
            }
        }
        _ => None,
    }
}

fn second(unix_ms: i64) -> String {
    time::second(unix_ms.try_into().unwrap_or_default())
}
