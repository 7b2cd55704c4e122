use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::DisabledReason;

/// A batch that version 1 wrote. It must remain readable permanently.
const VERSION_1: &str = include_str!("fixtures/batch_v1.hex");

const FIRST_MS: u64 = 1_703_123_456_789;

fn event(number: u64) -> Arc<Event> {
    // The last two have the same id and different bodies. The protocol forbids this, but merging must not
    // depend on it.
    let (organization, id, lead) = match number {
        0 => ("org_1", "evt_1", "lead_1"),
        1 => ("org_2", "evt_1", "lead_1"),
        2 => ("org_1", "evt_2", "lead_2"),
        _ => ("org_1", "evt_2", "lead_3"),
    };
    let body = format!(
        r#"{{"event":"lead.completed","timestamp":{FIRST_MS},"organization_id":"{organization}","project_id":"proj_1","lead_id":"{lead}","data":{{}}}}"#
    );
    let traceparent =
        (number == 3).then(|| "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    Arc::new(Event::from_message(Some(id), traceparent, body.into()).unwrap())
}

fn delivery(number: u64, endpoint: &str, run: u32) -> DeliveryRef {
    let event = event(number);
    DeliveryRef {
        organization_id: event.organization_id.clone(),
        event_id: event.id.clone(),
        endpoint_id: EndpointId::new(endpoint),
        run,
        trigger: if run == 0 { Trigger::Event } else { Trigger::Resend },
    }
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    let reasons = select(vec![
        DisabledReason::Manual,
        DisabledReason::Gone,
        DisabledReason::Failing,
    ]);
    prop_oneof![
        Just(Verdict::Project),
        Just(Verdict::EventType),
        (0..3_i64, reasons).prop_map(|(at_ms, reason)| Verdict::Disabled { at_ms, reason }),
        Just(Verdict::Matched),
    ]
}

fn endpoints() -> impl Strategy<Value = &'static str> {
    select(vec!["ep_1", "ep_2", "ep_3"])
}

fn times() -> impl Strategy<Value = u64> {
    FIRST_MS..FIRST_MS + 4
}

fn deliveries() -> impl Strategy<Value = DeliveryRef> {
    (0..3_u64, endpoints(), 0..2_u32).prop_map(|(number, endpoint, run)| delivery(number, endpoint, run))
}

fn thens() -> impl Strategy<Value = Then> {
    prop_oneof![
        Just(Then::Delivered),
        times().prop_map(|at_ms| Then::Retry { at_ms }),
        (times(), select(vec![DeferReason::NoSlot, DeferReason::Fault]))
            .prop_map(|(at_ms, reason)| Then::Deferred { reason, at_ms }),
        select(vec![DeadReason::Exhausted, DeadReason::Gone]).prop_map(|reason| Then::Dead { reason }),
        Just(Then::Cancelled {
            reason: CancelReason::EndpointDeleted
        }),
    ]
}

fn considered() -> impl Strategy<Value = Considered> {
    vec((endpoints(), verdicts()), 0..4).prop_map(|verdicts| {
        let verdicts = verdicts.into_iter();
        verdicts
            .map(|(id, verdict)| (EndpointId::new(id), verdict))
            .collect::<Considered>()
    })
}

fn seen() -> impl Strategy<Value = Seen> {
    (0..4_i64, 0..3_i64, any::<i64>()).prop_map(|(version, change, stamp)| Seen {
        version,
        change,
        stamp,
    })
}

fn errors() -> impl Strategy<Value = &'static str> {
    select(vec!["", "status 500", "timeout in response: 30 s"])
}

fn event_records() -> impl Strategy<Value = Record> {
    (0..5_u64, times(), considered(), option::of(seen())).prop_map(
        |(number, received_ms, considered, seen)| {
            Record::Event(EventRecord {
                event: event(number),
                received_ms,
                considered,
                seen,
            })
        },
    )
}

fn attempt_records() -> impl Strategy<Value = Record> {
    (
        any::<[u8; 10]>(),
        deliveries(),
        1..3_u32,
        times(),
        0..3_u64,
        option::of(200..600_u16),
        errors(),
        thens(),
    )
        .prop_map(
            |(random, delivery, number, began_ms, duration_ms, status, error, then)| {
                Record::Attempt(AttemptRecord {
                    id: AttemptId::generate(began_ms, random),
                    delivery,
                    number,
                    began_ms,
                    duration_ms,
                    status,
                    phase: status.is_none().then_some(Phase::Response),
                    failure: status.is_none().then_some(FailureKind::Timeout),
                    error: error.to_owned(),
                    response: random.to_vec().into(),
                    then,
                })
            },
        )
}

