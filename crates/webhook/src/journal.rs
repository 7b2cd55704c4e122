//! The journal: the workers' records of every event, delivery and attempt.
//!
//! A worker collects [`Record`]s into a batch of at most [`BATCH_BYTES_MAX`] and publishes the batch as one
//! message, before it acknowledges the messages that the records describe. A reader merges the records into
//! [`Books`]. Batches arrive in any order, and may contain a record more than once, because a worker
//! processes and records a redelivered message again. Merging is therefore commutative, associative and
//! idempotent: two readers of the same records get the same books.
//!
//! # Encoding
//!
//! A batch consists of one byte with the version ([`VERSION`]), four bytes with the decompressed length of
//! the rest (little-endian), and one LZ4 block of concatenated `MessagePack` records. Structs are encoded as
//! maps with the names of their fields. A reader ignores unknown fields, and uses defaults for fields that an
//! older writer did not write. Any other change of the format gets a new version. Records of every released
//! version remain readable permanently.

mod considered;
mod seen;
mod numbers;
mod then_kind;
mod books;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    AttemptId, AttemptResult, CancelReason, DeadReason, DeferReason, Delivery, DeliveryId, EndpointId, Event,
    EventId, FailureKind, OrganizationId, Outcome, Phase, Trigger,
};

pub use books::{Books, DeliveryEntry, DeliveryState, EventEntry, Standing};
pub use considered::{BadConsidered, Considered, Verdict};
pub use numbers::{BatchStamp, Hole, Numbers, Span};
pub use seen::{BadSeen, Seen};
pub use then_kind::ThenKind;

/// The maximum size of a batch, in bytes, before and after compression.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// The maximum number of bytes of a response's body that are recorded.
pub const RESPONSE_BYTES_MAX: usize = 4096;
/// The maximum number of endpoints that one record of an event names. An event with more of them has several
/// records, which merge.
pub const CONSIDERED_MAX: usize = 5_000;
/// The size of the version and the length, in bytes.
const HEADER_BYTES: usize = 5;
/// The version that is written.
pub const VERSION: u8 = 1;

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A worker took an event from its queue.
    Event(EventRecord),
    /// A worker sent a request to an endpoint.
    Attempt(AttemptRecord),
    /// A delivery was deferred, dead-lettered or cancelled without an attempt.
    Step(StepRecord),
    /// Records were lost.
    Gap(Gap),
}

/// An event, and the endpoints that were considered for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// The event as it was published.
    #[serde(with = "wire")]
    pub event: Arc<Event>,
    /// When a worker took the event from its queue, in Unix milliseconds.
    pub received_ms: u64,
    /// The endpoints that got the event, and those that did not for a reason that only the worker knew; at
    /// most [`CONSIDERED_MAX`]. In records of older versions, every endpoint of the organization. Empty if
    /// the record was made from a dead letter.
    pub considered: Considered,
    /// The position of the registry that the worker used for the fan-out. It explains why the other endpoints
    /// did not get the event. `None` in records of older versions, of pings, and those made from a dead
    /// letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
}

/// The delivery that a record is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryRef {
    /// The organization that owns the event and the endpoint.
    pub organization_id: OrganizationId,
    /// The event that is delivered.
    pub event_id: EventId,
    /// The endpoint that the event is delivered to.
    pub endpoint_id: EndpointId,
    /// The number of the run: 0 for the run that the event itself caused. Each resend is a new run.
    pub run: u32,
    /// What caused the run.
    pub trigger: Trigger,
}

/// One request to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The unique id of the request. Two requests can have the same number: if a worker died and the attempt
    /// was repeated, or if the endpoint rejected the signature made with the first of two valid secrets.
    pub id: AttemptId,
    /// The delivery that the request belongs to.
    pub delivery: DeliveryRef,
    /// The number of the attempt within the run, 1-based.
    pub number: u32,
    /// When the request began, in Unix milliseconds.
    pub began_ms: u64,
    /// How long it took until the response was read or the request had failed, in milliseconds.
    pub duration_ms: u64,
    /// The HTTP status; `None` if there was no response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The phase in which the request failed; `None` if there was a response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The kind of failure; `None` if there was a response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureKind>,
    /// A description of the failure, as in the log; empty after a 2xx.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The first [`RESPONSE_BYTES_MAX`] bytes of the response's body.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub response: Bytes,
    /// What happens to the delivery next.
    pub then: Then,
}

