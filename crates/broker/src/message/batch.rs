//! Batches of the journal, and the headers that identify each batch.

use bytes::Bytes;
use lapin::{BasicProperties, types::FieldTable};
use webhook::journal::BatchStamp;

use super::{Message, Outgoing, number, text};
use crate::Topology;

const WORKER: &str = "magnetite-worker";
const BATCH: &str = "magnetite-batch";
const SETTLED: &str = "magnetite-batches-settled";
const MADE_MS: &str = "magnetite-batch-ms";

impl Outgoing {
    /// Returns a message with a batch of a worker's records, in the journal's encoding.
    pub fn journal(topology: &Topology, stamp: &BatchStamp, batch: Bytes) -> Self {
        let mut headers = FieldTable::default();
        headers.insert(WORKER.into(), text(&stamp.worker));
        headers.insert(BATCH.into(), number(stamp.number));
        headers.insert(SETTLED.into(), number(stamp.settled));
        headers.insert(MADE_MS.into(), number(stamp.made_ms));
        Self {
            exchange: String::new(),
            routing_key: topology.journal(),
            properties: BasicProperties::default()
                .with_delivery_mode(2)
                .with_content_type("application/msgpack".into())
                .with_headers(headers),
            body: batch,
        }
    }
}

impl Message {
    /// Returns the stamp of a journal batch; `None` if a worker of an older version published it without one,
    /// or if its values are inconsistent.
    pub fn batch_stamp(&self) -> Option<BatchStamp> {
        let counter = |name| self.number(name).and_then(|number| u64::try_from(number).ok());
        let stamp = BatchStamp {
            worker: self.text(WORKER)?,
            number: counter(BATCH)?,
            settled: counter(SETTLED)?,
            made_ms: counter(MADE_MS)?,
        };
        (stamp.settled < stamp.number && !stamp.worker.is_empty()).then_some(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(number: u64, settled: u64) -> BatchStamp {
        BatchStamp {
            worker: "5f1c".to_owned(),
            number,
            settled,
            made_ms: 1_703_123_456_789,
        }
    }

    #[test]
    fn a_batch_says_whose_it_is_and_which() {
        let (topology, stamp) = (Topology::new("magnetite", &[]), stamp(7, 5));
        let message = Outgoing::journal(&topology, &stamp, Bytes::from_static(b"batch")).message();
        assert_eq!(message.batch_stamp(), Some(stamp));
        assert_eq!(&message.body[..], b"batch");
    }

    #[test]
    fn a_batch_of_an_older_worker_says_nothing_and_neither_does_nonsense() {
        let topology = Topology::new("magnetite", &[]);
        for senseless in [stamp(0, 0), stamp(3, 3), stamp(u64::MAX, u64::MAX)] {
            let message = Outgoing::journal(&topology, &senseless, Bytes::new()).message();
            assert_eq!(message.batch_stamp(), None, "{senseless:?}");
        }
        let mut older = Outgoing::journal(&topology, &stamp(1, 0), Bytes::new()).message();
        older.properties = BasicProperties::default();
        assert_eq!(older.batch_stamp(), None);
    }
}