fn step_records() -> impl Strategy<Value = Record> {
    (
        deliveries(),
        times(),
        0..3_u32,
        option::of(200..600_u16),
        errors(),
        thens(),
    )
        .prop_map(|(delivery, at_ms, attempts, last_status, last_error, then)| {
            let last_error = last_error.to_owned();
            Record::Step(StepRecord {
                delivery,
                at_ms,
                attempts,
                last_status,
                last_error,
                then,
            })
        })
}

fn gap_records() -> impl Strategy<Value = Record> {
    (
        select(vec!["worker_1", "worker_2"]),
        0..2_u64,
        2..4_u64,
        1..4_u64,
        option::of((1..4_u64, 4..6_u64)),
    )
        .prop_map(|(worker, from_ms, until_ms, count, batches)| {
            let worker = worker.to_owned();
            Record::Gap(Gap {
                worker,
                from_ms,
                until_ms,
                count,
                batches,
            })
        })
}

/// Generates records, including records that contradict one another, which no worker writes.
fn records() -> impl Strategy<Value = Record> {
    prop_oneof![event_records(), attempt_records(), step_records(), gap_records()]
}

/// Generates records, and the same records in another order with some of them duplicated.
fn twice() -> impl Strategy<Value = (Vec<Record>, Vec<Record>)> {
    vec(records(), 0..16)
        .prop_flat_map(|records| {
            let again = proptest::sample::subsequence(records.clone(), 0..=records.len());
            (Just(records), again)
        })
        .prop_flat_map(|(records, again)| {
            let all = [records.clone(), again].concat();
            (Just(records), Just(all).prop_shuffle())
        })
}

fn books(records: &[Record]) -> Books {
    let mut books = Books::default();
    for record in records {
        books.add(record.clone());
    }
    books
}

proptest! {
    #[test]
    fn books_are_the_same_for_every_order_and_duplication((records, again) in twice()) {
        prop_assert_eq!(books(&records), books(&again));
    }

    #[test]
    fn what_is_written_is_read(records in vec(records(), 0..8)) {
        let mut batch = Batch::new();
        for record in &records {
            batch.push(record);
        }
        prop_assert_eq!(batch.records(), records.len() as u64);
        let body = batch.take();
        prop_assert_eq!(Batch::decode(&body).unwrap(), &records[..]);

        // The next batch in the same memory contains nothing of the previous one.
        prop_assert_eq!((batch.records(), batch.bytes()), (0, 0));
        let mut fresh = Batch::new();
        for record in records.iter().take(1) {
            batch.push(record);
            fresh.push(record);
        }
        prop_assert_eq!(batch.take(), fresh.take());
    }

    #[test]
    fn bytes_that_are_no_batch_are_an_error_and_no_panic(bytes in vec(any::<u8>(), 0..64), cut in 1..200_usize) {
        let _ = Batch::decode(&bytes);
        let whole = version_1();
        let mut prefix = &whole[..whole.len() - cut.min(whole.len())];
        if let Ok(records) = Batch::decode(prefix) {
            // The batch was cut between two records.
            prop_assert!(records.len() < samples().len());
            prefix = &[];
        }
        prop_assert!(Batch::decode(prefix).is_err());
    }

    #[test]
    fn what_was_considered_is_read_back(verdicts in vec(("ep_[0-9a-f]{1,32}", verdicts()), 0..8)) {
        let verdicts = verdicts.into_iter();
        let considered: Considered = verdicts.map(|(id, verdict)| (EndpointId::new(id), verdict)).collect();
        prop_assert_eq!(considered.to_string().parse(), Ok(considered));
    }
}

/// Returns records of every kind, with every kind of outcome.
fn samples() -> Vec<Record> {
    let considered = "ep_1:matched ep_2:project ep_3:event_type ep_4:disabled.gone.1703123456789";
    let attempt = |number: u32, status: Option<u16>, then: Then| AttemptRecord {
        id: AttemptId::generate(FIRST_MS, [number as u8; 10]),
        delivery: delivery(3, "ep_1", 0),
        number,
        began_ms: FIRST_MS,
        duration_ms: 30_000,
        status,
        phase: status.is_none().then_some(Phase::Connect),
        failure: status.is_none().then_some(FailureKind::ConnectionRefused),
        error: if status == Some(204) {
            String::new()
        } else {
            "in words".to_owned()
        },
        response: Bytes::copy_from_slice(if status.is_some() { b"\0\xff" } else { b"" }),
        then,
    };
    let step = |then: Then| StepRecord {
        delivery: delivery(2, "ep_2", 1),
        at_ms: FIRST_MS + 1,
        attempts: 3,
        last_status: Some(503),
        last_error: "status 503".to_owned(),
        then,
    };
    let at_ms = FIRST_MS + 2_000;
    vec![
        Record::Event(EventRecord {
            event: event(3),
            received_ms: FIRST_MS + 7,
            considered: considered.parse().unwrap(),
            seen: None,
        }),
        Record::Attempt(attempt(1, None, Then::Retry { at_ms })),
        Record::Attempt(attempt(
            2,
            Some(410),
            Then::Dead {
                reason: DeadReason::Gone,
            },
        )),
        Record::Attempt(attempt(3, Some(204), Then::Delivered)),
        Record::Step(step(Then::Deferred {
            reason: DeferReason::Database,
            at_ms,
        })),
        Record::Step(step(Then::Dead {
            reason: DeadReason::EndpointDisabled,
        })),
        Record::Step(step(Then::Cancelled {
            reason: CancelReason::EndpointDeleted,
        })),
        Record::Gap(Gap {
            worker: "host-1".to_owned(),
            from_ms: FIRST_MS,
            until_ms: at_ms,
            count: 1_234,
            batches: None,
        }),
    ]
}

