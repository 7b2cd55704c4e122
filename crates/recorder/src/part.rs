//! Parts of a message that the database refuses: the parts that the database accepts are written, and the
//! others are stored as rejected messages.

use broker::{Message, Topology};
use store::RejectedRow;
use webhook::journal::{Batch, Record};

use crate::{
    entry::{Entry, Inbox, rejected},
    meters::UNRECORDABLE,
    now_ms,
};

/// A part of a message that is written or refused as a whole. Never empty.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Records of a batch of the journal.
    Records(Vec<Record>),
    /// The records of a dead letter, which belong together.
    Dead(Vec<Record>),
    /// A rejected message.
    Rejected(Box<RejectedRow>),
}

impl Part {
    /// Returns the whole message as one part.
    pub(crate) fn whole(source: Inbox, entry: Entry) -> Self {
        match entry {
            Entry::Rejected(rejected) => Self::Rejected(rejected),
            Entry::Records(records) if source == Inbox::Dead => Self::Dead(records),
            Entry::Records(records) => Self::Records(records),
        }
    }

    pub(crate) fn entry(&self) -> Entry {
        match self {
            Self::Records(records) | Self::Dead(records) => Entry::Records(records.clone()),
            Self::Rejected(rejected) => Entry::Rejected(rejected.clone()),
        }
    }

    /// Splits several records into two halves. Returns the part unchanged as an error if it cannot be split.
    pub(crate) fn halves(self) -> Result<[Self; 2], Self> {
        match self {
            Self::Records(mut records) if records.len() > 1 => {
                let second = records.split_off(records.len() / 2);
                Ok([Self::Records(records), Self::Records(second)])
            }
            part => Err(part),
        }
    }

    /// Returns the part as a rejected message, in a form in which it can be redriven. `detail` says why it
    /// was refused.
    pub(crate) fn refused(self, message: &Message, topology: &Topology, detail: &str) -> RejectedRow {
        let (source, found) = match self {
            Self::Rejected(rejected) => return plain(*rejected, detail),
            Self::Dead(_) => (Inbox::Dead, message.dead_letter_aside(topology)),
            Self::Records(records) => {
                let found = broker::Rejected {
                    headers: "{}".to_owned(),
                    message_id: records.first().map(event_id),
                    event_type: None,
                    body: batch(&records),
                    ..message.rejected(topology)
                };
                (Inbox::Journal, found)
            }
        };
        rejected(broker::Rejected {
            id: None,
            rejected_ms: now_ms(),
            source: source.as_str().to_owned(),
            reason: UNRECORDABLE.to_owned(),
            detail: detail.to_owned(),
            ..found
        })
    }
}

/// The maximum length of each text of a rejected message after [`plain`], in characters.
const PLAIN_CHARS_MAX: usize = 1_000;

/// Returns the rejected message with all texts reduced to characters that any database accepts. The body
/// stays unchanged.
pub(crate) fn plain(rejected: RejectedRow, detail: &str) -> RejectedRow {
    let plain = |text: &str| -> String {
        let visible = text.chars().map(|char| match char {
            ' '..='~' => char,
            _ => '?',
        });
        visible.take(PLAIN_CHARS_MAX).collect()
    };
    RejectedRow {
        source: plain(&rejected.source),
        reason: plain(&rejected.reason),
        detail: plain(&format!("{}; {detail}", rejected.detail)),
        message_id: rejected.message_id.as_deref().map(plain),
        event_type: rejected.event_type.as_deref().map(plain),
        headers: if rejected.headers.is_ascii() && rejected.headers.len() <= PLAIN_CHARS_MAX {
            rejected.headers
        } else {
            "{}".to_owned()
        },
        ..rejected
    }
}

fn batch(records: &[Record]) -> bytes::Bytes {
    let mut batch = Batch::new();
    for record in records {
        batch.push(record);
    }
    batch.take()
}

/// Returns the id of the event that a record is about, or the worker's name for a gap.
fn event_id(record: &Record) -> String {
    match record {
        Record::Event(record) => record.event.id.to_string(),
        Record::Attempt(record) => record.delivery.event_id.to_string(),
        Record::Step(record) => record.delivery.event_id.to_string(),
        Record::Gap(gap) => gap.worker.clone(),
    }
}

#[cfg(test)]
mod tests {
    use webhook::journal::Gap;

    use super::*;

    fn gap(from_ms: u64) -> Record {
        Record::Gap(Gap {
            worker: "w".to_owned(),
            from_ms,
            until_ms: from_ms,
            count: 1,
            batches: None,
        })
    }

    #[test]
    fn halving_comes_to_every_single_record() {
        let mut parts = vec![Part::Records((0..7).map(gap).collect())];
        let mut singles = Vec::new();
        while let Some(part) = parts.pop() {
            match part.halves() {
                Ok(halves) => parts.extend(halves),
                Err(Part::Records(records)) => singles.extend(records),
                Err(other) => panic!("{other:?}"),
            }
        }
        singles.reverse();
        assert_eq!(singles, (0..7).map(gap).collect::<Vec<_>>());
    }

    #[test]
    fn a_dead_letter_is_not_halved() {
        assert!(Part::Dead(vec![gap(1), gap(2)]).halves().is_err());
    }

    #[test]
    fn plain_texts_are_ascii_and_short() {
        let rejected = RejectedRow {
            id: "rej_1".to_owned(),
            rejected_ms: 1,
            source: "évents".to_owned(),
            reason: "not_json".to_owned(),
            detail: "日本\u{0}語".repeat(1_000),
            message_id: Some("m\n".to_owned()),
            event_type: None,
            headers: r#"{"traceparent":"日"}"#.to_owned(),
            body: bytes::Bytes::from_static(b"\xff"),
            redriven_ms: None,
        };
        let plain = plain(rejected.clone(), "refused");
        assert_eq!((plain.source.as_str(), plain.headers.as_str()), ("?vents", "{}"));
        assert_eq!(plain.detail.len(), PLAIN_CHARS_MAX);
        assert_eq!(
            (plain.message_id.as_deref(), &plain.body),
            (Some("m?"), &rejected.body)
        );
    }
}
