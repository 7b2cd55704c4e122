use proptest::prelude::*;

use super::*;
use crate::EventType;

const GOOD: &str = r#"{"event":"lead.completed","timestamp":1703123456789,"organization_id":"org_1","project_id":"proj_1","lead_id":"lead_1","data":{"a":1}}"#;

fn reason(body: impl AsRef<[u8]>) -> (&'static str, String) {
    let rejection = Envelope::parse(body.as_ref()).unwrap_err();
    (rejection.reason(), rejection.to_string())
}

#[test]
fn a_good_envelope_is_read_and_its_strings_are_borrowed() {
    let envelope = Envelope::parse(GOOD.as_bytes()).unwrap();
    assert_eq!(envelope.event_type, EventType::LeadCompleted.into());
    assert_eq!(envelope.timestamp_ms, 1_703_123_456_789);
    assert!(matches!(envelope.organization_id, Cow::Borrowed("org_1")));
    assert!(matches!(envelope.lead_id, Cow::Borrowed("lead_1")));
}

#[test]
fn order_space_escapes_and_unknown_fields_do_not_matter() {
    let body = "\n {\"data\" : {} , \"x\":[[1e400]], \"lead_id\":\"l\\u00e9\", \"project_id\":\"p\", \
                \"organization_id\":\"o\", \"timestamp\": 978307200000, \"event\":\"lead\\u002ecreated\"} \n";
    let envelope = Envelope::parse(body.as_bytes()).unwrap();
    assert_eq!(envelope.lead_id, "lé");
    assert_eq!(envelope.event_type, EventType::LeadCreated.into());
}

/// A body that breaks a rule, the reason of its rejection, and a word that the message must contain.
type Broken = (Vec<u8>, &'static str, &'static str);

fn replaced(from: &str, to: &str) -> Vec<u8> {
    GOOD.replace(from, to).into_bytes()
}

fn without(field: &str) -> Vec<u8> {
    let mut value: serde_json::Value = serde_json::from_str(GOOD).unwrap();
    value.as_object_mut().unwrap().remove(field);
    value.to_string().into_bytes()
}

fn texts_that_are_no_object() -> Vec<Broken> {
    vec![
        (b"".to_vec(), "not_json", "EOF"),
        (
            b"{".to_vec(),
            "not_json",
            "EOF while parsing an object at column 1",
        ),
        (b"not json".to_vec(), "not_json", "it does not begin with '{'"),
        (b"{\n}}".to_vec(), "not_json", "at line 2 column 2"),
        (replaced("}}", "}}x"), "not_json", "trailing"),
        (replaced("\"a\":1", "\"a\":01"), "not_json", "number"),
        (replaced("\"a\":1", "'a':1"), "not_json", "string"),
        (b"[1]".to_vec(), "not_an_object", "object"),
        (b"\"x\"".to_vec(), "not_an_object", "object"),
        (b"null".to_vec(), "not_an_object", "object"),
        (
            replaced("org_1", "org\u{0}")
                .iter()
                .map(|b| if *b == 0 { 0xff } else { *b })
                .collect(),
            "invalid_utf8",
            "offset",
        ),
    ]
}

fn fields_with_bad_values() -> Vec<Broken> {
    vec![
        (
            replaced("lead.completed", "lead.complete"),
            "unknown_event_type",
            "lead.completed",
        ),
        (replaced("\"lead.completed\"", "7"), "bad_field", "\"event\""),
        (
            replaced("1703123456789", "1703123456789.0"),
            "bad_field",
            "\"timestamp\"",
        ),
        (replaced("1703123456789", "1e12"), "bad_field", "integer"),
        (replaced("1703123456789", "-1"), "bad_field", "\"timestamp\""),
        (
            replaced("1703123456789", "\"1703123456789\""),
            "bad_field",
            "\"timestamp\"",
        ),
        (
            replaced("1703123456789", "9007199254740992"),
            "bad_field",
            "\"timestamp\"",
        ),
        (replaced("\"org_1\"", "\"\""), "bad_field", "\"organization_id\""),
        (replaced("\"proj_1\"", "null"), "bad_field", "\"project_id\""),
        (replaced("\"lead_1\"", "[\"lead_1\"]"), "bad_field", "\"lead_id\""),
        (replaced("{\"a\":1}", "[]"), "bad_field", "\"data\""),
    ]
}

fn missing_fields() -> Vec<Broken> {
    vec![
        (without("event"), "missing_field", "\"event\""),
        (without("timestamp"), "missing_field", "\"timestamp\""),
        (without("organization_id"), "missing_field", "\"organization_id\""),
        (without("project_id"), "missing_field", "\"project_id\""),
        (without("lead_id"), "missing_field", "\"lead_id\""),
        (without("data"), "missing_field", "\"data\""),
    ]
}