fn version_1() -> Vec<u8> {
    hex::decode(VERSION_1.split_ascii_whitespace().collect::<String>()).unwrap()
}

#[test]
fn batches_of_version_1_can_be_read_for_good() {
    assert_eq!(Batch::decode(&version_1()).unwrap(), samples());
}

#[test]
fn a_field_that_a_newer_writer_added_is_skipped() {
    #[derive(Serialize)]
    struct Newer {
        worker: &'static str,
        from_ms: u64,
        mood: [&'static str; 2],
        until_ms: u64,
        count: u64,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum NewerRecord {
        Gap(Newer),
    }
    let newer = Newer {
        worker: "w",
        from_ms: 1,
        mood: ["so", "so"],
        until_ms: 2,
        count: 3,
    };
    let records = rmp_serde::to_vec_named(&NewerRecord::Gap(newer)).unwrap();
    let body = compress(&records, &mut Vec::new()).to_vec();
    let gap = Gap {
        worker: "w".to_owned(),
        from_ms: 1,
        until_ms: 2,
        count: 3,
        batches: None,
    };
    assert_eq!(Batch::decode(&body).unwrap(), [Record::Gap(gap)]);
}

#[test]
fn a_batch_of_another_version_says_which() {
    assert!(matches!(Batch::decode(&[]), Err(BadBatch::Empty)));
    let error = Batch::decode(&[VERSION + 1, 0xc0]).unwrap_err();
    assert!(error.to_string().contains("version 2"), "{error}");
}

#[test]
fn what_is_no_batch_is_told_from_one() {
    let decoded = Batch::decode(compress(&[0xc1], &mut Vec::new()));
    assert!(matches!(decoded, Err(BadBatch::Record { at: 0, .. })));
    let mut cut = compress(&[0xc0; 100], &mut Vec::new()).to_vec();
    cut.pop();
    let huge = [VERSION, 0xff, 0xff, 0xff, 0xff, 0];
    for body in [&cut[..], &huge, &[VERSION, 1]] {
        assert!(
            matches!(Batch::decode(body), Err(BadBatch::Compression { .. })),
            "{body:?}"
        );
    }
}

#[test]
fn the_largest_event_with_the_most_endpoints_fits_into_a_batch() {
    let padding = "x".repeat(crate::EVENT_BYTES_MAX - 200);
    let body = format!(
        r#"{{"event":"lead.completed","timestamp":1703123456789,"organization_id":"o","project_id":"p","lead_id":"l","data":{{"x":"{padding}"}}}}"#
    );
    let verdict = Verdict::Disabled {
        at_ms: FIRST_MS as i64,
        reason: DisabledReason::Failing,
    };
    let endpoint = |number: usize| EndpointId::new(format!("ep_{number:032x}"));
    let record = EventRecord {
        event: Arc::new(Event::from_message(None, None, body.into()).unwrap()),
        received_ms: FIRST_MS,
        considered: (0..CONSIDERED_MAX)
            .map(|number| (endpoint(number), verdict))
            .collect(),
        seen: Some(Seen {
            version: i64::MAX,
            change: i64::MAX,
            stamp: i64::MIN,
        }),
    };
    let mut batch = Batch::new();
    batch.push(&Record::Event(record));
    assert!(batch.bytes() < BATCH_BYTES_MAX, "{}", batch.bytes());
}

#[test]
fn a_delivery_is_known_from_the_moment_its_endpoint_matched() {
    let matched = books(&samples()[..1]);
    let entry = &matched.deliveries[&delivery(3, "ep_1", 0).id()];
    assert_eq!(matched.deliveries.len(), 1);
    assert_eq!(entry.standing, Standing::matched(FIRST_MS + 7));

    let delivered = books(&samples()[..4]);
    let entry = &delivered.deliveries[&delivery(3, "ep_1", 0).id()];
    assert_eq!(
        (entry.standing.state, entry.standing.attempts),
        (DeliveryState::Delivered, 3)
    );
    assert_eq!(entry.created_ms, FIRST_MS);
}
