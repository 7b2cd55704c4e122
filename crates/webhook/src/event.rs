//! The envelope: what is checked of an event, and nothing more.

use std::{borrow::Cow, collections::HashSet, fmt, ops::RangeInclusive, time::Duration};

use bytes::Bytes;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{
    EventId, EventKind, ID_BYTES_MAX, LeadId, MESSAGE_ID_CHARS_MAX, OrganizationId, ProjectId,
    UnknownEventType,
};

/// The largest body of an event, in bytes.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;
/// How deep objects and arrays may nest; the event itself is level 1.
pub const DEPTH_MAX: usize = 128;
/// The `timestamp` of an event that is published is of the years 2001 to 2100. Seconds and microseconds are
/// not.
pub const TIMESTAMPS_MS: RangeInclusive<u64> = 978_307_200_000..=4_133_980_799_999;
/// How far ahead of the clock of the host where it enters a `timestamp` may be.
pub const TIMESTAMP_AHEAD_MAX: Duration = Duration::from_hours(24);
/// 2^53 - 1, the largest integer that every JSON parser reads exactly.
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// A valid event, as published; or a ping, made like one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unique within the organization.
    pub id: EventId,
    /// What happened.
    pub event_type: EventKind,
    /// When it happened, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// Whose event it is.
    pub organization_id: OrganizationId,
    /// In which project.
    pub project_id: ProjectId,
    /// About which lead.
    pub lead_id: LeadId,
    /// The JSON as it was published. This is what is signed and sent.
    pub body: Bytes,
    /// The publisher's W3C trace context, passed on unread.
    pub traceparent: Option<String>,
}

/// The checked fields of an event, borrowed from its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Field `event`.
    pub event_type: EventKind,
    /// Field `timestamp`, one of [`TIMESTAMPS_MS`]; of what is inside already, any integer below 2^53 that is
    /// not negative.
    pub timestamp_ms: u64,
    /// Field `organization_id`: 1 to [`ID_BYTES_MAX`] bytes; of what is inside already, any number.
    pub organization_id: Cow<'a, str>,
    /// Field `project_id`, likewise.
    pub project_id: Cow<'a, str>,
    /// Field `lead_id`, likewise.
    pub lead_id: Cow<'a, str>,
}

/// Why a message is not an event. Its [`reason`](Rejection::reason) is a stable word; its text says which
/// field and what was expected, without quoting the body at length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Over [`EVENT_BYTES_MAX`].
    #[error("the body has {bytes} bytes; at most {EVENT_BYTES_MAX} are accepted")]
    TooLarge {
        /// The body's size.
        bytes: usize,
    },
    /// Not UTF-8.
    #[error("the body is not UTF-8: invalid byte at offset {offset}")]
    InvalidUtf8 {
        /// Of the first invalid byte.
        offset: usize,
    },
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("the body nests deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// Not JSON.
    #[error("the body is not JSON: {detail}")]
    NotJson {
        /// The parser's words, with line and column.
        detail: String,
    },
    /// JSON, but not an object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// A top-level key stands twice: parsers disagree on which one counts.
    #[error("the top-level key {key:?} stands more than once")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// Fields are missing or not valid: all that are, at least one.
    #[error("{}", .0.iter().map(FieldRejection::to_string).collect::<Vec<_>>().join("; "))]
    Fields(Vec<FieldRejection>),
    /// The AMQP `message_id` cannot be an event id.
    #[error("the message_id is not 1 to {MESSAGE_ID_CHARS_MAX} characters of A-Z a-z 0-9 _ -")]
    BadMessageId,
}

