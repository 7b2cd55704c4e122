//! Whether the recorders have written what the journal's queue held.
//!
//! A queue tells what is ready, not what a recorder has in hand: up to 32 batches, for as long as its
//! database is locked, full or away. So the audit publishes a mark, a batch without records, and waits until
//! it is in the database: what came before it is, too.

use broker::{Outgoing, Publisher, Topology};
use store::{MARK_PREFIX, Store};
use tokio::time::{Duration, Instant, sleep};
use webhook::journal::{Batch, BatchStamp};

/// Small against the time that a recorder takes.
const POLL: Duration = Duration::from_millis(10);

/// What became of a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Marked {
    /// The recorders have written all that came before it; or there is no recorder, and the queues hold it.
    Recorded,
    /// No recorder has written it yet. It was published at this time, in Unix milliseconds.
    NotYet { since_ms: u64 },
    /// The journal's queue does not take it, in the broker's words.
    Refused { error: String },
}

/// Publishes marks, one after the other under one name.
pub(super) struct Marker<'a> {
    store: &'a Store,
    topology: &'a Topology,
    publisher: Publisher,
}

impl<'a> Marker<'a> {
    pub(super) fn new(store: &'a Store, topology: &'a Topology, publisher: Publisher) -> Self {
        Self {
            store,
            topology,
            publisher,
        }
    }

    /// Publishes a mark and waits until it is written, or the deadline has passed.
    pub(super) async fn mark(&self, deadline: Instant) -> anyhow::Result<Marked> {
        let since_ms = runtime::now_ms();
        let name = format!("{MARK_PREFIX}{:016x}", rand::random::<u64>());
        let stamp = BatchStamp {
            worker: name.clone(),
            number: 1,
            settled: 0,
            made_ms: since_ms,
        };
        let message = Outgoing::journal(self.topology, &stamp, Batch::new().take());
        if let Err(error) = self.publisher.publish(&message).await {
            let error = format!("{:#}", anyhow::Error::from(error));
            return Ok(Marked::Refused { error });
        }
        while !self.store.is_marked(&name).await? {
            if Instant::now() >= deadline {
                return Ok(Marked::NotYet { since_ms });
            }
            sleep(POLL).await;
        }
        // What stays behind is deleted by a later audit.
        let _ = self.store.forget_mark(&name, since_ms).await;
        Ok(Marked::Recorded)
    }
}
