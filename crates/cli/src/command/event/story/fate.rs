//! Why an endpoint got an event, or did not.

use serde_json::{Value, json};
use webhook::{
    Endpoint,
    journal::{EventEntry, Verdict},
};

use crate::{moment, output::printable};

use super::Chapter;

/// The end of "the endpoint ...".
pub(super) fn in_words(chapter: &Chapter, stored: &EventEntry) -> String {
    let event = &stored.event;
    let endpoint = chapter.endpoint.as_ref();
    match chapter.verdict {
        Some(Verdict::Matched) if event.is_ping() => "pinged".to_owned(),
        Some(Verdict::Matched) => "matched".to_owned(),
        Some(Verdict::Project) => {
            let takes = endpoint.and_then(|endpoint| endpoint.project_id.as_ref());
            let takes = takes
                .map(|project| format!(" (it takes {project}'s)"))
                .unwrap_or_default();
            format!(
                "not matched: not for {}{}",
                printable(event.project_id.as_str()),
                printable(&takes)
            )
        }
        Some(Verdict::EventType) => {
            let takes = endpoint.map(|endpoint| format!(" (it is to {})", endpoint.subscription));
            format!(
                "not matched: not subscribed to {}{}",
                event.event_type,
                takes.unwrap_or_default()
            )
        }
        Some(Verdict::Disabled { at_ms, reason }) => {
            format!("not matched: disabled since {} ({reason})", second(at_ms))
        }
        None => unknown(endpoint, stored),
    }
}

fn unknown(endpoint: Option<&Endpoint>, stored: &EventEntry) -> String {
    match endpoint {
        Some(endpoint) if is_newer(endpoint, stored) => format!(
            "not matched: created after the event, at {}",
            second(endpoint.created_at_ms)
        ),
        _ if stored.considered.iter().next().is_none() => {
            "the journal does not say whether it matched: that record was lost, or has not come yet"
                .to_owned()
        }
        Some(endpoint) => format!(
            "not matched: not known yet to the worker that took the event (created at {})",
            second(endpoint.created_at_ms)
        ),
        None => "the journal does not say whether it matched".to_owned(),
    }
}

/// What can be done for an endpoint without a delivery.
pub(super) fn next(chapter: &Chapter) -> Option<String> {
    let (endpoint, id) = (chapter.endpoint.as_ref(), &chapter.endpoint_id);
    match chapter.verdict {
        Some(Verdict::Matched) => {
            Some("the journal knows of no delivery; `magnetite audit` says more".to_owned())
        }
        Some(Verdict::Disabled { at_ms, .. }) => {
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

/// For scripts: a word of a closed set, and details of a disabled endpoint.
pub(super) fn word(chapter: &Chapter, stored: &EventEntry) -> (&'static str, Option<Value>) {
    match chapter.verdict {
        Some(Verdict::Matched) if stored.event.is_ping() => ("pinged", None),
        Some(Verdict::Matched) => ("matched", None),
        Some(Verdict::Project) => ("project", None),
        Some(Verdict::EventType) => ("event_type", None),
        Some(Verdict::Disabled { at_ms, reason }) => (
            "disabled",
            Some(json!({ "since_ms": at_ms, "reason": reason.as_str() })),
        ),
        None => match &chapter.endpoint {
            Some(endpoint) if is_newer(endpoint, stored) => ("created_after", None),
            _ => ("unknown", None),
        },
    }
}

fn is_newer(endpoint: &Endpoint, stored: &EventEntry) -> bool {
    u64::try_from(endpoint.created_at_ms).is_ok_and(|created_ms| created_ms > stored.received_ms)
}

fn second(unix_ms: i64) -> String {
    moment::second(unix_ms.try_into().unwrap_or_default())
}
