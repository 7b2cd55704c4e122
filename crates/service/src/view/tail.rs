//! Converts records of the journal.

use webhook::{
    EndpointId, EventKind,
    journal::{AttemptRecord, EventRecord, Gap, Record, StepRecord},
};
use wire::TailLine;

use super::{ForCustomers, words};

/// Converts a record. `event_type` is the type of the event that it is about, which only the record of the
/// event contains.
pub fn tail_line(record: &Record, event_type: Option<EventKind>) -> TailLine {
    match record {
        Record::Event(record) => event(record),
        Record::Attempt(record) => attempt(record, event_type),
        Record::Step(record) => step(record, event_type),
        Record::Gap(record) => gap(record),
    }
}

fn event(record: &EventRecord) -> TailLine {
    let event = &record.event;
    TailLine::Event {
        at_ms: record.received_ms,
        organization_id: event.organization_id.to_string(),
        event_id: event.id.to_string(),
        event_type: event.event_type.to_string(),
        project_id: event.project_id.to_string(),
        lead_id: event.lead_id.to_string(),
        matched: record.considered.matched().map(EndpointId::to_string).collect(),
    }
}

fn attempt(record: &AttemptRecord, event_type: Option<EventKind>) -> TailLine {
    let delivery = &record.delivery;
    TailLine::Attempt {
        at_ms: record.began_ms.saturating_add(record.duration_ms),
        organization_id: delivery.organization_id.to_string(),
        event_id: delivery.event_id.to_string(),
        event_type: event_type.map(|event_type| event_type.to_string()),
        endpoint_id: delivery.endpoint_id.to_string(),
        delivery_id: delivery.id().to_string(),
        attempt: record.number,
        duration_ms: record.duration_ms,
        status: record.status,
        error: record.error.clone(),
        outcome: record.then.kind().to_string(),
        reason: record.then.reason().map(str::to_owned),
        next_ms: record.then.next_ms(),
    }
}

fn step(record: &StepRecord, event_type: Option<EventKind>) -> TailLine {
    let delivery = &record.delivery;
    TailLine::Outcome {
        at_ms: record.at_ms,
        organization_id: delivery.organization_id.to_string(),
        event_id: delivery.event_id.to_string(),
        event_type: event_type.map(|event_type| event_type.to_string()),
        endpoint_id: delivery.endpoint_id.to_string(),
        delivery_id: delivery.id().to_string(),
        outcome: record.then.kind().to_string(),
        reason: record.then.reason().map(str::to_owned),
        next_ms: record.then.next_ms(),
    }
}

fn gap(record: &Gap) -> TailLine {
    TailLine::Gap {
        at_ms: record.until_ms,
        from_ms: record.from_ms,
        worker: record.worker.clone(),
        count: record.count,
    }
}

impl ForCustomers for TailLine {
    fn for_customers(mut self) -> Self {
        if let Self::Attempt { error, .. } = &mut self {
            *error = words::for_customers(std::mem::take(error));
        }
        self
    }
}
