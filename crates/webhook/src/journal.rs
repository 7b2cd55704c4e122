//! The journal: what workers say about every event, delivery and attempt, for whoever asks later.
//!
//! A worker gathers [`Record`]s into a batch of at most [`BATCH_BYTES_MAX`] and publishes it as one message,
//! before it acks what the records are about. Whoever stores them folds them into [`Books`]. Batches arrive
//! in any order, and more than once: a message that was handed out again is worked on and recorded again. So
//! everything here merges, and merging is commutative, associative and idempotent: two readers of the same
//! records have the same books.
//!
//! # The encoding
//!
//! One byte, the version ([`VERSION`]); four bytes, how long what follows is when it is decompressed
//! (little-endian); and one LZ4 block: records in `MessagePack`, one after the other. Structs are maps with
//! the names of their fields, so that a reader skips what it does not know and fills in what an older writer
//! did not write. What cannot be told that way gets a new version. Records of every version that was ever
//! released can be read for good.

mod considered;
mod seen;
mod numbers;
mod books;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    AttemptId, AttemptResult, CancelReason, DeadReason, DeferReason, Delivery, DeliveryId, EndpointId, Event,
    EventId, FailureKind, OrganizationId, Outcome, Phase, Trigger,
};

pub use books::{Books, DeliveryEntry, DeliveryState, EventEntry, Standing, UnknownDeliveryState};
pub use considered::{BadConsidered, Considered, Verdict};
pub use numbers::{BatchStamp, Hole, Numbers, Span};
pub use seen::{BadSeen, Seen};

/// The largest batch, in bytes, before and after it is compressed.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// How much of a response's body is recorded, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 4096;
/// How many endpoints one record of an event names. An event that considered more has several records, which
/// merge.
pub const CONSIDERED_MAX: usize = 5_000;
/// The version and the length.
const HEADER_BYTES: usize = 5;
/// The version that is written.
pub const VERSION: u8 = 1;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// An event was taken from its queue.
    Event(EventRecord),
    /// An endpoint was asked.
    Attempt(AttemptRecord),
    /// A delivery went on without an attempt.
    Step(StepRecord),
    /// Records were lost.
    Gap(Gap),
}

/// An event, and who was considered for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// What was published.
    #[serde(with = "wire")]
    pub event: Arc<Event>,
    /// When a worker took it, in Unix milliseconds.
    pub received_ms: u64,
    /// The endpoints that got the event, and those that did not for a reason that only the worker knew; at
    /// most [`CONSIDERED_MAX`]. Without `seen`, every endpoint of the organization.
    pub considered: Considered,
    /// The position of the registry that the worker fanned out with, which explains why the other endpoints
    /// did not get the event. `None` in records of older versions and of pings, and when only a dead
    /// letter tells of the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
}

/// Which delivery a record is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryRef {
    /// Whose event it is.
    pub organization_id: OrganizationId,
    /// What is delivered.
    pub event_id: EventId,
    /// Where to.
    pub endpoint_id: EndpointId,
    /// 0 for the event itself; each resend is a new run.
    pub run: u32,
    /// What caused the run.
    pub trigger: Trigger,
}

/// One request, charged to the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Its own id: a delivery that was attempted twice under one number, because a worker died, has two.
    pub id: AttemptId,
    /// Of which delivery.
    pub delivery: DeliveryRef,
    /// 1-based, within the run.
    pub number: u32,
    /// When it began, in Unix milliseconds.
    pub began_ms: u64,
    /// How long it took until the response had been read or the attempt had failed.
    pub duration_ms: u64,
    /// The HTTP status, if there was a response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How far it came, if there was no response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// What went wrong, if there was no response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureKind>,
    /// The failure in words, as in the log; empty after a 2xx.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The first [`RESPONSE_BYTES_MAX`] bytes of the response's body.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub response: Bytes,
    /// What followed.
    pub then: Then,
}

/// A delivery that was put off, dead-lettered or cancelled instead of being attempted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Which delivery.
    pub delivery: DeliveryRef,
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// How many attempts this run had had by then.
    pub attempts: u32,
    /// The status of the last attempt, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_status: Option<u16>,
    /// The last attempt's failure in words, if it is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_error: String,
    /// What followed.
    pub then: Then,
}

/// What follows from an attempt or a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// The endpoint took it.
    Delivered,
    /// The next attempt is due.
    Retry {
        /// Unix milliseconds.
        at_ms: u64,
    },
    /// Put off; no attempt was spent.
    Deferred {
        /// Why.
        reason: DeferReason,
        /// Until when, in Unix milliseconds.
        at_ms: u64,
    },
    /// It stands in the dead letters.
    Dead {
        /// Why.
        reason: DeadReason,
    },
    /// Nobody is left to deliver it to.
    Cancelled {
        /// Why.
        reason: CancelReason,
    },
}

