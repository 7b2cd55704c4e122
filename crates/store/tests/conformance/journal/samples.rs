//! Sample records, and a dump of everything that a store returns about them.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use store::{AuditLimits, DeliveryFilter, EventFilter, Store};
use webhook::{
    AttemptId, DeadReason, DeliveryId, EndpointId, Event, EventId, FailureKind, OrganizationId, Phase,
    Trigger,
    journal::{AttemptRecord, Books, DeliveryRef, EventRecord, Gap, Record, StepRecord, Then},
};

/// The time at which the samples begin, in Unix milliseconds.
pub(super) const T: u64 = 1_703_123_456_789;

pub(super) const MINUTE: u64 = 60_000;

pub(super) fn org(number: u32) -> OrganizationId {
    OrganizationId::new(format!("org_{number}"))
}

pub(super) fn ep(number: u32) -> EndpointId {
    super::super::bed::endpoint_id(number)
}

pub(super) fn evt(number: u32) -> EventId {
    EventId::new(format!("evt_{number}"))
}

/// Returns a `lead.completed` of `org_1` about the lead with the same number.
pub(super) fn event(number: u32) -> Arc<Event> {
    event_of("lead.completed", &org(1), number)
}

pub(super) fn event_of(event_type: &str, organization: &OrganizationId, number: u32) -> Arc<Event> {
    let body = format!(
        r#"{{"event":"{event_type}","timestamp":{T},"organization_id":"{organization}","project_id":"proj_1","lead_id":"lead_{number}","data":{{}}}}"#
    );
    let event = Event::from_message(Some(evt(number).as_str()), None, body.into());
    Arc::new(event.expect("a valid event"))
}

/// Returns the record that a worker received the event. `considered` has a form such as `1:matched
/// 2:project`, with the numbers of endpoints.
pub(super) fn taken(event: &Arc<Event>, received_ms: u64, considered: &str) -> Record {
    let word = |word: &str| {
        let (number, verdict) = word.split_once(':').expect("a number and a verdict");
        format!("{}:{verdict}", ep(number.parse().expect("a number")))
    };
    let considered: Vec<_> = considered.split_whitespace().map(word).collect();
    Record::Event(EventRecord {
        event: event.clone(),
        received_ms,
        considered: considered.join(" ").parse().expect("verdicts"),
        seen: None,
    })
}

pub(super) fn to(event: &Event, endpoint: u32, run: u32) -> DeliveryRef {
    DeliveryRef {
        organization_id: event.organization_id.clone(),
        event_id: event.id.clone(),
        endpoint_id: ep(endpoint),
        run,
        trigger: if run == 0 { Trigger::Event } else { Trigger::Resend },
    }
}

pub(super) fn dlv(event: u32, endpoint: u32, run: u32) -> DeliveryId {
    DeliveryId::derive(&org(1), &evt(event), &ep(endpoint), run)
}

/// Returns an attempt that took 20 ms. It was answered with 204 if `then` is delivered, and failed without a
/// response otherwise.
pub(super) fn attempt(delivery: DeliveryRef, number: u32, began_ms: u64, then: Then) -> AttemptRecord {
    let ok = then == Then::Delivered;
    let mut random = [0; 10];
    random[..8].copy_from_slice(&delivery.id().as_str().as_bytes()[4..12]);
    random[9] = number as u8;
    AttemptRecord {
        id: AttemptId::generate(began_ms, random),
        delivery,
        number,
        began_ms,
        duration_ms: 20,
        status: ok.then_some(204),
        phase: (!ok).then_some(Phase::Connect),
        failure: (!ok).then_some(FailureKind::ConnectionRefused),
        error: if ok {
            String::new()
        } else {
            "connection refused".to_owned()
        },
        response: if ok {
            Bytes::from_static(b"ok\0")
        } else {
            Bytes::new()
        },
        then,
    }
}

pub(super) fn delivered(event: &Event, endpoint: u32, began_ms: u64) -> Record {
    Record::Attempt(attempt(to(event, endpoint, 0), 1, began_ms, Then::Delivered))
}

/// Returns the record of a delivery that became dead without an attempt, because the endpoint was disabled.
pub(super) fn died(event: &Event, endpoint: u32, run: u32, at_ms: u64) -> Record {
    let reason = DeadReason::EndpointDisabled;
    Record::Step(StepRecord {
        delivery: to(event, endpoint, run),
        at_ms,
        attempts: 0,
        last_status: None,
        last_error: String::new(),
        then: Then::Dead { reason },
    })
}

pub(super) fn gap(worker: &str, from_ms: u64, until_ms: u64) -> Record {
    let worker = worker.to_owned();
    Record::Gap(Gap {
        worker,
        from_ms,
        until_ms,
        count: 7,
        batches: None,
    })
}

pub(super) fn books(records: impl IntoIterator<Item = Record>) -> Books {
    let mut books = Books::default();
    for record in records {
        books.add(record);
    }
    books
}

pub(super) async fn record(store: &Store, records: impl IntoIterator<Item = Record>) {
    store.record(&books(records), &[]).await.unwrap();
}

pub(super) fn limits(now_ms: u64) -> AuditLimits {
    AuditLimits {
        now_ms,
        in_hand_ms: 90_000,
        late_ms: 10 * MINUTE,
        batches_due: BTreeMap::default(),
    }
}

/// Returns every row of every table of records, as text.
pub(super) async fn dump(store: &Store) -> String {
    let mut lines = Vec::new();
    for row in store.events(&EventFilter::default(), None, 1_000).await.unwrap() {
        let entries = store.event(&row.id, Some(&row.organization_id)).await.unwrap();
        lines.push(format!("{row:?}\n    {entries:?}"));
    }
    for row in store
        .deliveries(&DeliveryFilter::default(), None, 1_000)
        .await
        .unwrap()
    {
        let attempts = store.attempts(&row.id).await.unwrap();
        lines.push(format!("{row:?}"));
        lines.extend(attempts.iter().map(|attempt| format!("    {attempt:?}")));
    }
    let rejected = store
        .rejected_messages(None, None, None, None, 1_000)
        .await
        .unwrap();
    lines.extend(rejected.iter().map(|rejected| format!("{rejected:?}")));
    let audit = store.audit(0, 2 * T, limits(T)).await.unwrap();
    lines.extend(audit.gaps.iter().map(|gap| format!("{gap:?}")));
    lines.join("\n")
}
