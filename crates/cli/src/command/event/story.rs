//! Formatting of an event's story as text. [`service::story`] provides the data.

mod fate;

use service::story::{Chapter, Fate, Story};
use webhook::journal::{DeliveryState, EventEntry};

use crate::{
    command::delivery::run::{self, Around},
    output,
};
use runtime::time;

/// Returns the story as lines of text.
pub(super) fn text(story: &Story, now_ms: u64) -> Vec<String> {
    let mut lines = vec![about(&story.stored, now_ms), String::new(), summary(story)];
    for chapter in &story.chapters {
        lines.push(String::new());
        lines.push(heading(chapter, &story.stored));
        let told = told(chapter, &story.stored, now_ms);
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
fn summary(story: &Story) -> String {
    let chapters = &story.chapters;
    if chapters.is_empty() {
        return "The organization has no endpoints, and had none: nobody was to get the event.".to_owned();
    }
    let matched = |chapter: &&Chapter| matches!(chapter.fate(&story.stored), Fate::Matched | Fate::Pinged);
    let matched = chapters.iter().filter(matched).count();
    let latest = |state| {
        let in_state = |chapter: &&Chapter| chapter.state() == Some(state);
        chapters.iter().filter(in_state).count()
    };
    let states: Vec<String> = DeliveryState::ALL
        .iter()
        .rev()
        .copied()
        .map(|state| (state, latest(state)))
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{state} {count}"))
        .collect();
    let mut text = format!("endpoints {}, matched {matched}", chapters.len());
    if !states.is_empty() {
        text = format!("{text}: {}", states.join(", "));
    }
    text
}

fn heading(chapter: &Chapter, stored: &EventEntry) -> String {
    let url = chapter.endpoint.as_ref().map_or("", |endpoint| &endpoint.url);
    let deleted = if chapter.endpoint.is_none() {
        "  (deleted since)"
    } else {
        ""
    };
    let heading = format!("{}  {}", chapter.endpoint_id, fate::in_words(chapter, stored));
    format!(
        "{heading}{deleted}{}{url}",
        if url.is_empty() { "" } else { "  " }
    )
}

fn told(chapter: &Chapter, stored: &EventEntry, now_ms: u64) -> Vec<String> {
    if chapter.runs.is_empty() {
        let next = fate::next(chapter, stored);
        return next.into_iter().map(|line| format!("-> {line}")).collect();
    }
    let around = |index| Around {
        endpoint: chapter.endpoint.as_ref(),
        is_superseded: index + 1 < chapter.runs.len(),
        now_ms,
    };
    let runs = chapter.runs.iter().enumerate();
    runs.flat_map(|(index, run)| run::text(run, around(index)))
        .collect()
}

#[cfg(test)]
mod tests;