/// Records that were dropped, because the journal's queue took nothing: it was full, or the broker was out of
/// memory or disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The worker that dropped them.
    pub worker: String,
    /// When the first of them was dropped, in Unix milliseconds.
    pub from_ms: u64,
    /// When the last of them was dropped, in Unix milliseconds.
    pub until_ms: u64,
    /// How many, at most: a batch that was not confirmed in time may have arrived after all.
    pub count: u64,
    /// The numbers of the first and the last batch that were dropped; `None` from a worker of an older
    /// version, which numbers none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batches: Option<(u64, u64)>,
}

/// Bytes that are not a batch.
#[derive(Debug, thiserror::Error)]
pub enum BadBatch {
    /// Written by a newer version.
    #[error("the batch has version {0}; this reader knows up to {VERSION}: upgrade the recorder first")]
    Version(u8),
    /// Nothing at all.
    #[error("the batch is empty")]
    Empty,
    /// Not compressed as it should be, or too long.
    #[error("the batch cannot be decompressed: {detail}")]
    Compression {
        /// The decoder's words.
        detail: String,
    },
    /// Not records.
    #[error("the batch cannot be read at byte {at}")]
    Record {
        /// Where the record begins.
        at: u64,
        /// The decoder's words.
        #[source]
        source: rmp_serde::decode::Error,
    },
}

/// A batch that is being written, and after it the next one in the same memory.
#[derive(Clone)]
pub struct Batch {
    bytes: Vec<u8>,
    records: u64,
    /// Where it is compressed.
    compressed: Vec<u8>,
}

impl Batch {
    /// Without records yet.
    #[allow(
        clippy::new_without_default,
        reason = "an empty batch is a beginning, not a value to fall back on"
    )]
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            records: 0,
            compressed: Vec::new(),
        }
    }

    /// Appends a record. The largest one, an event of the largest size with [`CONSIDERED_MAX`] endpoints, is
    /// smaller than [`BATCH_BYTES_MAX`]; whether another one still fits is for the caller to watch by
    /// [`Batch::bytes`].
    pub fn push(&mut self, record: &Record) {
        let mut serializer = rmp_serde::Serializer::new(&mut self.bytes).with_struct_map();
        record
            .serialize(&mut serializer)
            .expect("records have text keys and known lengths, and a vector takes every byte");
        self.records += 1;
    }

    /// How many bytes it has, uncompressed.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many records it has.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Takes the message's body out, and leaves a batch without records.
    pub fn take(&mut self) -> Bytes {
        let body = compress(&self.bytes, &mut self.compressed);
        let body = Bytes::copy_from_slice(body);
        self.bytes.clear();
        self.records = 0;
        body
    }

    /// Reads a message's body.
    ///
    /// # Errors
    /// When it is not a batch of a known version. None of its records is returned then.
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

/// Records behind their header, written into `room`.
fn compress<'a>(records: &[u8], room: &'a mut Vec<u8>) -> &'a [u8] {
    let most = HEADER_BYTES + lz4_flex::block::get_maximum_output_size(records.len());
    if room.len() < most {
        room.resize(most, 0);
    }
    room[0] = VERSION;
    room[1..HEADER_BYTES].copy_from_slice(&(records.len() as u32).to_le_bytes());
    let compressed = lz4_flex::block::compress_into(records, &mut room[HEADER_BYTES..])
        .expect("the room is the most that compressing can need");
    &room[..HEADER_BYTES + compressed]
}

fn decompress(body: &[u8]) -> Result<Vec<u8>, BadBatch> {
    let bad = |detail: String| BadBatch::Compression { detail };
    let (length, block) = body
        .split_first_chunk()
        .ok_or_else(|| bad("it ends within its length".to_owned()))?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > BATCH_BYTES_MAX {
        return Err(bad(format!(
            "it would have {length} bytes; at most {BATCH_BYTES_MAX} are read"
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
    /// What follows from an outcome that was decided at `now_ms`.
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
    /// The delivery's id.
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
    /// The record of the attempt that `delivery` had before it.
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

    /// Whether the endpoint took the delivery: any 2xx.
    pub fn is_success(&self) -> bool {
        matches!(self.status, Some(200..=299))
    }
}

/// An event as it was published: what its body says is read from it again.
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
