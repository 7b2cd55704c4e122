//! All kinds of messages that are not what their queue should contain, with the reason that each has to be
//! given.

use e2e::{Endpoint, due_headers, event};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};

/// The exchange that a message is published to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Events,
    Due,
}

/// A message as it is published.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) to: To,
    pub(crate) body: Vec<u8>,
    pub(crate) message_id: Option<String>,
    pub(crate) headers: FieldTable,
}

/// A kind of malformed message.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// The value of the header `magnetite-reason`.
    pub(crate) reason: &'static str,
    /// A part of the header `magnetite-detail`.
    pub(crate) word: &'static str,
    pub(crate) sent: Sent,
}

impl To {
    /// Returns the exchange and the routing key.
    pub(crate) fn address(self) -> (&'static str, &'static str) {
        match self {
            Self::Events => ("events", "test"),
            Self::Due => ("deliveries", "due"),
        }
    }

    /// Returns the value of the header `magnetite-source`.
    pub(crate) fn source(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Due => "due",
        }
    }
}

impl Sent {
    /// Creates an event.
    pub(crate) fn event(body: impl Into<Vec<u8>>) -> Self {
        Self {
            to: To::Events,
            body: body.into(),
            message_id: None,
            headers: FieldTable::default(),
        }
    }

    /// Creates a delivery to `endpoint` that is due, as workers publish it.
    pub(crate) fn delivery(body: impl Into<Vec<u8>>, endpoint: &Endpoint) -> Self {
        let (to, message_id) = (To::Due, None);
        Self {
            to,
            body: body.into(),
            message_id,
            headers: due_headers(endpoint),
        }
    }

    pub(crate) fn with_id(self, message_id: &str) -> Self {
        let message_id = Some(message_id.to_owned());
        Self { message_id, ..self }
    }

    /// Sets a header, or removes it if `value` is `None`.
    pub(crate) fn with_header(mut self, name: &str, value: Option<AMQPValue>) -> Self {
        let mut headers: std::collections::BTreeMap<_, _> = self.headers.inner().clone();
        headers.remove(name);
        headers.extend(value.map(|value| (name.into(), value)));
        self.headers = headers.into();
        self
    }

    /// Returns the properties. The property `type` identifies the message, because it is kept in quarantine.
    pub(crate) fn properties(&self, number: usize) -> BasicProperties {
        let properties = BasicProperties::default()
            .with_type(number.to_string().into())
            .with_headers(self.headers.clone());
        match &self.message_id {
            Some(message_id) => properties.with_message_id(message_id.as_str().into()),
            None => properties,
        }
    }
}

pub(crate) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// Returns all kinds. `endpoint` must exist.
pub(crate) fn kinds(endpoint: &Endpoint) -> Vec<Kind> {
    let mut kinds = not_objects();
    kinds.extend(envelopes());
    kinds.extend(timestamps());
    kinds.extend(ids());
    kinds.extend(headers(endpoint));
    kinds.extend(deliveries(endpoint));
    kinds.extend(markers());
    kinds
}

/// Returns messages with headers that this system itself sets on rejected messages. The headers are so large
/// that nothing else fits into the frame.
fn markers() -> Vec<Kind> {
    const LARGE: usize = 130_800;
    let marked = |name, reason, word, header: &'static str, value| Kind {
        name,
        reason,
        word,
        sent: Sent::event("not json").with_header(header, Some(value)),
    };
    let large = || AMQPValue::LongString(vec![b'x'; LARGE].into());
    vec![
        marked(
            "raw properties of its own",
            "not_json",
            "begin",
            "magnetite-unreadable-properties",
            large(),
        ),
        marked(
            "a length of its own",
            "not_json",
            "begin",
            "magnetite-body-bytes",
            large(),
        ),
        marked(
            "a fault of its own",
            "unreadable_properties",
            "xxx",
            "magnetite-unreadable",
            large(),
        ),
        marked(
            "raw properties that are an array",
            "not_json",
            "begin",
            "magnetite-unreadable-properties",
            AMQPValue::FieldArray(vec![large()].into()),
        ),
    ]
}

/// Returns a kind with this body, which is not a valid event.
fn kind(name: &'static str, reason: &'static str, word: &'static str, body: impl Into<Vec<u8>>) -> Kind {
    Kind {
        name,
        reason,
        word,
        sent: Sent::event(body.into()),
    }
}

/// Returns a kind that is a valid event except for one replacement.
fn swap(name: &'static str, reason: &'static str, word: &'static str, from: &str, to: &str) -> Kind {
    let good = event("org_1", "lead_1");
    assert!(good.contains(from), "{name}");
    kind(name, reason, word, good.replace(from, to))
}

