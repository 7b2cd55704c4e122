//! Validation of events: parses and checks the envelope, and nothing else.

use std::{borrow::Cow, collections::HashSet, fmt, ops::RangeInclusive, time::Duration};

use bytes::Bytes;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{
    EventId, EventKind, ID_BYTES_MAX, LeadId, MESSAGE_ID_CHARS_MAX, OrganizationId, ProjectId,
    UnknownEventType,
};

/// The maximum size of an event's body, in bytes.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;
/// The maximum nesting depth of objects and arrays; the event itself is level 1.
pub const DEPTH_MAX: usize = 128;
/// The range of valid `timestamp`s of a published event, in Unix milliseconds: the years 2001 to 2100.
///
/// Present-day times in seconds or microseconds fall outside this range.
pub const TIMESTAMPS_MS: RangeInclusive<u64> = 978_307_200_000..=4_133_980_799_999;
/// How far a `timestamp` may be ahead of the clock of the host that accepts the event.
pub const TIMESTAMP_AHEAD_MAX: Duration = Duration::from_hours(24);
/// 2^53 - 1, the largest integer that every JSON parser reads exactly.
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// A valid event as it was published, or a ping, which has the same form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The event's id, unique within the organization.
    pub id: EventId,
    /// The type of the event.
    pub event_type: EventKind,
    /// When the event happened, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// The organization that the event belongs to.
    pub organization_id: OrganizationId,
    /// The project that the event belongs to.
    pub project_id: ProjectId,
    /// The lead that the event is about.
    pub lead_id: LeadId,
    /// The JSON as it was published. These bytes are signed and sent.
    pub body: Bytes,
    /// The publisher's W3C trace context, passed on without being parsed; `None` if the publisher sent none.
    pub traceparent: Option<String>,
}

/// The validated fields of an event, borrowed from its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The field `event`.
    pub event_type: EventKind,
    /// The field `timestamp`, within [`TIMESTAMPS_MS`]. In an event that was accepted earlier (see
    /// [`Event::from_delivery`]), it is any integer from 0 to 2^53 - 1.
    pub timestamp_ms: u64,
    /// The field `organization_id`, 1 to [`ID_BYTES_MAX`] bytes; of any length in an event that was accepted
    /// earlier.
    pub organization_id: Cow<'a, str>,
    /// The field `project_id`, with the same limits.
    pub project_id: Cow<'a, str>,
    /// The field `lead_id`, with the same limits.
    pub lead_id: Cow<'a, str>,
}

/// The reason why a message is not a valid event.
///
/// [`reason`](Rejection::reason) returns it as a stable identifier. The error message names the field and the
/// expected value, and quotes at most a short part of the body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The body is larger than [`EVENT_BYTES_MAX`].
    #[error("the body has {bytes} bytes; at most {EVENT_BYTES_MAX} are accepted")]
    TooLarge {
        /// The size of the body.
        bytes: usize,
    },
    /// The body is not valid UTF-8.
    #[error("the body is not UTF-8: invalid byte at offset {offset}")]
    InvalidUtf8 {
        /// The offset of the first invalid byte.
        offset: usize,
    },
    /// The body nests deeper than [`DEPTH_MAX`].
    #[error("the body nests deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// The body is not valid JSON.
    #[error("the body is not JSON: {detail}")]
    NotJson {
        /// The parser's error message, with line and column.
        detail: String,
    },
    /// The body is valid JSON, but not an object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// A top-level key occurs more than once. JSON parsers disagree on which occurrence counts.
    #[error("the top-level key {key:?} stands more than once")]
    DuplicateKey {
        /// The duplicate key.
        key: String,
    },
    /// Fields are missing or invalid. Contains every such field, at least one.
    #[error("{}", .0.iter().map(FieldRejection::to_string).collect::<Vec<_>>().join("; "))]
    Fields(Vec<FieldRejection>),
    /// The AMQP `message_id` is not a valid event id.
    #[error("the message_id is not 1 to {MESSAGE_ID_CHARS_MAX} characters of A-Z a-z 0-9 _ -")]
    BadMessageId,
}

