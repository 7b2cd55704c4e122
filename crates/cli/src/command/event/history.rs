//! Formatting of an event's history as text. [`service::history`] provides the data.

mod fate;

use runtime::time;
use service::history::{EndpointHistory, EventHistory, Fate};
use webhook::journal::{DeliveryState, EventEntry};

use crate::{
    command::delivery::run::{self, Around},
    output,
};

/// Returns the history as lines of text.
pub(super) fn text(history: &EventHistory, now_ms: u64) -> Vec<String> {
    let mut lines = vec![about(&history.stored, now_ms), String::new(), summary(history)];
    for entry in &history.endpoints {
        lines.push(String::new());
        lines.push(heading(entry, &history.stored));
        let told = told(entry, &history.stored, now_ms);
        lines.extend(told.into_iter().map(|line| format!("  {line}")));
    }
    lines
}

fn about(stored: &EventEntry, now_ms: u64) -> String {
    let event = &stored.event;
    let received_ms = stored.received_ms;
    output::fields(&[
        ("event", event.id.to_string()),
        ("type", event.event_type.to_string()),
        ("organization", event.organization_id.to_string()),
        ("project", event.project_id.to_string()),
        ("lead", event.lead_id.to_string()),
        ("occurred", time::millisecond(event.timestamp_ms)),
        (
            "received",
            format!(
                "{}, {} ago",
                time::millisecond(received_ms),
                time::span(now_ms.saturating_sub(received_ms))
            ),
        ),
        ("body", format!("{} bytes; --body prints it", event.body.len())),
    ])
}

/// Returns the result in one line.
fn summary(history: &EventHistory) -> String {
    let endpoints = &history.endpoints;
    if endpoints.is_empty() {
        return "The organization has no endpoints, and had none when the event was received: no delivery was made.".to_owned();
    }
    let matched =
        |entry: &&EndpointHistory| matches!(entry.fate(&history.stored), Fate::Matched | Fate::Pinged);
    let matched = endpoints.iter().filter(matched).count();
    let latest = |state| {
        let in_state = |entry: &&EndpointHistory| entry.state() == Some(state);
        endpoints.iter().filter(in_state).count()
    };
    let states: Vec<String> = DeliveryState::ALL
        .iter()
        .rev()
        .copied()
        .map(|state| (state, latest(state)))
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{state} {count}"))
        .collect();
    let mut text = format!("endpoints {}, matched {matched}", endpoints.len());
    if !states.is_empty() {
        text = format!("{text}: {}", states.join(", "));
    }
    text
}

fn heading(entry: &EndpointHistory, stored: &EventEntry) -> String {
    let url = entry.endpoint.as_ref().map_or("", |endpoint| &endpoint.url);
    let deleted = if entry.endpoint.is_none() {
        "  (deleted since)"
    } else {
        ""
    };
    let heading = format!("{}  {}", entry.endpoint_id, fate::in_words(entry, stored));
    format!(
        "{heading}{deleted}{}{url}",
        if url.is_empty() { "" } else { "  " }
    )
}

fn told(entry: &EndpointHistory, stored: &EventEntry, now_ms: u64) -> Vec<String> {
    if entry.runs.is_empty() {
        let next = fate::next(entry, stored);
        return next.into_iter().map(|line| format!("-> {line}")).collect();
    }
    let around = |index| Around {
        endpoint: entry.endpoint.as_ref(),
        is_superseded: index + 1 < entry.runs.len(),
        now_ms,
    };
    let runs = entry.runs.iter().enumerate();
    runs.flat_map(|(index, run)| run::text(run, around(index)))
        .collect()
}

#[cfg(test)]
mod tests;
