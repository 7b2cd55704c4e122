//! Converts events and their history.

use store::{EventRow, StateCounts};

use super::{ForCustomers, run};
use crate::story::{Chapter, Fate, Story};

/// Converts an event for a list.
pub fn event(row: &EventRow) -> wire::EventSummary {
    wire::EventSummary {
        id: row.id.to_string(),
        event_type: row.event_type.to_string(),
        organization_id: row.organization_id.to_string(),
        project_id: row.project_id.to_string(),
        lead_id: row.lead_id.to_string(),
        timestamp_ms: row.timestamp_ms,
        received_ms: row.received_ms,
        matched: row.matched,
        deliveries: states(&row.deliveries),
    }
}

/// Converts the number of deliveries in each state.
pub fn states(counts: &StateCounts) -> wire::States {
    let StateCounts {
        pending,
        cancelled,
        dead,
        delivered,
    } = *counts;
    wire::States {
        delivered,
        dead,
        cancelled,
        pending,
    }
}

/// Converts an event with its history at each endpoint, and with its body if `with_body`.
pub fn story(story: &Story, with_body: bool) -> wire::Story {
    let event = &story.stored.event;
    let at_endpoint = |chapter: &Chapter| considered(chapter, chapter.fate(&story.stored));
    wire::Story {
        id: event.id.to_string(),
        event_type: event.event_type.to_string(),
        organization_id: event.organization_id.to_string(),
        project_id: event.project_id.to_string(),
        lead_id: event.lead_id.to_string(),
        timestamp_ms: event.timestamp_ms,
        received_ms: story.stored.received_ms,
        traceparent: event.traceparent.as_deref().map(str::to_owned),
        body_bytes: event.body.len(),
        body: with_body.then(|| String::from_utf8_lossy(&event.body).into_owned()),
        endpoints: story.chapters.iter().map(at_endpoint).collect(),
    }
}

fn considered(chapter: &Chapter, fate: Fate) -> wire::Considered {
    let disabled = match fate {
        Fate::Disabled { at_ms, reason } => Some(wire::DisabledSince {
            since_ms: at_ms,
            reason: reason.as_str().to_owned(),
        }),
        _ => None,
    };
    wire::Considered {
        endpoint_id: chapter.endpoint_id.to_string(),
        url: chapter.endpoint.as_ref().map(|endpoint| endpoint.url.clone()),
        deleted: chapter.endpoint.is_none(),
        verdict: fate.word().to_owned(),
        disabled,
        deliveries: chapter.runs.iter().map(run).collect(),
    }
}

impl ForCustomers for wire::Story {
    fn for_customers(self) -> Self {
        Self {
            endpoints: self.endpoints.for_customers(),
            ..self
        }
    }
}

impl ForCustomers for wire::Considered {
    fn for_customers(self) -> Self {
        Self {
            deliveries: self.deliveries.for_customers(),
            ..self
        }
    }
}