/// What is wrong with one field. Its text names it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldRejection {
    /// It is required, and not there.
    #[error("field {field:?} is missing; expected {expected}")]
    Missing {
        /// The field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// It is of the wrong type, or empty.
    #[error("field {field:?} is not {expected}")]
    Bad {
        /// The field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// An id is longer than [`ID_BYTES_MAX`].
    #[error("field {field:?} has {bytes} bytes; an id has at most {ID_BYTES_MAX}")]
    LongId {
        /// The field.
        field: &'static str,
        /// The id's size, as UTF-8.
        bytes: usize,
    },
    /// `event` is not a known type.
    #[error("field \"event\": {0}")]
    UnknownEvent(#[from] UnknownEventType),
    /// `timestamp` is not one of [`TIMESTAMPS_MS`].
    #[error("field \"timestamp\" is {0}; expected Unix milliseconds of the years 2001 to 2100{unit}", unit = unit(*.0))]
    Timestamp(u64),
    /// `timestamp` is further ahead than [`TIMESTAMP_AHEAD_MAX`].
    #[error(
        "field \"timestamp\" is {timestamp_ms}, more than a day after now ({now_ms}); expected when it happened, in Unix milliseconds"
    )]
    Ahead {
        /// The field's value.
        timestamp_ms: u64,
        /// The time by the clock of this host.
        now_ms: u64,
    },
}

const TEXT: &str = "a non-empty string";
const TIMESTAMP: &str = "an integer, in Unix milliseconds";
const OBJECT: &str = "an object";

impl Rejection {
    /// Every word that [`reason`](Self::reason) returns.
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

    /// The stable word for headers and metrics; of several fields, the first one's.
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
    /// The field.
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

/// Names the unit in which the value would be between 2001 and 2100.
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
    /// Checks a message's body and `message_id`. Without a `message_id` the id is derived from the body.
    ///
    /// # Errors
    /// A [`Rejection`] for the first rule that is broken.
    pub fn from_message(
        message_id: Option<&str>,
        traceparent: Option<String>,
        body: Bytes,
    ) -> Result<Self, Rejection> {
        Self::checked(&PUBLISHED, message_id, traceparent, body)
    }

    /// The same, where an event enters: its `timestamp` may be at most [`TIMESTAMP_AHEAD_MAX`] after this
    /// time.
    ///
    /// # Errors
    /// As above.
    pub fn entering(
        message_id: Option<&str>,
        traceparent: Option<String>,
        body: Bytes,
        now_ms: u64,
    ) -> Result<Self, Rejection> {
        Self::checked(&Rules::entering(now_ms), message_id, traceparent, body)
    }

    /// Checks what a delivery carries, or what is recorded of one: in the same way, but that a ping is valid,
    /// too, and ids may be of any length. What was let in is not rejected later, also when an older
    /// version let it in.
    ///
    /// # Errors
    /// A [`Rejection`] for the first rule that is broken.
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

    /// Whether it is a ping.
    pub fn is_ping(&self) -> bool {
        self.event_type == EventKind::Ping
    }
}

impl<'a> Envelope<'a> {
    /// Checks a body: at most [`EVENT_BYTES_MAX`] of UTF-8, nested at most [`DEPTH_MAX`] deep, a JSON object
    /// without duplicate top-level keys, `event` a known type, `timestamp` one of [`TIMESTAMPS_MS`],
    /// three ids of 1 to [`ID_BYTES_MAX`] bytes, `data` an object. Nothing is checked inside `data` or in
    /// unknown fields but that it is JSON.
    ///
    /// # Errors
    /// A [`Rejection`] for the first of these rules that is broken, and then for all fields that are not
    /// valid.
    pub fn parse(body: &'a [u8]) -> Result<Self, Rejection> {
        Self::read(body, &PUBLISHED)
    }

    /// The same, where an event enters: its `timestamp` may be at most [`TIMESTAMP_AHEAD_MAX`] after this
    /// time.
    ///
    /// # Errors
    /// As above.
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

/// In what an event that is published and one that is carried inside differ.
struct Rules {
    kind: fn(&str) -> Result<EventKind, UnknownEventType>,
    id_bytes_max: usize,
    timestamps_ms: RangeInclusive<u64>,
    /// The time where it enters, if its timestamp is compared with that.
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
        // What is unknown may be long.
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

/// The JSON parser skips values without recursion and so without a limit of its own; receivers' parsers have
/// one.
fn nests_deeper_than(json: &[u8], depth_max: usize) -> bool {
    // Most events have too few brackets to nest that deep, and counting is much faster than following them.
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

/// A JSON string, borrowed where it has no escapes.
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

/// The top-level fields, unread.
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
