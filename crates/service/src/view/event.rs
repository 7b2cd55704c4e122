//! Converts events and their history.

use store::{EventRow, StateCounts};

use super::{ForCustomers, endpoint, run};
use crate::history::{EndpointHistory, EventHistory, Fate};

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
pub fn history(history: &EventHistory, with_body: bool) -> wire::EventHistory {
    let event = &history.stored.event;
    let at_endpoint = |entry: &EndpointHistory| considered(entry, entry.fate(&history.stored));
    wire::EventHistory {
        id: event.id.to_string(),
        event_type: event.event_type.to_string(),
        organization_id: event.organization_id.to_string(),
        project_id: event.project_id.to_string(),
        lead_id: event.lead_id.to_string(),
        timestamp_ms: event.timestamp_ms,
        received_ms: history.stored.received_ms,
        traceparent: event.traceparent.as_deref().map(str::to_owned),
        body_bytes: event.body.len(),
        body: with_body.then(|| String::from_utf8_lossy(&event.body).into_owned()),
        verdicts_missing: history.verdicts_missing(),
        endpoints: history.endpoints.iter().map(at_endpoint).collect(),
    }
}

fn considered(entry: &EndpointHistory, fate: Fate) -> wire::Considered {
    let disabled = match fate {
        Fate::Disabled { at_ms, reason } => Some(wire::DisabledSince {
            since_ms: at_ms,
            reason: reason.as_str().to_owned(),
        }),
        _ => None,
    };
    wire::Considered {
        endpoint_id: entry.endpoint_id.to_string(),
        url: entry.endpoint.as_ref().map(|endpoint| endpoint.url.clone()),
        deleted: entry.endpoint.is_none(),
        endpoint: entry.endpoint.as_ref().map(endpoint),
        verdict: fate.word().to_owned(),
        disabled,
        deliveries: entry.runs.iter().map(run).collect(),
    }
}

impl ForCustomers for wire::EventHistory {
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
            endpoint: self.endpoint.for_customers(),
            deliveries: self.deliveries.for_customers(),
            ..self
        }
    }
}
