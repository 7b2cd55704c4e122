//! The envelope: what is checked of an event, and nothing more.

use std::{borrow::Cow, collections::HashSet, fmt};

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
/// The largest `timestamp`: 2^53 - 1, the largest integer that every JSON parser reads exactly.
pub const TIMESTAMP_MS_MAX: u64 = (1 << 53) - 1;

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
    /// Field `timestamp`, 0 to [`TIMESTAMP_MS_MAX`].
    pub timestamp_ms: u64,
    /// Field `organization_id`: 1 to [`ID_BYTES_MAX`] bytes; of what is inside already, any number.
    pub organization_id: Cow<'a, str>,
    /// Field `project_id`, likewise.
    pub project_id: Cow<'a, str>,
    /// Field `lead_id`, likewise.
    pub lead_id: Cow<'a, str>,
}

/// Why a message is not an event. Its [`reason`](Rejection::reason) is a stable word; its text says which field and
/// what was expected, without quoting the body at length.
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
    /// A required field is not there.
    #[error("field {field:?} is missing; expected {expected}")]
    MissingField {
        /// The field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A field is of the wrong type or out of bounds.
    #[error("field {field:?} is not {expected}")]
    BadField {
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
    /// The AMQP `message_id` cannot be an event id.
    #[error("the message_id is not 1 to {MESSAGE_ID_CHARS_MAX} characters of A-Z a-z 0-9 _ -")]
    BadMessageId,
}

const TEXT: &str = "a non-empty string";
const TIMESTAMP: &str = "an integer of Unix milliseconds from 0 to 9007199254740991";
const OBJECT: &str = "an object";

impl Rejection {
    /// Every word that [`reason`](Self::reason) returns.
    pub const REASONS: [&'static str; 11] = [
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
        "bad_message_id",
    ];

    /// The stable word for headers and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::InvalidUtf8 { .. } => "invalid_utf8",
            Self::TooDeep => "too_deep",
            Self::NotJson { .. } => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::DuplicateKey { .. } => "duplicate_key",
            Self::MissingField { .. } => "missing_field",
            Self::BadField { .. } => "bad_field",
            Self::LongId { .. } => "long_id",
            Self::UnknownEvent(_) => "unknown_event_type",
            Self::BadMessageId => "bad_message_id",
        }
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

    /// Checks what a delivery carries, or what is recorded of one: in the same way, but that a ping is valid, too, and ids may be of
    /// any length. What was let in is not rejected later, also when an older version let it in.
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
    /// Checks a body: at most [`EVENT_BYTES_MAX`] of UTF-8, nested at most [`DEPTH_MAX`] deep, a JSON object without
    /// duplicate top-level keys, `event` a known type, `timestamp` an integer, three ids of 1 to [`ID_BYTES_MAX`] bytes, `data` an object.
    /// Nothing is checked inside `data` or in unknown fields but that it is JSON.
    ///
    /// # Errors
    /// A [`Rejection`] for the first rule that is broken.
    pub fn parse(body: &'a [u8]) -> Result<Self, Rejection> {
        Self::read(body, &PUBLISHED)
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
        let event_type = (rules.kind)(&string("event", fields.event)?);
        let data = required("data", OBJECT, fields.data)?;
        let envelope = Self {
            event_type: event_type
                .map_err(|UnknownEventType(name)| UnknownEventType(name.chars().take(64).collect()))?,
            timestamp_ms: timestamp(fields.timestamp)?,
            organization_id: rules.id("organization_id", fields.organization_id)?,
            project_id: rules.id("project_id", fields.project_id)?,
            lead_id: rules.id("lead_id", fields.lead_id)?,
        };
        if data.get().starts_with('{') {
            Ok(envelope)
        } else {
            Err(bad("data", OBJECT))
        }
    }
}

/// In what an event that is published and one that is carried inside differ.
struct Rules {
    kind: fn(&str) -> Result<EventKind, UnknownEventType>,
    id_bytes_max: usize,
}

const PUBLISHED: Rules = Rules {
    kind: |name| name.parse().map(EventKind::Of),
    id_bytes_max: ID_BYTES_MAX,
};

const CARRIED: Rules = Rules {
    kind: str::parse,
    id_bytes_max: usize::MAX,
};

impl Rules {
    fn id<'a>(&self, field: &'static str, value: Option<&'a RawValue>) -> Result<Cow<'a, str>, Rejection> {
        let id = string(field, value)?;
        if id.len() > self.id_bytes_max {
            return Err(Rejection::LongId {
                field,
                bytes: id.len(),
            });
        }
        Ok(id)
    }
}

fn bad(field: &'static str, expected: &'static str) -> Rejection {
    Rejection::BadField { field, expected }
}

fn required<'a>(
    field: &'static str,
    expected: &'static str,
    value: Option<&'a RawValue>,
) -> Result<&'a RawValue, Rejection> {
    value.ok_or(Rejection::MissingField { field, expected })
}

fn string<'a>(field: &'static str, value: Option<&'a RawValue>) -> Result<Cow<'a, str>, Rejection> {
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

fn timestamp(value: Option<&RawValue>) -> Result<u64, Rejection> {
    let json = required("timestamp", TIMESTAMP, value)?.get();
    json.parse()
        .ok()
        .filter(|timestamp_ms| *timestamp_ms <= TIMESTAMP_MS_MAX)
        .ok_or_else(|| bad("timestamp", TIMESTAMP))
}

/// The JSON parser skips values without recursion and so without a limit of its own; receivers' parsers have one.
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