/// The reason why a field is invalid. The error message names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldRejection {
    /// The field is required, but missing.
    #[error("field {field:?} is missing; expected {expected}")]
    Missing {
        /// The name of the field.
        field: &'static str,
        /// The expected value.
        expected: &'static str,
    },
    /// The field has the wrong type or is an empty string, or the `timestamp` is not an integer from 0 to
    /// 2^53 - 1.
    #[error("field {field:?} is not {expected}")]
    Bad {
        /// The name of the field.
        field: &'static str,
        /// The expected value.
        expected: &'static str,
    },
    /// The id is longer than [`ID_BYTES_MAX`].
    #[error("field {field:?} has {bytes} bytes; an id has at most {ID_BYTES_MAX}")]
    LongId {
        /// The name of the field.
        field: &'static str,
        /// The length of the id in UTF-8, in bytes.
        bytes: usize,
    },
    /// `event` is not a known type.
    #[error("field \"event\": {0}")]
    UnknownEvent(#[from] UnknownEventType),
    /// `timestamp` is not within [`TIMESTAMPS_MS`].
    #[error("field \"timestamp\" is {0}; expected Unix milliseconds of the years 2001 to 2100{unit}", unit = unit(*.0))]
    Timestamp(u64),
    /// `timestamp` is ahead of the clock by more than [`TIMESTAMP_AHEAD_MAX`].
    #[error(
        "field \"timestamp\" is {timestamp_ms}, more than a day after now ({now_ms}); expected when it happened, in Unix milliseconds"
    )]
    Ahead {
        /// The value of the field, in Unix milliseconds.
        timestamp_ms: u64,
        /// The time according to the clock of this host, in Unix milliseconds.
        now_ms: u64,
    },
}

const TEXT: &str = "a non-empty string";
const TIMESTAMP: &str = "an integer, in Unix milliseconds";
const OBJECT: &str = "an object";

impl Rejection {
    /// All identifiers that [`reason`](Self::reason) can return.
    pub const REASONS: [&'static str; 12] = [
        "too_large",
        "invalid_utf8",
        "too_deep",
        "not_json",
        "not_an_object",
        "duplicate_key",
        "missing_field",
        "bad_field",
        "long_id",
        "unknown_event_type",
        "bad_timestamp",
        "bad_message_id",
    ];

    /// Returns the reason as a stable identifier, for headers and metrics. If several fields are invalid, it
    /// is the reason of the first one.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::InvalidUtf8 { .. } => "invalid_utf8",
            Self::TooDeep => "too_deep",
            Self::NotJson { .. } => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::DuplicateKey { .. } => "duplicate_key",
            Self::Fields(fields) => fields.first().map_or("bad_field", FieldRejection::reason),
            Self::BadMessageId => "bad_message_id",
        }
    }
}

impl FieldRejection {
    /// Returns the name of the field.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Missing { field, .. } | Self::Bad { field, .. } | Self::LongId { field, .. } => field,
            Self::UnknownEvent(_) => "event",
            Self::Timestamp(_) | Self::Ahead { .. } => "timestamp",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing_field",
            Self::Bad { .. } => "bad_field",
            Self::LongId { .. } => "long_id",
            Self::UnknownEvent(_) => "unknown_event_type",
            Self::Timestamp(_) | Self::Ahead { .. } => "bad_timestamp",
        }
    }
}

/// Returns a hint that names the unit in which the value would be between 2001 and 2100; empty if there is
/// none.
fn unit(timestamp: u64) -> &'static str {
    let is_in = |milliseconds: Option<u64>| milliseconds.is_some_and(|time| TIMESTAMPS_MS.contains(&time));
    if is_in(timestamp.checked_mul(1000)) {
        " (these look like seconds: multiply them by 1000)"
    } else if is_in(Some(timestamp / 1000)) {
        " (these look like microseconds: divide them by 1000)"
    } else {
        ""
    }
}

