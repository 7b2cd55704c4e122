use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
};

use lapin::types::ShortString;
use proptest::prelude::*;

use super::*;

const BODY: &str = r#"{"event":"lead.completed","timestamp":1703123456789,"organization_id":"org_1","project_id":"proj_1","lead_id":"lead_1","data":{}}"#;

fn delivery() -> Delivery {
    let traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    let event = Event::from_message(Some("evt_1"), traceparent, Bytes::from_static(BODY.as_bytes())).unwrap();
    Delivery {
        event: Arc::new(event),
        endpoint_id: EndpointId::new("ep_1"),
        run: 2,
        attempt: 3,
        deferrals: 4,
        put_off: PutOff {
            no_slot_ms: 7_000,
            fault_ms: 31_000,
        },
        first_attempt_ms: Some(1_703_123_456_999),
        trigger: Trigger::Resend,
    }
}

fn topology() -> Topology {
    Topology::new("magnetite", &[Duration::from_secs(1)])
}

fn received(outgoing: Outgoing) -> Message {
    Message {
        body: outgoing.body,
        properties: outgoing.properties,
    }
}

/// Returns a message as the first release wrote it, header by header. Every later release must be able to
/// read it.
fn first_release() -> Message {
    written(&[("magnetite-no-slot-since-ms", 1_703_123_457_000)])
}

/// Returns a message as written since headers contain durations instead of times. Every later release must be
/// able to read it.
fn with_durations() -> Message {
    written(&[("magnetite-no-slot-ms", 7_000), ("magnetite-fault-ms", 31_000)])
}

