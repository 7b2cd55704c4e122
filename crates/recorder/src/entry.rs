//! From a message to what is written.

use broker::{Message, Topology};
use store::Rejected;
use webhook::{
    Delivery,
    journal::{Batch, Considered, EventRecord, Record, StepRecord, Then},
};

use crate::{
    display_chain,
    meters::{self, BAD_BATCH},
    now_ms,
};

/// Which queue a message was consumed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Batches of records.
    Journal,
    /// Dead letters.
    Dead,
    /// Messages that nobody could read.
    Rejected,
}

/// What one message says.
#[derive(Debug)]
pub(crate) enum Entry {
    Records(Vec<Record>),
    Rejected(Box<Rejected>),
}

impl Source {
    /// How many messages are held unacked. A batch has up to 1 MiB, a dead letter 256 KiB, a rejected message
    /// whatever its publisher wanted.
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
    /// Reads a message. One that is not what its queue holds is set aside.
    pub(crate) fn read(source: Source, message: &Message, topology: &Topology) -> Self {
        match source {
            Source::Journal => match Batch::decode(&message.body) {
                Ok(records) => Self::Records(records),
                Err(bad) => Self::aside(source, message, topology, BAD_BATCH, &display_chain(&bad)),
            },
            Source::Dead => match message.dead_letter() {
                Ok((delivery, letter)) => Self::Records(dead(&delivery, &letter)),
                Err(bad) => Self::aside(source, message, topology, bad.reason(), &display_chain(&bad)),
            },
            Source::Rejected => Self::Rejected(Box::new(rejected(message.rejected(topology)))),
        }
    }

    /// A message that cannot be read as what it is.
    fn aside(source: Source, message: &Message, topology: &Topology, reason: &str, detail: &str) -> Self {
        tracing::error!(
            queue = source.queue(topology),
            bytes = message.body.len(),
            reason,
            detail,
            "a message cannot be recorded; `magnetite rejected list` has it"
        );
        count_aside(reason);
        let found = match source {
            // With all that it says: what this version cannot read a later one may.
            Source::Dead => message.dead_letter_aside(topology),
            Source::Journal | Source::Rejected => message.rejected(topology),
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

/// Counts a message, or a record, that is kept among the rejected ones for lack of a better place.
pub(crate) fn count_aside(reason: &str) {
    meters::SET_ASIDE.count([reason]).increment(1);
}

/// A dead letter brings its event along, so that it can be sent again whatever else is missing.
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

/// A message that RabbitMQ moved by itself has no id: its content makes one, so that it is written once,
/// however often it comes.
pub(crate) fn rejected(found: broker::Rejected) -> Rejected {
    let id = found.id.clone().unwrap_or_else(|| {
        Rejected::id_of(
            found.rejected_ms,
            &found.source,
            found.message_id.as_deref(),
            &found.headers,
            &found.body,
        )
    });
    Rejected {
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