impl Event {
    /// Parses and validates the body and `message_id` of a published message. Without a `message_id`, the id
    /// is derived from the body.
    ///
    /// # Errors
    /// Returns a [`Rejection`] for the first rule that the message violates. Invalid fields are reported
    /// together.
    pub fn from_message(
        message_id: Option<&str>,
        traceparent: Option<String>,
        body: Bytes,
    ) -> Result<Self, Rejection> {
        Self::checked(&PUBLISHED, message_id, traceparent, body)
    }

    /// Validates an event that enters the system: like [`from_message`](Self::from_message), and in addition
    /// rejects a `timestamp` that is more than [`TIMESTAMP_AHEAD_MAX`] after `now_ms`.
    ///
    /// # Errors
    /// Returns the same errors as [`from_message`](Self::from_message), and [`FieldRejection::Ahead`] among
    /// the fields.
    pub fn entering(
        message_id: Option<&str>,
        traceparent: Option<String>,
        body: Bytes,
        now_ms: u64,
    ) -> Result<Self, Rejection> {
        Self::checked(&Rules::entering(now_ms), message_id, traceparent, body)
    }

    /// Parses and validates an event that was accepted earlier: the content of a delivery, or of a record in
    /// the journal.
    ///
    /// The rules are those of [`from_message`](Self::from_message), except that a ping is valid, ids may have
    /// any length, and the `timestamp` may be any integer from 0 to 2^53 - 1. An event that was accepted once
    /// is thus not rejected later, even if an older version accepted it.
    ///
    /// # Errors
    /// Returns a [`Rejection`] for the first rule that the event violates. Invalid fields are reported
    /// together.
    pub fn from_delivery(
        message_id: Option<&str>,
        traceparent: Option<String>,
        body: Bytes,
    ) -> Result<Self, Rejection> {
        Self::checked(&CARRIED, message_id, traceparent, body)
    }

    fn checked(
        rules: &Rules,
        message_id: Option<&str>,
        traceparent: Option<String>,
        body: Bytes,
    ) -> Result<Self, Rejection> {
        let envelope = Envelope::read(&body, rules)?;
        let id = match message_id {
            Some(message_id) => EventId::from_message_id(message_id).ok_or(Rejection::BadMessageId)?,
            None => EventId::from_body(&body),
        };
        Ok(Self {
            id,
            event_type: envelope.event_type,
            timestamp_ms: envelope.timestamp_ms,
            organization_id: OrganizationId::new(envelope.organization_id),
            project_id: ProjectId::new(envelope.project_id),
            lead_id: LeadId::new(envelope.lead_id),
            body,
            traceparent,
        })
    }

    /// Returns whether the event is a ping.
    pub fn is_ping(&self) -> bool {
        self.event_type == EventKind::Ping
    }
}

impl<'a> Envelope<'a> {
    /// Parses and validates the body of a published event.
    ///
    /// The body must be at most [`EVENT_BYTES_MAX`] of UTF-8, nested at most [`DEPTH_MAX`] levels deep, and a
    /// JSON object without duplicate top-level keys. In it, `event` must be a known type, `timestamp` must be
    /// within [`TIMESTAMPS_MS`], the three ids must have 1 to [`ID_BYTES_MAX`] bytes, and `data` must be an
    /// object. The content of `data` and of unknown fields only has to be valid JSON.
    ///
    /// # Errors
    /// Returns a [`Rejection`] for the first of these rules that the body violates. Invalid fields are
    /// reported together.
    pub fn parse(body: &'a [u8]) -> Result<Self, Rejection> {
        Self::read(body, &PUBLISHED)
    }