fn written(waits: &[(&str, i64)]) -> Message {
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("magnetite-endpoint", text("ep_1")),
        ("magnetite-run", AMQPValue::LongLongInt(2)),
        ("magnetite-attempt", AMQPValue::LongLongInt(3)),
        ("magnetite-deferrals", AMQPValue::LongLongInt(4)),
        (
            "magnetite-first-attempt-ms",
            AMQPValue::LongLongInt(1_703_123_456_999),
        ),
        ("magnetite-trigger", text("resend")),
        (
            "traceparent",
            text("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ),
    ] {
        headers.insert(name.into(), value);
    }
    for (name, ms) in waits {
        headers.insert((*name).into(), AMQPValue::LongLongInt(*ms));
    }
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id("evt_1".into())
        .with_type("lead.completed".into())
        .with_headers(headers);
    Message {
        body: Bytes::from_static(BODY.as_bytes()),
        properties,
    }
}

fn with_header(name: &str, value: Option<AMQPValue>) -> Message {
    let mut message = first_release();
    let mut headers = FieldTable::default();
    for (key, kept) in first_release().headers().filter(|(key, _)| key.as_str() != name) {
        headers.insert(key.clone(), kept.clone());
    }
    if let Some(value) = value {
        headers.insert(name.into(), value);
    }
    message.properties = message.properties.with_headers(headers);
    message
}

#[test]
fn what_the_first_release_wrote_is_read_and_its_moment_is_no_duration() {
    let expected = Delivery {
        put_off: PutOff::default(),
        ..delivery()
    };
    assert_eq!(first_release().delivery().unwrap(), expected);
}

#[test]
fn a_waiting_delivery_is_written_with_durations_and_read_back_whole() {
    let outgoing = Outgoing::delay(&topology(), &delivery(), Duration::from_secs(1));
    assert_eq!(
        (outgoing.exchange.as_str(), outgoing.routing_key.as_str()),
        ("", "magnetite.delay.1000")
    );
    let message = received(outgoing);
    assert_eq!(message, with_durations());
    assert_eq!(message.delivery().unwrap(), delivery());
}

#[test]
fn a_due_delivery_goes_through_the_deliveries_exchange() {
    let outgoing = Outgoing::due(&topology(), &delivery());
    assert_eq!(
        (outgoing.exchange.as_str(), outgoing.routing_key.as_str()),
        ("magnetite.deliveries", "due")
    );
    assert_eq!(received(outgoing), with_durations());
}

#[test]
fn what_was_not_set_is_not_written() {
    let first = Delivery::first(Arc::clone(&delivery().event), EndpointId::new("ep_1"));
    let message = received(Outgoing::due(&topology(), &first));
    assert_eq!(message.header(FIRST_ATTEMPT_MS), None);
    assert_eq!(message.header(NO_SLOT_MS), None);
    assert_eq!(message.header(FAULT_MS), None);
    assert_eq!(message.delivery().unwrap(), first);
}

#[test]
fn a_dead_letter_says_why_and_is_still_a_delivery() {
    let letter = DeadLetter {
        reason: DeadReason::Exhausted,
        attempts: 10,
        last_status: Some(503),
        last_error: "status 503".to_owned(),
        dead_ms: 7,
    };
    let message = received(Outgoing::dead(&topology(), &delivery(), &letter));
    assert_eq!(message.text("magnetite-reason").as_deref(), Some("exhausted"));
    assert_eq!(message.number("magnetite-attempts"), Some(10));
    assert_eq!(message.number("magnetite-last-status"), Some(503));
    assert_eq!(
        message.text("magnetite-delivery").as_deref(),
        Some(delivery().id().as_str())
    );
    assert_eq!(message.delivery().unwrap(), delivery());
}

#[test]
fn a_rejected_message_keeps_what_it_came_with_but_not_the_brokers_headers() {
    let message = with_header("x-death", Some(text("round and round")));
    let rejected = received(Outgoing::rejected(
        &topology(),
        "rej_1",
        &message,
        Source::Due,
        "bad_header",
        "header x",
        9,
    ));
    assert_eq!(rejected.body, message.body);
    assert_eq!(rejected.header("x-death"), None);
    assert_eq!(rejected.text("magnetite-reason").as_deref(), Some("bad_header"));
    assert_eq!(rejected.text("magnetite-source").as_deref(), Some("due"));
    assert_eq!(rejected.delivery().unwrap(), message.delivery().unwrap());
}

#[test]
fn each_missing_or_unreadable_header_is_named() {
    let bad = [
        text("x"),
        AMQPValue::LongLongInt(-1),
        AMQPValue::LongLongInt(i64::MAX),
        AMQPValue::Boolean(true),
    ];
    let mut table: Vec<(&str, Option<AMQPValue>)> = vec![
        (ENDPOINT, None),
        (ENDPOINT, Some(text(""))),
        (ENDPOINT, Some(AMQPValue::LongLongInt(1))),
        (TRIGGER, None),
        (TRIGGER, Some(text("whim"))),
        (ATTEMPT, Some(AMQPValue::LongLongInt(0))),
    ];
    for name in [RUN, ATTEMPT, DEFERRALS] {
        table.push((name, None));
        table.extend(bad.iter().map(|value| (name, Some(value.clone()))));
    }
    for (name, value) in table {
        let error = with_header(name, value.clone()).delivery().unwrap_err();
        assert_eq!(error.reason(), "bad_header", "{name} {value:?}");
        assert!(error.to_string().contains(name), "{name} {value:?}: {error}");
    }
}

#[test]
fn small_integers_of_other_clients_are_read() {
    for value in [
        AMQPValue::LongInt(3),
        AMQPValue::ShortShortUInt(3),
        AMQPValue::LongUInt(3),
    ] {
        assert_eq!(with_header(ATTEMPT, Some(value)).delivery().unwrap().attempt, 3);
    }
}

#[test]
fn two_messages_hash_alike_only_if_their_content_is_the_same() {
    let state = RandomState::new();
    let hash = |message: &Message| {
        let mut hasher = state.build_hasher();
        message.hash_content(&mut hasher);
        hasher.finish()
    };
    let one = first_release();
    assert_eq!(hash(&one), hash(&first_release()));
    for (name, value) in [(ATTEMPT, AMQPValue::LongLongInt(4)), (ENDPOINT, text("ep_2"))] {
        assert_ne!(hash(&one), hash(&with_header(name, Some(value))));
    }
    let other_body = Message {
        body: Bytes::from_static(b"{}"),
        ..first_release()
    };
    assert_ne!(hash(&one), hash(&other_body));
}

/// Generates any value that a header can have, including nested tables.
fn any_value() -> impl Strategy<Value = AMQPValue> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    let leaf = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<f64>().prop_map(AMQPValue::Double),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        bytes().prop_map(|bytes| AMQPValue::LongString(bytes.into())),
        bytes().prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
        "[a-z0-9]{0,8}".prop_map(|word| text(&word)),
        (0..5_i64).prop_map(AMQPValue::LongLongInt),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop::collection::btree_map("[a-z-]{0,10}", inner, 0..4)
            .prop_map(|table| AMQPValue::FieldTable(named(table).into()))
    })
}