/// A delivery that was deferred, dead-lettered or cancelled instead of being attempted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The delivery.
    pub delivery: DeliveryRef,
    /// When this happened, in Unix milliseconds.
    pub at_ms: u64,
    /// The number of attempts that the run had had by then.
    pub attempts: u32,
    /// The HTTP status of the last attempt; `None` if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_status: Option<u16>,
    /// A description of the last attempt's failure; empty if it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_error: String,
    /// What happens to the delivery next.
    pub then: Then,
}

/// What happens to a delivery after an attempt or a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// The endpoint accepted the delivery.
    Delivered,
    /// Another attempt is made.
    Retry {
        /// When the attempt is due, in Unix milliseconds.
        at_ms: u64,
    },
    /// The delivery is deferred without spending an attempt.
    Deferred {
        /// Why the delivery is deferred.
        reason: DeferReason,
        /// Until when the delivery is deferred, in Unix milliseconds.
        at_ms: u64,
    },
    /// The delivery is a dead letter.
    Dead {
        /// Why the delivery is dead.
        reason: DeadReason,
    },
    /// No more attempts are made: the endpoint was deleted, or a ping failed.
    Cancelled {
        /// Why the delivery is cancelled.
        reason: CancelReason,
    },
}

/// Records that a worker dropped because the journal's queue did not accept them: it was full, or the broker
/// had a memory or disk alarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The name of the worker that dropped the records.
    pub worker: String,
    /// When the first of the records was dropped, in Unix milliseconds.
    pub from_ms: u64,
    /// When the last of the records was dropped, in Unix milliseconds.
    pub until_ms: u64,
    /// The number of dropped records, as an upper bound: a batch that was not confirmed in time may have
    /// arrived nevertheless.
    pub count: u64,
    /// The numbers of the first and the last dropped batch. `None` from workers of older versions, which do
    /// not number batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batches: Option<(u64, u64)>,
}

/// The reason why bytes are not a valid batch.
#[derive(Debug, thiserror::Error)]
pub enum BadBatch {
    /// The batch was written by a newer version.
    #[error(
        "the batch has version {0}, but this program reads versions up to {VERSION}; upgrade this program"
    )]
    Version(u8),
    /// The batch is empty.
    #[error("the batch is empty")]
    Empty,
    /// The batch cannot be decompressed, or would be too large.
    #[error("the batch cannot be decompressed: {detail}")]
    Compression {
        /// The decoder's error message.
        detail: String,
    },
    /// A record cannot be decoded.
    #[error("the record at byte {at} of the batch cannot be decoded")]
    Record {
        /// The offset of the record in the decompressed bytes.
        at: u64,
        /// The decoder's error.
        #[source]
        source: rmp_serde::decode::Error,
    },
}

/// A batch that is being written. Its memory is reused for the next batch.
#[derive(Clone)]
pub struct Batch {
    bytes: Vec<u8>,
    records: u64,
    /// The buffer for the compressed batch.
    compressed: Vec<u8>,
}

impl Batch {
    /// Creates a batch without records.
    #[allow(
        clippy::new_without_default,
        reason = "an empty batch is only created explicitly, never as a default value"
    )]
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            records: 0,
            compressed: Vec::new(),
        }
    }

    /// Appends a record.
    ///
    /// The caller must make sure by means of [`Batch::bytes`] that the record still fits. The largest record,
    /// an event of the maximum size with [`CONSIDERED_MAX`] endpoints, is smaller than [`BATCH_BYTES_MAX`].
    pub fn push(&mut self, record: &Record) {
        let mut serializer = rmp_serde::Serializer::new(&mut self.bytes).with_struct_map();
        record
            .serialize(&mut serializer)
            .expect("records have string keys and known lengths, and writing to a vector cannot fail");
        self.records += 1;
    }

    /// Returns the uncompressed size of the batch, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the number of records in the batch.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Returns the batch as the body of a message, and removes all records from the batch.
    pub fn take(&mut self) -> Bytes {
        let body = compress(&self.bytes, &mut self.compressed);
        let body = Bytes::copy_from_slice(body);
        self.bytes.clear();
        self.records = 0;
        body
    }

    /// Decodes the body of a message.
    ///
    /// # Errors
    /// Returns an error if the body is not a batch of a known version, or if any of its records cannot be
    /// decoded.
    pub fn decode(body: &[u8]) -> Result<Vec<Record>, BadBatch> {
        let compressed = match body.split_first() {
            None => return Err(BadBatch::Empty),
            Some((&VERSION, compressed)) => compressed,
            Some((&version, _)) => return Err(BadBatch::Version(version)),
        };
        let bytes = decompress(compressed)?;
        let mut reader = std::io::Cursor::new(&bytes[..]);
        let mut records = Vec::new();
        while reader.position() < bytes.len() as u64 {
            let at = reader.position();
            let record =
                rmp_serde::from_read(&mut reader).map_err(|source| BadBatch::Record { at, source })?;
            records.push(record);
        }
        Ok(records)
    }
}