    /// Validates an event that enters the system: like [`parse`](Self::parse), and in addition rejects a
    /// `timestamp` that is more than [`TIMESTAMP_AHEAD_MAX`] after `now_ms`.
    ///
    /// # Errors
    /// Returns the same errors as [`parse`](Self::parse), and [`FieldRejection::Ahead`] among the fields.
    pub fn entering(body: &'a [u8], now_ms: u64) -> Result<Self, Rejection> {
        Self::read(body, &Rules::entering(now_ms))
    }

    fn read(body: &'a [u8], rules: &Rules) -> Result<Self, Rejection> {
        if body.len() > EVENT_BYTES_MAX {
            return Err(Rejection::TooLarge { bytes: body.len() });
        }
        let text = std::str::from_utf8(body).map_err(|error| Rejection::InvalidUtf8 {
            offset: error.valid_up_to(),
        })?;
        if nests_deeper_than(body, DEPTH_MAX) {
            return Err(Rejection::TooDeep);
        }
        let not_json = |error: serde_json::Error| Rejection::NotJson {
            detail: error.to_string(),
        };
        if !text.trim_ascii_start().starts_with('{') {
            serde_json::from_str::<IgnoredAny>(text).map_err(not_json)?;
            return Err(Rejection::NotAnObject);
        }
        let fields: Fields<'a> = serde_json::from_str(text).map_err(not_json)?;
        if let Some(key) = fields.duplicate {
            return Err(Rejection::DuplicateKey {
                key: key.chars().take(64).collect(),
            });
        }
        let mut wrong = Vec::new();
        let mut note = |error| wrong.push(error);
        let event_type = rules.event_type(fields.event).map_err(&mut note);
        let timestamp_ms = rules.timestamp(fields.timestamp).map_err(&mut note);
        let organization_id = rules
            .id("organization_id", fields.organization_id)
            .map_err(&mut note);
        let project_id = rules.id("project_id", fields.project_id).map_err(&mut note);
        let lead_id = rules.id("lead_id", fields.lead_id).map_err(&mut note);
        let data = object("data", fields.data).map_err(&mut note);
        match (
            event_type,
            timestamp_ms,
            organization_id,
            project_id,
            lead_id,
            data,
        ) {
            (Ok(event_type), Ok(timestamp_ms), Ok(organization_id), Ok(project_id), Ok(lead_id), Ok(())) => {
                Ok(Self {
                    event_type,
                    timestamp_ms,
                    organization_id,
                    project_id,
                    lead_id,
                })
            }
            _ => Err(Rejection::Fields(wrong)),
        }
    }
}

/// The rules that differ between a published event and one that was accepted earlier.
struct Rules {
    kind: fn(&str) -> Result<EventKind, UnknownEventType>,
    id_bytes_max: usize,
    timestamps_ms: RangeInclusive<u64>,
    /// The current time where the event enters, in Unix milliseconds; `None` if the timestamp is not compared
    /// with it.
    now_ms: Option<u64>,
}

const PUBLISHED: Rules = Rules {
    kind: |name| name.parse().map(EventKind::Of),
    id_bytes_max: ID_BYTES_MAX,
    timestamps_ms: TIMESTAMPS_MS,
    now_ms: None,
};

const CARRIED: Rules = Rules {
    kind: str::parse,
    id_bytes_max: usize::MAX,
    timestamps_ms: 0..=INTEGER_MAX,
    now_ms: None,
};

impl Rules {
    fn entering(now_ms: u64) -> Self {
        Self {
            now_ms: Some(now_ms),
            ..PUBLISHED
        }
    }

    fn event_type(&self, value: Option<&RawValue>) -> Result<EventKind, FieldRejection> {
        let name = string("event", value)?;
        let kind = (self.kind)(&name);
        // An unknown name may be long.
        kind.map_err(|_| UnknownEventType(name.chars().take(64).collect()).into())
    }

