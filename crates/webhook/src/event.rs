//! Validation of events: parses and checks the envelope, and nothing else.

mod fields;
mod rejection;

use std::{borrow::Cow, ops::RangeInclusive, time::Duration};

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::{EventId, EventKind, ID_BYTES_MAX, LeadId, OrganizationId, ProjectId, UnknownEventType};
use fields::{Fields, Text};
pub use rejection::{FieldRejection, Rejection};

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

const TEXT: &str = "a non-empty string";
const TIMESTAMP: &str = "an integer in Unix milliseconds";
const OBJECT: &str = "an object";

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
            detail: placed(&error, text),
        };
        if !text.trim_ascii_start().starts_with('{') {
            serde_json::from_str::<IgnoredAny>(text).map_err(not_json)?;
            return Err(Rejection::NotAnObject);
        }
        let fields: Fields<'a> = serde_json::from_str(text).map_err(not_json)?;
        let duplicates = fields.duplicates.into_iter();
        let mut wrong: Vec<_> = duplicates
            .map(|field| FieldRejection::Duplicate { field })
            .collect();
        let is_unique = wrong.is_empty();
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
            (Ok(event_type), Ok(timestamp_ms), Ok(organization_id), Ok(project_id), Ok(lead_id), Ok(()))
                if is_unique =>
            {
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

/// Returns the parser's message about a text that is not JSON. If the text has only one line, the message has no
/// line number: a reader would take it for one in the file that the text is a line of.
fn placed(error: &serde_json::Error, text: &str) -> String {
    let told = error.to_string();
    let what = told.rsplit_once(" at line ").map_or(&*told, |(what, _)| what);
    if !error.is_eof() && !text.trim_ascii_start().starts_with('{') {
        "it does not begin with '{'".to_owned()
    } else if text.trim_ascii_end().contains('\n') {
        told
    } else {
        format!("{what} at column {}", error.column())
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

#[cfg(test)]
mod tests;
