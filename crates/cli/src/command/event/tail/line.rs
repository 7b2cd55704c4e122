//! Formats a record as one line, if the filter accepts it.

use std::collections::{HashMap, VecDeque};

use runtime::time;
use serde_json::{Value, json};
use webhook::{
    EventId, EventKind, OrganizationId,
    journal::{AttemptRecord, DeliveryRef, EventRecord, Gap, Record, StepRecord, Then},
};

use crate::output;

use super::{Filter, OutcomeFilter};

/// The maximum number of events whose types are remembered.
const EVENTS_MAX: usize = 50_000;

type Key = (OrganizationId, EventId);

/// Filters records and formats them.
pub(super) struct Narrator {
    filter: Filter,
    json: bool,
    /// The types of events, because records of attempts do not contain them.
    types: HashMap<Key, EventKind>,
    /// The keys of `types`, oldest first.
    known: VecDeque<Key>,
}

impl Narrator {
    pub(super) fn new(filter: Filter, json: bool) -> Self {
        Self {
            filter,
            json,
            types: HashMap::new(),
            known: VecDeque::new(),
        }
    }

    /// Returns the line for a record; `None` if the filter rejects it.
    pub(super) fn tell(&mut self, record: &Record) -> Option<String> {
        match record {
            Record::Event(record) => self.event(record),
            Record::Attempt(record) => self.attempt(record),
            Record::Step(record) => self.step(record),
            Record::Gap(gap) => Some(self.gap(gap)),
        }
    }

    fn event(&mut self, record: &EventRecord) -> Option<String> {
        let event = &record.event;
        self.remember(
            (event.organization_id.clone(), event.id.clone()),
            event.event_type,
        );
        let Filter {
            organization,
            event_type,
            endpoint,
            outcome,
        } = &self.filter;
        let is_wanted = outcome.is_none()
            && organization
                .as_ref()
                .is_none_or(|wanted| *wanted == event.organization_id)
            && event_type.is_none_or(|wanted| wanted == event.event_type)
            && endpoint
                .as_ref()
                .is_none_or(|wanted| record.considered.get(wanted).is_some());
        let matched = record.considered.matched().count();
        let line = is_wanted.then(|| {
            [
                time::millisecond(record.received_ms),
                "event".to_owned(),
                event.organization_id.to_string(),
                event.id.to_string(),
                event.event_type.to_string(),
                format!("matched {matched}"),
            ]
        })?;
        Some(self.line(&line, || {
            json!({
                "kind": "event",
                "at_ms": record.received_ms,
                "organization_id": event.organization_id,
                "event_id": event.id,
                "event_type": event.event_type.as_str(),
                "project_id": event.project_id,
                "lead_id": event.lead_id,
                "matched": record.considered.matched().collect::<Vec<_>>(),
            })
        }))
    }

    fn attempt(&self, record: &AttemptRecord) -> Option<String> {
        let (outcome, next_ms, reason) = said(record.then);
        let event_type = self.type_of(&record.delivery);
        if !self.is_wanted(&record.delivery, event_type, outcome) {
            return None;
        }
        let ended_ms = record.began_ms.saturating_add(record.duration_ms);
        let answer = record
            .status
            .map_or_else(|| record.error.clone(), |status| status.to_string());
        let line = [
            time::millisecond(ended_ms),
            "attempt".to_owned(),
            record.delivery.organization_id.to_string(),
            record.delivery.event_id.to_string(),
            record.delivery.endpoint_id.to_string(),
            format!("#{} {}", record.number, time::span(record.duration_ms)),
            answer,
            words(outcome, next_ms, reason),
        ];
        Some(self.line(&line, || {
            json!({
                "kind": "attempt",
                "at_ms": ended_ms,
                "organization_id": record.delivery.organization_id,
                "event_id": record.delivery.event_id,
                "event_type": event_type.map(EventKind::as_str),
                "endpoint_id": record.delivery.endpoint_id,
                "delivery_id": record.delivery.id(),
                "attempt": record.number,
                "duration_ms": record.duration_ms,
                "status": record.status,
                "error": record.error,
                "outcome": outcome.word(),
                "reason": reason,
                "next_ms": next_ms,
            })
        }))
    }