/// Compresses records into `room`, preceded by the header, and returns the used part of `room`.
fn compress<'a>(records: &[u8], room: &'a mut Vec<u8>) -> &'a [u8] {
    let most = HEADER_BYTES + lz4_flex::block::get_maximum_output_size(records.len());
    if room.len() < most {
        room.resize(most, 0);
    }
    room[0] = VERSION;
    room[1..HEADER_BYTES].copy_from_slice(&(records.len() as u32).to_le_bytes());
    let compressed = lz4_flex::block::compress_into(records, &mut room[HEADER_BYTES..])
        .expect("the buffer has the maximum size of the compressed output");
    &room[..HEADER_BYTES + compressed]
}

fn decompress(body: &[u8]) -> Result<Vec<u8>, BadBatch> {
    let bad = |detail: String| BadBatch::Compression { detail };
    let (length, block) = body
        .split_first_chunk()
        .ok_or_else(|| bad("it ends within the length field".to_owned()))?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > BATCH_BYTES_MAX {
        return Err(bad(format!(
            "it would have {length} bytes when decompressed; the maximum is {BATCH_BYTES_MAX}"
        )));
    }
    lz4_flex::block::decompress(block, length).map_err(|error| bad(error.to_string()))
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("bytes", &self.bytes.len())
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

impl Then {
    /// Returns what happens to a delivery after an outcome that was decided at `now_ms`, in Unix
    /// milliseconds.
    pub fn after(outcome: Outcome, now_ms: u64) -> Self {
        match outcome {
            Outcome::Delivered => Self::Delivered,
            Outcome::Retry { after } => Self::Retry {
                at_ms: now_ms + after.as_millis() as u64,
            },
            Outcome::Dead { reason } => Self::Dead { reason },
            Outcome::Cancelled { reason } => Self::Cancelled { reason },
        }
    }
}

impl DeliveryRef {
    /// Returns the delivery's id.
    pub fn id(&self) -> DeliveryId {
        DeliveryId::derive(&self.organization_id, &self.event_id, &self.endpoint_id, self.run)
    }
}

impl From<&Delivery> for DeliveryRef {
    fn from(delivery: &Delivery) -> Self {
        Self {
            organization_id: delivery.event.organization_id.clone(),
            event_id: delivery.event.id.clone(),
            endpoint_id: delivery.endpoint_id.clone(),
            run: delivery.run,
            trigger: delivery.trigger,
        }
    }
}

impl AttemptRecord {
    /// Returns the record of an attempt at `delivery`, whose fields are those before the attempt.
    pub fn new(
        id: AttemptId,
        delivery: &Delivery,
        began_ms: u64,
        duration_ms: u64,
        result: &AttemptResult,
        then: Then,
    ) -> Self {
        let (phase, failure, response) = match result {
            AttemptResult::Answered(answer) => {
                let kept = answer.body.len().min(RESPONSE_BYTES_MAX);
                (None, None, answer.body.slice(..kept))
            }
            AttemptResult::Failed(failure) => (Some(failure.phase), Some(failure.kind), Bytes::new()),
        };
        let error = if result.is_success() {
            String::new()
        } else {
            result.to_string()
        };
        Self {
            id,
            delivery: delivery.into(),
            number: delivery.attempt,
            began_ms,
            duration_ms,
            status: result.status(),
            phase,
            failure,
            error,
            response,
            then,
        }
    }

    /// Returns whether the endpoint accepted the delivery: any 2xx.
    pub fn is_success(&self) -> bool {
        matches!(self.status, Some(200..=299))
    }
}

/// The encoding of an event as it was published. Decoding parses the body again.
mod wire {
    use std::{borrow::Cow, sync::Arc};

    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

    use crate::Event;

    #[derive(Serialize, Deserialize)]
    struct Published<'a> {
        id: Cow<'a, str>,
        body: Bytes,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traceparent: Option<Cow<'a, str>>,
    }

    pub(super) fn serialize<S: Serializer>(event: &Arc<Event>, serializer: S) -> Result<S::Ok, S::Error> {
        let published = Published {
            id: event.id.as_str().into(),
            body: event.body.clone(),
            traceparent: event.traceparent.as_deref().map(Into::into),
        };
        published.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Event>, D::Error> {
        let Published {
            id,
            body,
            traceparent,
        } = Published::deserialize(deserializer)?;
        let event = Event::from_delivery(Some(&id), traceparent.map(Cow::into_owned), body);
        event.map(Arc::new).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