/// Returns bodies that are not JSON, or not a JSON object.
fn not_objects() -> Vec<Kind> {
    let good = event("org_1", "lead_1");
    let mut not_utf8 = good.clone().into_bytes();
    not_utf8[good.len() / 2] = 0xff;
    let (lead, unquoted) = ("\"lead_id\":\"lead_1\"}", "'lead_id':1}");
    let (data, not_a_number) = ("\"data\":{", "\"data\":{\"n\":NaN,");
    vec![
        kind("nothing", "not_json", "EOF", ""),
        kind("words", "not_json", "begin", "hello"),
        kind("cut off", "not_json", "EOF", &good[..good.len() - 1]),
        kind("two at once", "not_json", "trailing", format!("{good}{good}")),
        kind(
            "a zero byte at the end",
            "not_json",
            "trailing",
            format!("{good}\0"),
        ),
        kind(
            "a byte order mark",
            "not_json",
            "begin",
            format!("\u{feff}{good}"),
        ),
        swap("single quotes", "not_json", "key", lead, unquoted),
        swap("a comma too many", "not_json", "trailing comma", "}}", "},}"),
        swap("not a number", "not_json", "expected", data, not_a_number),
        kind("an array", "not_an_object", "object", format!("[{good}]")),
        kind("a string", "not_an_object", "object", "\"lead.created\""),
        kind("null", "not_an_object", "object", "null"),
        kind("not UTF-8", "invalid_utf8", "offset", not_utf8),
    ]
}

/// The reason for a field whose value is invalid.
const BAD: &str = "bad_field";

/// Returns objects that are not an envelope, apart from those of [`timestamps`].
fn envelopes() -> Vec<Kind> {
    const TYPE: &str = "unknown_event_type";
    const TWICE: &str = "duplicate_key";
    const LONG: &str = "long_id";
    let missing = |name, field: &'static str| {
        let from = format!("\"{field}\":");
        swap(name, "missing_field", field, &from, "\"other\":")
    };
    let with_data = |name, reason, word, data: &str| {
        let (from, to) = ("\"data\":", format!("\"data\":{data},\"d\":"));
        swap(name, reason, word, from, &to)
    };
    let twice = |name, word, keys: &str| {
        let to = format!("{keys},\"data\":");
        swap(name, TWICE, word, "\"data\":", &to)
    };
    let nested = |open: &str, close: &str| format!("{{\"x\":{}1{}}}", open.repeat(200), close.repeat(200));
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(256 * 1024));
    let (typed, mistyped, loud) = ("lead.completed", "lead.complete", "LEAD.COMPLETED");
    let foreign = "\"x\":1,\"\\u0078\":2";
    vec![
        swap("an unknown type", TYPE, "lead.complete", typed, mistyped),
        swap("a type in capitals", TYPE, "LEAD", typed, loud),
        swap("no type but null", BAD, "\"event\"", "\"lead.completed\"", "null"),
        swap(
            "an empty organization",
            BAD,
            "organization_id",
            "\"org_1\"",
            "\"\"",
        ),
        swap("a number for a project", BAD, "project_id", "\"proj_1\"", "7"),
        swap(
            "a long organization",
            LONG,
            "organization_id",
            "org_1",
            &"o".repeat(256),
        ),
        swap("a long project", LONG, "project_id", "proj_1", &"é".repeat(128)),
        swap("a long lead", LONG, "lead_id", "lead_1", &"l".repeat(3_000)),
        with_data("data in an array", BAD, "\"data\"", "[]"),
        with_data("no data but null", BAD, "\"data\"", "null"),
        missing("no type", "event"),
        missing("no time", "timestamp"),
        missing("no organization", "organization_id"),
        missing("no project", "project_id"),
        missing("no data", "data"),
        twice("a field twice", "event", "\"event\":\"lead.failed\""),
        twice("a foreign field twice", "x", foreign),
        with_data("too deep in arrays", "too_deep", "128", &nested("[", "]")),
        with_data("too deep in objects", "too_deep", "128", &nested("{\"x\":", "}")),
        with_data("too large", "too_large", "262144", &large),
    ]
}

/// Returns envelopes with an invalid `timestamp`.
fn timestamps() -> Vec<Kind> {
    const YEAR: &str = "bad_timestamp";
    let stamped = |name, reason, timestamp: &str| {
        let (from, to) = ("\"timestamp\":", format!("\"timestamp\":{timestamp},\"t\":"));
        swap(name, reason, "\"timestamp\"", from, &to)
    };
    vec![
        stamped("a time as text", BAD, "\"1703123456789\""),
        stamped("a time before 1970", BAD, "-1"),
        stamped("a time with a fraction", BAD, "1703123456789.5"),
        stamped("a time with an exponent", BAD, "1e12"),
        stamped("a time that no JavaScript reads", BAD, "9007199254740992"),
        stamped("a time in seconds", YEAR, "1703123456"),
        stamped("a time in microseconds", YEAR, "1703123456789000"),
        stamped("a time of no clock", YEAR, "0"),
        stamped("the last time of the year 2000", YEAR, "978307199999"),
        stamped("the first time of the year 2101", YEAR, "4133980800000"),
        stamped("a time that is null", BAD, "null"),
    ]
}