    fn step(&self, record: &StepRecord) -> Option<String> {
        let (outcome, next_ms, reason) = said(record.then);
        let event_type = self.type_of(&record.delivery);
        if !self.is_wanted(&record.delivery, event_type, outcome) {
            return None;
        }
        let line = [
            time::millisecond(record.at_ms),
            "outcome".to_owned(),
            record.delivery.organization_id.to_string(),
            record.delivery.event_id.to_string(),
            record.delivery.endpoint_id.to_string(),
            words(outcome, next_ms, reason),
        ];
        Some(self.line(&line, || {
            json!({
                "kind": "outcome",
                "at_ms": record.at_ms,
                "organization_id": record.delivery.organization_id,
                "event_id": record.delivery.event_id,
                "event_type": event_type.map(EventKind::as_str),
                "endpoint_id": record.delivery.endpoint_id,
                "delivery_id": record.delivery.id(),
                "outcome": outcome.word(),
                "reason": reason,
                "next_ms": next_ms,
            })
        }))
    }

    /// Returns the line for a gap, which no filter rejects.
    fn gap(&self, gap: &Gap) -> String {
        let line = [
            time::millisecond(gap.until_ms),
            "gap".to_owned(),
            format!("worker {} dropped up to {} records", gap.worker, gap.count),
        ];
        self.line(&line, || {
            json!({
                "kind": "gap",
                "at_ms": gap.until_ms,
                "from_ms": gap.from_ms,
                "worker": gap.worker,
                "count": gap.count,
            })
        })
    }

    /// Returns the type of the delivery's event; `None` if the event is unknown, because it was received
    /// before the command started or has been forgotten.
    fn type_of(&self, delivery: &DeliveryRef) -> Option<EventKind> {
        let key = (delivery.organization_id.clone(), delivery.event_id.clone());
        self.types.get(&key).copied()
    }

    /// Returns whether the filter accepts the delivery and the outcome.
    fn is_wanted(&self, delivery: &DeliveryRef, known: Option<EventKind>, outcome: OutcomeFilter) -> bool {
        let Filter {
            organization,
            event_type,
            endpoint,
            outcome: wanted_outcome,
        } = &self.filter;
        organization
            .as_ref()
            .is_none_or(|wanted| *wanted == delivery.organization_id)
            && event_type.is_none_or(|wanted| known == Some(wanted))
            && endpoint
                .as_ref()
                .is_none_or(|wanted| *wanted == delivery.endpoint_id)
            && wanted_outcome.is_none_or(|wanted| wanted == outcome)
    }

    fn remember(&mut self, key: Key, event_type: EventKind) {
        if self.types.insert(key.clone(), event_type).is_none() {
            self.known.push_back(key);
        }
        if self.known.len() > EVENTS_MAX
            && let Some(oldest) = self.known.pop_front()
        {
            self.types.remove(&oldest);
        }
    }

    fn line(&self, words: &[String], object: impl FnOnce() -> Value) -> String {
        if self.json {
            output::json(&object())
        } else {
            let printable: Vec<_> = words.iter().map(|word| output::printable(word)).collect();
            printable.join("  ")
        }
    }
}