fn named(table: BTreeMap<String, AMQPValue>) -> BTreeMap<ShortString, AMQPValue> {
    table
        .into_iter()
        .map(|(name, value)| (name.into(), value))
        .collect()
}

/// Generates any table: foreign names, and our names with values of any type.
fn any_headers() -> impl Strategy<Value = FieldTable> {
    let name = prop_oneof![
        prop::sample::select(DELIVERY_HEADERS.to_vec()).prop_map(str::to_owned),
        ".{0,20}"
    ];
    prop::collection::btree_map(name, any_value(), 0..12).prop_map(|table| named(table).into())
}

proptest! {
    #[test]
    fn no_table_of_headers_makes_the_reader_panic_and_what_it_reads_is_written_as_it_was(
        headers in any_headers(), over_a_good_one in any::<bool>(), id in prop::option::of(".{0,60}"),
    ) {
        let mut message = first_release();
        let good = first_release().properties.headers().clone().filter(|_| over_a_good_one);
        let mut all = good.unwrap_or_default().inner().clone();
        all.extend(headers.inner().clone());
        message.properties = message.properties.with_headers(all.into());
        if let Some(id) = id {
            message.properties = message.properties.with_message_id(id.into());
        }
        let _ = message.event();
        match message.delivery() {
            Ok(read) => prop_assert_eq!(received(Outgoing::due(&topology(), &read)).delivery(), Ok(read)),
            Err(bad) => prop_assert!(["bad_header", "bad_message_id"].contains(&bad.reason()), "{}", bad),
        }
    }

    #[test]
    fn what_is_set_aside_has_few_and_short_headers(headers in any_headers()) {
        let mut message = first_release();
        message.properties = message.properties.with_headers(headers);
        let rejected = received(Outgoing::rejected(&topology(), "rej_1", &message, Source::Due, "bad_header", &"x".repeat(5000), 9));
        prop_assert_eq!(&rejected.body, &message.body);
        for (name, value) in rejected.headers() {
            prop_assert!(name.as_str().starts_with("magnetite-") || name.as_str() == TRACEPARENT, "{}", name);
            prop_assert!(!is_long(value), "{}", name);
        }
        prop_assert!(rejected.headers().count() <= DELIVERY_HEADERS.len() + 4);
    }

    #[test]
    fn every_delivery_survives_the_wire(
        run in 0..COUNTER_MAX, attempt in 1..COUNTER_MAX, deferrals in 0..COUNTER_MAX,
        first in prop::option::of(0..u64::MAX / 2), no_slot_ms in 0..u64::MAX / 2, fault_ms in 0..u64::MAX / 2,
        endpoint in "[ -~]{1,100}",
    ) {
        let sent = Delivery {
            run, attempt, deferrals, first_attempt_ms: first, put_off: PutOff { no_slot_ms, fault_ms },
            endpoint_id: EndpointId::new(endpoint), ..delivery()
        };
        let read = received(Outgoing::due(&topology(), &sent)).delivery().unwrap();
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn no_header_value_makes_the_reader_panic(number in any::<i64>(), bytes in prop::collection::vec(any::<u8>(), 0..50)) {
        for name in [ENDPOINT, RUN, ATTEMPT, DEFERRALS, TRIGGER, FIRST_ATTEMPT_MS, NO_SLOT_MS, FAULT_MS, NO_SLOT_SINCE_MS, TRACEPARENT] {
            let _ = with_header(name, Some(AMQPValue::LongLongInt(number))).delivery();
            let _ = with_header(name, Some(AMQPValue::LongString(bytes.as_slice().into()))).delivery();
        }
    }
}