fn duplicate_keys() -> Vec<Broken> {
    vec![
        (
            replaced("\"data\"", "\"lead_id\":\"x\",\"data\""),
            "duplicate_key",
            "lead_id",
        ),
        (
            replaced("\"data\"", "\"x\":1,\"\\u0078\":2,\"data\""),
            "duplicate_key",
            "\"x\"",
        ),
    ]
}

fn sizes_above_the_limits() -> Vec<Broken> {
    vec![
        (
            replaced("org_1", &"o".repeat(256)),
            "long_id",
            "\"organization_id\" has 256",
        ),
        (
            replaced("proj_1", &"é".repeat(128)),
            "long_id",
            "\"project_id\" has 256",
        ),
        (
            replaced("lead_1", &"l".repeat(3_000)),
            "long_id",
            "\"lead_id\" has 3000",
        ),
        (vec![b' '; EVENT_BYTES_MAX + 1], "too_large", "262144"),
    ]
}

#[test]
fn each_broken_rule_has_its_reason_and_names_the_field() {
    let all = [
        texts_that_are_no_object(),
        fields_with_bad_values(),
        missing_fields(),
        duplicate_keys(),
        sizes_above_the_limits(),
    ];
    for (body, expected, word) in all.into_iter().flatten() {
        let (reason, text) = reason(&body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        assert_eq!(reason, expected, "{shown}: {text}");
        assert!(text.contains(word), "{shown}: {text}");
    }
}

#[test]
fn everything_that_is_wrong_with_the_fields_is_told_at_once() {
    let body = GOOD
        .replace("lead.completed", "lead_completed")
        .replace("1703123456789", "1703123456")
        .replace("org_1", "")
        .replace("\"lead_id\"", "\"lead\"");
    let Err(Rejection::Fields(fields)) = Envelope::parse(body.as_bytes()) else {
        panic!("it is an event");
    };
    let named: Vec<_> = fields.iter().map(FieldRejection::field).collect();
    assert_eq!(named, ["event", "timestamp", "organization_id", "lead_id"]);
    let (reason, text) = reason(body);
    assert_eq!(reason, "unknown_event_type");
    assert_eq!(text.matches("field \"").count(), 4, "{text}");
}

#[test]
fn a_key_that_occurs_twice_hides_no_other_error() {
    let body = GOOD.replace("org_1", "").replace(
        "\"data\"",
        &format!(
            "\"x\":1,\"x\":2,\"x\":3,\"lead_id\":\"y\",\"{0}\":1,\"{0}\":2,\"data\"",
            "k".repeat(100)
        ),
    );
    let Err(Rejection::Fields(fields)) = Envelope::parse(body.as_bytes()) else {
        panic!("it is an event");
    };
    let named: Vec<_> = fields.iter().map(FieldRejection::field).collect();
    let long = "k".repeat(64);
    assert_eq!(named, ["x", "lead_id", &long, "organization_id"]);
    assert_eq!(reason(body).0, "duplicate_key");
    let many: Vec<_> = (0..1000).map(|key| format!("\"{key}\":1,\"{key}\":2,")).collect();
    let many = many.concat();
    let (reason, text) = reason(GOOD.replacen('{', &format!("{{{many}"), 1));
    assert_eq!(
        (reason, text.matches("more than once").count()),
        ("duplicate_key", 8)
    );
}

#[test]
fn a_timestamp_is_of_the_years_2001_to_2100_at_entry_and_any_integer_inside() {
    let at = |timestamp: u64| GOOD.replace("1703123456789", &timestamp.to_string());
    for (timestamp, is_valid) in [
        (TIMESTAMPS_MS.start() - 1, false),
        (*TIMESTAMPS_MS.start(), true),
        (*TIMESTAMPS_MS.end(), true),
        (TIMESTAMPS_MS.end() + 1, false),
    ] {
        assert_eq!(
            Envelope::parse(at(timestamp).as_bytes()).is_ok(),
            is_valid,
            "{timestamp}"
        );
        let carried = Event::from_delivery(None, None, at(timestamp).into());
        assert_eq!(carried.unwrap().timestamp_ms, timestamp);
    }
}

#[test]
fn a_timestamp_in_another_unit_is_told_what_it_looks_like() {
    for (timestamp, word) in [
        ("1703123456", "look like seconds"),
        ("1703123456789000", "look like microseconds"),
        (
            "0",
            "\"timestamp\" is 0; expected Unix milliseconds of the years 2001 to 2100",
        ),
    ] {
        let (reason, text) = reason(GOOD.replace("1703123456789", timestamp));
        assert_eq!(reason, "bad_timestamp", "{text}");
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn a_timestamp_may_be_a_day_ahead_of_the_clock_where_it_enters() {
    let day_ms = 24 * 60 * 60 * 1000;
    let entering = |now_ms: u64| Envelope::entering(GOOD.as_bytes(), now_ms);
    assert!(entering(1_703_123_456_789 - day_ms).is_ok());
    assert!(entering(u64::MAX).is_ok());
    let ahead = entering(1_703_123_456_789 - day_ms - 1).unwrap_err();
    assert_eq!(ahead.reason(), "bad_timestamp");
    assert!(ahead.to_string().contains("milliseconds"), "{ahead}");
    // The error is reported together with the other invalid fields.
    let both = GOOD.replace("org_1", "");
    let Err(Rejection::Fields(fields)) = Event::entering(None, None, both.into(), 0) else {
        panic!("it is an event");
    };
    assert_eq!(fields.len(), 2, "{fields:?}");
}

#[test]
fn a_slip_in_a_type_is_told_from_a_type_that_is_not_there() {
    for (slip, meant) in [
        ("lead.complete", Some("lead.completed")),
        ("lead_completed", Some("lead.completed")),
        ("LEAD.COMPLETED", Some("lead.completed")),
        ("leadCreated", Some("lead.created")),
        ("reserach.failed", Some("research.failed")),
        ("order.paid", None),
        ("", None),
    ] {
        let text = slip.parse::<EventType>().unwrap_err().to_string();
        let told = text
            .split_once("did you mean \"")
            .map(|(_, rest)| rest.split('"').next().unwrap());
        assert_eq!(told, meant, "{text}");
    }
}

#[test]
fn an_id_has_at_most_255_bytes_at_entry_and_any_number_inside() {
    let long = |bytes: usize| GOOD.replace("lead_1", &"l".repeat(bytes));
    assert!(Envelope::parse(long(255).as_bytes()).is_ok());
    assert_eq!(reason(long(256)).0, "long_id");
    let carried = Event::from_delivery(None, None, long(100_000).into()).unwrap();
    assert_eq!(carried.lead_id.as_str().len(), 100_000);
    // Half of a surrogate pair is not valid text.
    assert_eq!(reason(GOOD.replace("lead_1", "\\ud800")).0, "bad_field");
}

#[test]
fn depth_is_counted_over_all_brackets_outside_strings() {
    let nested = |levels: usize| {
        GOOD.replace(
            "{\"a\":1}",
            &format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels)),
        )
    };
    assert!(Envelope::parse(nested(DEPTH_MAX - 2).as_bytes()).is_ok());
    assert_eq!(reason(nested(DEPTH_MAX - 1)).0, "too_deep");
    let in_a_string = GOOD.replace("org_1", &format!("\\\"{}", "[".repeat(200)));
    assert!(Envelope::parse(in_a_string.as_bytes()).is_ok());
}

#[test]
fn a_body_of_exactly_the_limit_is_accepted() {
    let filler = "x".repeat(EVENT_BYTES_MAX - GOOD.len() - 1);
    let body = GOOD.replace("{\"a\":1}", &format!("{{\"a\":\"{filler}\"}}"));
    assert_eq!(body.len(), EVENT_BYTES_MAX);
    assert!(Envelope::parse(body.as_bytes()).is_ok());
}

#[test]
fn the_event_takes_its_id_from_the_message_or_else_from_the_body() {
    let body = Bytes::from_static(GOOD.as_bytes());
    let given = Event::from_message(Some("evt-1"), None, body.clone()).unwrap();
    assert_eq!(given.id.as_str(), "evt-1");
    let derived = Event::from_message(None, None, body.clone()).unwrap();
    assert_eq!(derived.id, EventId::from_body(&body));
    assert_eq!(
        derived.body.as_ptr(),
        body.as_ptr(),
        "the body is shared, not copied"
    );
    for bad in ["", "has space", "ünïcode"] {
        assert_eq!(
            Event::from_message(Some(bad), None, body.clone()),
            Err(Rejection::BadMessageId)
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Envelope::parse(&body);
    }

    #[test]
    fn a_damaged_envelope_never_panics_and_what_passes_is_still_json(at in 0..GOOD.len(), byte in any::<u8>()) {
        let mut body = GOOD.as_bytes().to_vec();
        body[at] = byte;
        if Envelope::parse(&body).is_ok() {
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
        }
    }

    #[test]
    fn any_object_with_the_envelope_passes(
        org in "[^\"\\\\\u{0}-\u{1f}]{1,40}", timestamp in TIMESTAMPS_MS, extra in "[a-z]{1,8}",
    ) {
        let body = serde_json::json!({
            "event": "magnet.viewed", "timestamp": timestamp, "organization_id": org, "project_id": "p",
            "lead_id": "l", "data": {}, format!("x_{extra}"): [1, null],
        }).to_string();
        let envelope = Envelope::parse(body.as_bytes()).unwrap();
        prop_assert_eq!(envelope.organization_id.as_ref(), org.as_str());
        prop_assert_eq!(envelope.timestamp_ms, timestamp);
    }
}