    fn timestamp(&self, value: Option<&RawValue>) -> Result<u64, FieldRejection> {
        let json = required("timestamp", TIMESTAMP, value)?.get();
        let integer = json.parse().ok().filter(|integer| *integer <= INTEGER_MAX);
        let timestamp_ms = integer.ok_or_else(|| bad("timestamp", TIMESTAMP))?;
        if !self.timestamps_ms.contains(&timestamp_ms) {
            return Err(FieldRejection::Timestamp(timestamp_ms));
        }
        match self.now_ms {
            Some(now_ms) if is_ahead(timestamp_ms, now_ms) => {
                Err(FieldRejection::Ahead { timestamp_ms, now_ms })
            }
            _ => Ok(timestamp_ms),
        }
    }

    fn id<'a>(
        &self,
        field: &'static str,
        value: Option<&'a RawValue>,
    ) -> Result<Cow<'a, str>, FieldRejection> {
        let id = string(field, value)?;
        if id.len() > self.id_bytes_max {
            return Err(FieldRejection::LongId {
                field,
                bytes: id.len(),
            });
        }
        Ok(id)
    }
}

fn is_ahead(timestamp_ms: u64, now_ms: u64) -> bool {
    Duration::from_millis(timestamp_ms.saturating_sub(now_ms)) > TIMESTAMP_AHEAD_MAX
}

fn bad(field: &'static str, expected: &'static str) -> FieldRejection {
    FieldRejection::Bad { field, expected }
}

fn required<'a>(
    field: &'static str,
    expected: &'static str,
    value: Option<&'a RawValue>,
) -> Result<&'a RawValue, FieldRejection> {
    value.ok_or(FieldRejection::Missing { field, expected })
}

fn string<'a>(field: &'static str, value: Option<&'a RawValue>) -> Result<Cow<'a, str>, FieldRejection> {
    let json = required(field, TEXT, value)?.get();
    let text = serde_json::from_str::<Text<'a>>(json)
        .map_err(|_| bad(field, TEXT))?
        .0;
    if text.is_empty() {
        Err(bad(field, TEXT))
    } else {
        Ok(text)
    }
}

fn object(field: &'static str, value: Option<&RawValue>) -> Result<(), FieldRejection> {
    if required(field, OBJECT, value)?.get().starts_with('{') {
        Ok(())
    } else {
        Err(bad(field, OBJECT))
    }
}

/// Returns whether objects and arrays nest deeper than `depth_max`.
///
/// The JSON parser skips values without recursion, and therefore has no depth limit. Receivers' parsers have
/// one.
fn nests_deeper_than(json: &[u8], depth_max: usize) -> bool {
    // Most events have too few brackets to nest that deep, and counting is much faster than tracking the
    // depth.
    let opens = json.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if opens <= depth_max {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > depth_max {
            return true;
        }
    }
    false
}

/// A JSON string, borrowed from the input if it has no escapes.
#[derive(PartialEq, Eq, Hash)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// The top-level fields as raw JSON.
#[derive(Default)]
struct Fields<'a> {
    event: Option<&'a RawValue>,
    timestamp: Option<&'a RawValue>,
    organization_id: Option<&'a RawValue>,
    project_id: Option<&'a RawValue>,
    lead_id: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    duplicate: Option<String>,
}

impl<'a> Fields<'a> {
    fn known(&mut self, key: &str) -> Option<&mut Option<&'a RawValue>> {
        Some(match key {
            "event" => &mut self.event,
            "timestamp" => &mut self.timestamp,
            "organization_id" => &mut self.organization_id,
            "project_id" => &mut self.project_id,
            "lead_id" => &mut self.lead_id,
            "data" => &mut self.data,
            _ => return None,
        })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::default();
                let mut unknown = HashSet::new();
                while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
                    let value = map.next_value::<&'de RawValue>()?;
                    let fresh = match fields.known(&key) {
                        Some(slot) => slot.replace(value).is_none(),
                        None => unknown.insert(key.clone()),
                    };
                    if !fresh && fields.duplicate.is_none() {
                        fields.duplicate = Some(key.into_owned());
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[cfg(test)]
mod tests;
