//! The reasons why a message is not a valid event.

use super::{DEPTH_MAX, EVENT_BYTES_MAX, TIMESTAMPS_MS};
use crate::{ID_BYTES_MAX, MESSAGE_ID_CHARS_MAX, UnknownEventType};

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
        /// What the parser expected, and where.
        detail: String,
    },
    /// The body is valid JSON, but not an object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// Fields are missing, invalid, or there more than once. Contains every such field, at least one.
    #[error("{}", .0.iter().map(FieldRejection::to_string).collect::<Vec<_>>().join("; "))]
    Fields(Vec<FieldRejection>),
    /// The AMQP `message_id` is not a valid event id.
    #[error("the message_id is not 1 to {MESSAGE_ID_CHARS_MAX} characters of A-Z a-z 0-9 _ -")]
    BadMessageId,
}

/// The reason why a field is invalid. The error message names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldRejection {
    /// The top-level key occurs more than once. JSON parsers disagree on which occurrence counts.
    #[error("field {field:?} occurs more than once")]
    Duplicate {
        /// The beginning of the key.
        field: String,
    },
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
    /// `timestamp` is ahead of the clock by more than [`TIMESTAMP_AHEAD_MAX`](crate::TIMESTAMP_AHEAD_MAX).
    #[error(
        "field \"timestamp\" is {timestamp_ms}, more than a day ahead of the current time ({now_ms}); expected the time of the event in Unix milliseconds"
    )]
    Ahead {
        /// The value of the field, in Unix milliseconds.
        timestamp_ms: u64,
        /// The time according to the clock of this host, in Unix milliseconds.
        now_ms: u64,
    },
}

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
            Self::Fields(fields) => fields.first().map_or("bad_field", FieldRejection::reason),
            Self::BadMessageId => "bad_message_id",
        }
    }
}

impl FieldRejection {
    /// Returns the name of the field.
    pub fn field(&self) -> &str {
        match self {
            Self::Duplicate { field } => field,
            Self::Missing { field, .. } | Self::Bad { field, .. } | Self::LongId { field, .. } => field,
            Self::UnknownEvent(_) => "event",
            Self::Timestamp(_) | Self::Ahead { .. } => "timestamp",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Duplicate { .. } => "duplicate_key",
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