/// Returns valid events with an invalid `message_id`.
fn ids() -> Vec<Kind> {
    let kind = |name, id: &str| Kind {
        name,
        reason: "bad_message_id",
        word: "message_id",
        sent: Sent::event(event("org_1", "lead_1")).with_id(id),
    };
    vec![
        kind("an empty id", ""),
        kind("an id with a space", "not an id"),
        kind("an id with a slash", "evt/1"),
        kind("an id with a line feed", "evt_1\n"),
        kind("an id that is not ASCII", "évènement"),
        kind("an id that is too long", &"x".repeat(129)),
        kind("the longest id that AMQP has", &"x".repeat(255)),
    ]
}

/// Returns a valid delivery of an event to `endpoint`.
fn good_delivery(endpoint: &Endpoint) -> Sent {
    Sent::delivery(event("org_1", "lead_1"), endpoint)
}

/// Returns deliveries with a header that is missing or invalid.
fn headers(endpoint: &Endpoint) -> Vec<Kind> {
    use AMQPValue as V;
    let header = |name, header: &'static str, value: Option<V>| Kind {
        name,
        reason: "bad_header",
        word: header,
        sent: good_delivery(endpoint).with_header(header, value),
    };
    vec![
        header("no endpoint", "magnetite-endpoint", None),
        header("an empty endpoint", "magnetite-endpoint", Some(text(""))),
        header(
            "a number for an endpoint",
            "magnetite-endpoint",
            Some(V::LongLongInt(1)),
        ),
        header(
            "an endpoint that is not UTF-8",
            "magnetite-endpoint",
            Some(V::LongString(vec![0xff].into())),
        ),
        header("no run", "magnetite-run", None),
        header("a run with a fraction", "magnetite-run", Some(V::Double(1.0))),
        header("no attempt", "magnetite-attempt", None),
        header("attempt 0", "magnetite-attempt", Some(V::LongLongInt(0))),
        header("attempt -1", "magnetite-attempt", Some(V::LongLongInt(-1))),
        header(
            "an attempt that overflows",
            "magnetite-attempt",
            Some(V::LongLongInt(i64::MAX)),
        ),
        header(
            "an attempt of 2^32 + 1",
            "magnetite-attempt",
            Some(V::LongLongInt((1 << 32) + 1)),
        ),
        header("an attempt as text", "magnetite-attempt", Some(text("2"))),
        header(
            "an attempt that is true",
            "magnetite-attempt",
            Some(V::Boolean(true)),
        ),
        header("no deferrals", "magnetite-deferrals", None),
        header(
            "deferrals in a table",
            "magnetite-deferrals",
            Some(V::FieldTable(FieldTable::default())),
        ),
        header("no trigger", "magnetite-trigger", None),
        header("a trigger that is none", "magnetite-trigger", Some(text("whim"))),
        header("a trigger that is nothing", "magnetite-trigger", Some(V::Void)),
    ]
}

/// Returns deliveries with valid headers, or without any, that no worker would publish.
fn deliveries(endpoint: &Endpoint) -> Vec<Kind> {
    let kind = |name, reason, word, sent| Kind {
        name,
        reason,
        word,
        sent,
    };
    let bare = Sent {
        headers: FieldTable::default(),
        ..good_delivery(endpoint)
    };
    let no_event = Sent {
        body: b"{}".to_vec(),
        ..good_delivery(endpoint)
    };
    vec![
        kind("no header at all", "bad_header", "magnetite-", bare),
        kind("a delivery of no event", "missing_field", "\"event\"", no_event),
        kind(
            "a delivery with a bad id",
            "bad_message_id",
            "message_id",
            good_delivery(endpoint).with_id("not an id"),
        ),
        kind(
            "a delivery to an endpoint that never was",
            "unknown_endpoint",
            "database",
            good_delivery(endpoint).with_header("magnetite-endpoint", Some(text("ep_never"))),
        ),
        kind(
            "a delivery to another organization's endpoint",
            "other_organization",
            "org_2",
            Sent::delivery(event("org_2", "lead_1"), endpoint),
        ),
        kind(
            "a ping of another organization's endpoint",
            "other_organization",
            "org_2",
            Sent::delivery(
                event("org_2", "lead_1").replace("lead.completed", "webhook.ping"),
                endpoint,
            )
            .with_header("magnetite-trigger", Some(text("ping"))),
        ),
    ]
}