impl OutcomeFilter {
    const fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retry => "retry",
            Self::Deferred => "deferred",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Returns the outcome, the time of the next attempt in Unix milliseconds, and the reason.
fn said(then: Then) -> (OutcomeFilter, Option<u64>, Option<&'static str>) {
    match then {
        Then::Delivered => (OutcomeFilter::Delivered, None, None),
        Then::Retry { at_ms } => (OutcomeFilter::Retry, Some(at_ms), None),
        Then::Deferred { at_ms, reason } => (OutcomeFilter::Deferred, Some(at_ms), Some(reason.as_str())),
        Then::Dead { reason } => (OutcomeFilter::Dead, None, Some(reason.as_str())),
        Then::Cancelled { reason } => (OutcomeFilter::Cancelled, None, Some(reason.as_str())),
    }
}

fn words(outcome: OutcomeFilter, next_ms: Option<u64>, reason: Option<&str>) -> String {
    let mut words = outcome.word().to_owned();
    if let Some(reason) = reason {
        words = format!("{words} ({reason})");
    }
    match next_ms {
        Some(next_ms) => format!("{words} at {}", time::millisecond(next_ms)),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use webhook::{AttemptId, DeadReason, EndpointId, Event, Trigger};

    use super::*;

    fn event(id: &str, organization: &str) -> Record {
        let body = format!(
            r#"{{"event":"lead.completed","timestamp":1703123456789,"organization_id":"{organization}","project_id":"p","lead_id":"l","data":{{}}}}"#
        );
        Record::Event(EventRecord {
            event: Arc::new(Event::from_message(Some(id), None, Bytes::from(body)).unwrap()),
            received_ms: 1_703_123_456_789,
            considered: "ep_1:matched".parse().unwrap(),
            seen: None,
        })
    }

    fn delivery(id: &str, organization: &str, endpoint: &str) -> DeliveryRef {
        DeliveryRef {
            organization_id: OrganizationId::new(organization),
            event_id: EventId::new(id),
            endpoint_id: EndpointId::new(endpoint),
            run: 0,
            trigger: Trigger::Event,
        }
    }

    fn attempt(id: &str, organization: &str, endpoint: &str, status: u16) -> Record {
        let then = if status == 200 {
            Then::Delivered
        } else {
            Then::Retry {
                at_ms: 1_703_123_457_801,
            }
        };
        Record::Attempt(AttemptRecord {
            id: AttemptId::generate(1, [0; 10]),
            delivery: delivery(id, organization, endpoint),
            number: 1,
            began_ms: 1_703_123_456_789,
            duration_ms: 12,
            status: Some(status),
            phase: None,
            failure: None,
            error: String::new(),
            response: Bytes::new(),
            then,
        })
    }

    fn records() -> Vec<Record> {
        vec![
            event("evt_1", "org_1"),
            attempt("evt_1", "org_1", "ep_1", 200),
            attempt("evt_1", "org_1", "ep_2", 500),
            attempt("evt_0", "org_1", "ep_1", 200),
            attempt("evt_1", "org_2", "ep_3", 200),
            Record::Step(StepRecord {
                delivery: delivery("evt_1", "org_1", "ep_2"),
                at_ms: 1_703_123_456_900,
                attempts: 1,
                last_status: None,
                last_error: String::new(),
                then: Then::Dead {
                    reason: DeadReason::EndpointDisabled,
                },
            }),
        ]
    }

    fn told(filter: Filter) -> Vec<String> {
        let mut narrator = Narrator::new(filter, false);
        records()
            .iter()
            .filter_map(|record| narrator.tell(record))
            .collect()
    }

    #[test]
    fn every_record_has_a_line() {
        insta::assert_snapshot!(told(Filter::default()).join("\n"));
    }

    #[test]
    fn filters_choose() {
        let count = |filter| told(filter).len();
        assert_eq!(count(Filter::default()), 6);
        let organization = Some(OrganizationId::new("org_2"));
        assert_eq!(
            count(Filter {
                organization,
                ..Filter::default()
            }),
            1
        );
        let endpoint = Some(EndpointId::new("ep_1"));
        assert_eq!(
            count(Filter {
                endpoint,
                ..Filter::default()
            }),
            3
        );
        let outcome = Some(OutcomeFilter::Delivered);
        assert_eq!(
            count(Filter {
                outcome,
                ..Filter::default()
            }),
            3
        );
        let event_type = Some("lead.completed".parse().unwrap());
        assert_eq!(
            count(Filter {
                event_type,
                ..Filter::default()
            }),
            4,
            "not those of unknown events"
        );
        let event_type = Some("lead.failed".parse().unwrap());
        assert_eq!(
            count(Filter {
                event_type,
                ..Filter::default()
            }),
            0
        );
    }

    #[test]
    fn an_object_is_one_line() {
        let mut narrator = Narrator::new(Filter::default(), true);
        for record in records() {
            let line = narrator.tell(&record).unwrap();
            let object: Value = serde_json::from_str(&line).unwrap();
            assert!(object["at_ms"].is_u64() && !line.contains('\n'), "{line}");
        }
    }
}
