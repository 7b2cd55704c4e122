use bytes::Bytes;
use futures_util::FutureExt as _;
use webhook::{
    AttemptId, DeadReason, EndpointId, Event, EventId, FailureKind, OrganizationId, Phase, Trigger,
    journal::{AttemptRecord, DeliveryRef, EventRecord, Gap, StepRecord, Then, ThenKind},
};

use super::*;
use crate::view::ForCustomers as _;

fn event(id: &str, organization: &str) -> Record {
    let body = format!(
        r#"{{"event":"lead.completed","timestamp":1703123456789,"organization_id":"{organization}","project_id":"p","lead_id":"l","data":{{}}}}"#
    );
    Record::Event(EventRecord {
        event: Arc::new(Event::from_message(Some(id), None, Bytes::from(body)).unwrap()),
        received_ms: 1_703_123_456_789,
        considered: "ep_1:matched ep_2:event_type".parse().unwrap(),
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

fn attempt(id: &str, organization: &str, endpoint: &str, is_success: bool) -> Record {
    let (then, error) = if is_success {
        (Then::Delivered, "")
    } else {
        let at_ms = 1_703_123_457_801;
        (
            Then::Retry { at_ms },
            "address_refused in resolve: hooks.example.com resolves to 10.0.0.5",
        )
    };
    Record::Attempt(AttemptRecord {
        id: AttemptId::generate(1, [0; 10]),
        delivery: delivery(id, organization, endpoint),
        number: 1,
        began_ms: 1_703_123_456_789,
        duration_ms: 12,
        status: is_success.then_some(200),
        phase: (!is_success).then_some(Phase::Resolve),
        failure: (!is_success).then_some(FailureKind::AddressRefused),
        error: error.to_owned(),
        response: Bytes::new(),
        then,
    })
}

fn gap() -> Record {
    Record::Gap(Gap {
        worker: "5f1c".to_owned(),
        from_ms: 1,
        until_ms: 2,
        count: 3,
        batches: None,
    })
}

/// Returns the records of a batch. An attempt of a held message is before its event.
fn records() -> Vec<Record> {
    vec![
        attempt("evt_1", "org_1", "ep_1", true),
        event("evt_1", "org_1"),
        attempt("evt_1", "org_1", "ep_2", false),
        attempt("evt_0", "org_1", "ep_1", true),
        attempt("evt_1", "org_2", "ep_3", true),
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
        gap(),
    ]
}

fn batch(records: &[Record]) -> Tailed {
    let mut batch = Batch::new();
    for record in records {
        batch.push(record);
    }
    Tailed::Batch(batch.take())
}

fn values(lines: &[Arc<Line>]) -> Vec<TailLine> {
    lines.iter().map(|line| line.value.clone()).collect()
}

/// Returns the number of lines of a reader with this filter, without the first one.
async fn count(filter: Filter) -> usize {
    let readers = Readers::new(|line| line);
    let reader = readers.add(filter);
    readers.take(&Tailed::Connected);
    readers.take(&batch(&records()));
    reader.next().await.len() - 1
}

#[tokio::test]
async fn filters_choose_and_a_gap_is_for_all() {
    let none = Filter::default;
    assert_eq!(count(none()).await, 7);
    let organization = Some(OrganizationId::new("org_2"));
    assert_eq!(
        count(Filter {
            organization,
            ..none()
        })
        .await,
        2
    );
    let endpoint = Some(EndpointId::new("ep_1"));
    assert_eq!(count(Filter { endpoint, ..none() }).await, 4);
    let endpoint = Some(EndpointId::new("ep_2"));
    let of_unmatched = count(Filter { endpoint, ..none() }).await;
    assert_eq!(of_unmatched, 3, "not the event, which it did not match");
    let outcome = Some(ThenKind::Delivered);
    assert_eq!(count(Filter { outcome, ..none() }).await, 4);
    let event_type = Some("lead.completed".parse().unwrap());
    let of_type = count(Filter { event_type, ..none() }).await;
    assert_eq!(of_type, 5, "not those of unknown events");
    let event_type = Some("lead.failed".parse().unwrap());
    assert_eq!(count(Filter { event_type, ..none() }).await, 1);
}

#[tokio::test]
async fn readers_are_told_when_records_are_missing_and_customers_no_address() {
    let readers = Readers::new(TailLine::for_customers);
    readers.take(&Tailed::Lost);
    readers.take(&Tailed::Connected);
    let reader = readers.add(Filter::default());
    readers.take(&Tailed::Connected);
    readers.take(&batch(&records()));
    readers.take(&Tailed::Batch(Bytes::from_static(b"\xffnonsense")));
    readers.take(&Tailed::Lost);
    readers.take(&Tailed::Lost);
    readers.take(&Tailed::Connected);
    let lines = reader.next().await;
    let kinds = lines.iter().map(|line| {
        let object: serde_json::Value = serde_json::from_str(&line.json).unwrap();
        assert!(
            object["at_ms"].is_u64() && line.json.ends_with("}\n"),
            "{}",
            line.json
        );
        assert!(!line.json.contains("10.0.0.5"), "{}", line.json);
        object["kind"].as_str().unwrap().to_owned()
    });
    let kinds = kinds.collect::<Vec<_>>().join(" ");
    assert_eq!(
        kinds,
        "watching event attempt attempt attempt attempt outcome gap interrupted watching"
    );
}

#[tokio::test]
async fn a_reader_that_is_slow_gets_the_number_of_lost_lines_and_delays_no_other() {
    let readers = Readers::new(|line| line);
    let (slow, fast) = (readers.add(Filter::default()), readers.add(Filter::default()));
    readers.take(&Tailed::Connected);
    let (mut read, mut sent) = (0, 1);
    while waiting::BYTES_MAX > sent * 100 {
        readers.take(&batch(&records()));
        sent += records().len();
        read += fast.next().await.len();
    }
    assert_eq!(read, sent);
    let mut lines = values(&slow.next().await);
    let Some(TailLine::Dropped { count, .. }) = lines.pop() else {
        panic!("{} lines of {sent}, and none were dropped", lines.len())
    };
    assert_eq!(lines.len() as u64 + count, sent as u64);
    readers.take(&batch(&[gap()]));
    let after = values(&slow.next().await);
    assert!(matches!(after[..], [TailLine::Gap { .. }]), "{after:?}");
    drop((slow, fast));
    assert!(readers.state().readers.is_empty());
}

#[tokio::test]
async fn a_slow_reader_is_told_that_records_are_missing_and_whether_they_arrive_again() {
    let readers = Readers::new(|line| line);
    let slow = readers.add(Filter::default());
    readers.take(&Tailed::Connected);
    let fill = || {
        for _ in 0..waiting::BYTES_MAX / (100 * records().len()) {
            readers.take(&batch(&records()));
        }
    };
    for ends_watching in [true, false, true] {
        fill();
        for _ in 0..3 {
            readers.take(&Tailed::Lost);
            readers.take(&Tailed::Connected);
            readers.take(&batch(&records()));
        }
        if !ends_watching {
            readers.take(&Tailed::Lost);
        }
        let lines = values(&slow.next().await);
        let last = &lines[lines.len() - if ends_watching { 3 } else { 2 }..];
        match last {
            [
                TailLine::Dropped { .. },
                TailLine::Interrupted { .. },
                TailLine::Watching { .. },
            ] if ends_watching => {}
            [TailLine::Dropped { .. }, TailLine::Interrupted { .. }] if !ends_watching => {
                readers.take(&Tailed::Connected);
            }
            last => panic!("{last:?}"),
        }
    }
}

#[tokio::test]
async fn a_reader_is_woken_early_when_much_waits() {
    let readers = Readers::new(|line| line);
    let reader = readers.add(Filter::default());
    readers.take(&Tailed::Connected);
    readers.take(&batch(&records()));
    assert!(reader.many().now_or_never().is_none());
    for _ in 0..waiting::BYTES_MAX / (8 * 100 * records().len()) {
        readers.take(&batch(&records()));
    }
    assert!(reader.many().now_or_never().is_some());
    let lines = reader.next().await;
    let is_whole = !lines
        .iter()
        .any(|line| matches!(line.value, TailLine::Dropped { .. }));
    assert!(is_whole);
    assert!(reader.many().now_or_never().is_none(), "they were taken");
}
