//! Decodes messages into what is written to the store.

use broker::{Message, Topology};
use store::RejectedRow;
use webhook::{
    Delivery,
    journal::{Batch, Considered, EventRecord, Record, StepRecord, Then},
};

use crate::{
    display_chain,
    meters::{self, BAD_BATCH},
    now_ms,
};

/// The queue that a message was consumed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inbox {
    /// Batches of records.
    Journal,
    /// Dead letters.
    Dead,
    /// Messages that could not be decoded.
    Rejected,
}

/// The decoded content of one message.
#[derive(Debug)]
pub(crate) enum Entry {
    Records(Vec<Record>),
    Rejected(Box<RejectedRow>),
}

impl Inbox {
    /// Returns the maximum number of unacknowledged messages. A batch has up to 1 MiB and a dead letter up to
    /// 256 KiB; the size of a rejected message is chosen by its publisher.
    pub(crate) const fn prefetch(self) -> u16 {
        match self {
            Self::Journal => 32,
            Self::Dead => 128,
            Self::Rejected => 16,
        }
    }

    pub(crate) fn queue(self, topology: &Topology) -> String {
        match self {
            Self::Journal => topology.journal(),
            Self::Dead => topology.dead(),
            Self::Rejected => topology.rejected(),
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Dead => "dead",
            Self::Rejected => "rejected",
        }
    }
}

impl Entry {
    /// Decodes a message. A message that does not fit its queue becomes a rejected message.
    pub(crate) fn read(source: Inbox, message: &Message, topology: &Topology) -> Self {
        match source {
            Inbox::Journal => match Batch::decode(&message.body) {
                Ok(records) => Self::Records(records),
                Err(bad) => Self::aside(source, message, topology, BAD_BATCH, &display_chain(&bad)),
            },
            Inbox::Dead => match message.dead_letter() {
                Ok((delivery, letter)) => Self::Records(dead(&delivery, &letter)),
                Err(bad) => Self::aside(source, message, topology, bad.reason(), &display_chain(&bad)),
            },
            Inbox::Rejected => Self::Rejected(Box::new(rejected(message.rejected(topology)))),
        }
    }

    /// Returns a message that cannot be decoded as a rejected message.
    fn aside(source: Inbox, message: &Message, topology: &Topology, reason: &str, detail: &str) -> Self {
        tracing::error!(
            queue = source.queue(topology),
            bytes = message.body.len(),
            reason,
            detail,
            "a message cannot be recorded; `magnetite rejected list` shows it"
        );
        count_aside(reason);
        let found = match source {
            // Keeps everything that the dead letter contains: a later version may be able to decode it.
            Inbox::Dead => message.dead_letter_aside(topology),
            Inbox::Journal | Inbox::Rejected => message.rejected(topology),
        };
        Self::Rejected(Box::new(rejected(broker::Rejected {
            id: None,
            rejected_ms: now_ms(),
            source: source.as_str().to_owned(),
            reason: reason.to_owned(),
            detail: detail.to_owned(),
            ..found
        })))
    }
}

/// Counts a message or a record that is stored as a rejected message because it cannot be recorded.
pub(crate) fn count_aside(reason: &str) {
    meters::SET_ASIDE.count([reason]).increment(1);
}

/// Returns the records of a dead letter. They include its event, so that the delivery can be resent even if
/// other records are missing.
fn dead(delivery: &Delivery, letter: &broker::DeadLetter) -> Vec<Record> {
    let event = EventRecord {
        event: std::sync::Arc::clone(&delivery.event),
        received_ms: delivery.first_attempt_ms.unwrap_or(letter.dead_ms),
        considered: Considered::default(),
        seen: None,
    };
    let step = StepRecord {
        delivery: delivery.into(),
        at_ms: letter.dead_ms,
        attempts: letter.attempts,
        last_status: letter.last_status,
        last_error: letter.last_error.clone(),
        then: Then::Dead {
            reason: letter.reason,
        },
    };
    vec![Record::Event(event), Record::Step(step)]
}

/// Converts a rejected message for the store.
///
/// A message that RabbitMQ moved by itself has no id. In that case the id is derived from the content, so
/// that the message is written once, regardless of how often it arrives.
pub(crate) fn rejected(found: broker::Rejected) -> RejectedRow {
    let id = found.id.clone().unwrap_or_else(|| {
        RejectedRow::id_of(
            found.rejected_ms,
            &found.source,
            found.message_id.as_deref(),
            &found.headers,
            &found.body,
        )
    });
    RejectedRow {
        id,
        rejected_ms: found.rejected_ms,
        source: found.source,
        reason: found.reason,
        detail: found.detail,
        message_id: found.message_id,
        event_type: found.event_type,
        headers: found.headers,
        body: found.body,
        redriven_ms: None,
    }
}
