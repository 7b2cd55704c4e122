//! Formatting of an event's history as text.

mod fate;

use runtime::time;
use webhook::journal::DeliveryState;
use wire::{Considered, EventHistory};

use crate::{
    command::delivery::run::{self, Around},
    output,
};

/// Returns the history as lines of text.
pub(super) fn text(history: &EventHistory, now_ms: u64) -> Vec<String> {
    let mut lines = vec![about(history, now_ms), String::new(), summary(history)];
    for at in &history.endpoints {
        lines.push(String::new());
        lines.push(heading(at, history));
        let told = told(at, now_ms);
        lines.extend(told.into_iter().map(|line| format!("  {line}")));
    }
    lines
}

fn about(event: &EventHistory, now_ms: u64) -> String {
    let received_ms = event.received_ms;
    output::fields(&[
        ("event", event.id.clone()),
        ("type", event.event_type.clone()),
        ("organization", event.organization_id.clone()),
        ("project", event.project_id.clone()),
        ("lead", event.lead_id.clone()),
        ("occurred", time::millisecond(event.timestamp_ms)),
        (
            "received",
            format!(
                "{}, {} ago",
                time::millisecond(received_ms),
                time::span(now_ms.saturating_sub(received_ms))
            ),
        ),
        ("body", format!("{} bytes; --body prints it", event.body_bytes)),
    ])
}

/// Returns the result in one line.
fn summary(history: &EventHistory) -> String {
    let endpoints = &history.endpoints;
    if endpoints.is_empty() {
        return "The organization has no endpoints, and had none when the event was received: no delivery was made.".to_owned();
    }
    let matched = endpoints.iter().filter(|at| fate::is_matched(at)).count();
    let latest = |state: DeliveryState| {
        let runs = endpoints.iter().filter_map(|at| at.deliveries.last());
        runs.filter(|run| run.delivery.state == state.as_str()).count()
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

fn heading(at: &Considered, history: &EventHistory) -> String {
    let url = at.url.as_deref().unwrap_or_default();
    let deleted = if at.deleted { "  (deleted since)" } else { "" };
    let heading = format!("{}  {}", at.endpoint_id, fate::in_words(at, history));
    format!(
        "{heading}{deleted}{}{url}",
        if url.is_empty() { "" } else { "  " }
    )
}

fn told(at: &Considered, now_ms: u64) -> Vec<String> {
    if at.deliveries.is_empty() {
        let next = fate::next(at);
        return next.into_iter().map(|line| format!("-> {line}")).collect();
    }
    let around = |index| Around {
        endpoint: at.endpoint.as_ref(),
        is_superseded: index + 1 < at.deliveries.len(),
        now_ms,
    };
    let runs = at.deliveries.iter().enumerate();
    runs.flat_map(|(index, run)| run::text(run, around(index)))
        .collect()
}

#[cfg(test)]
mod tests;
