//! Determines whether the recorders have written everything that the journal's queue contained.
//!
//! A queue reports its ready messages, but not those that a recorder has in hand. These can be up to 32
//! batches, for as long as the recorder's database is locked, full or unavailable. The audit therefore
//! publishes a mark, which is a batch without records, and waits until it is in the database: everything that
//! was published before it is then in the database, too.

use broker::{Outgoing, Publisher, Topology};
use runtime::display_chain;
use store::{MARK_PREFIX, Store};
use tokio::time::{Duration, Instant, sleep};
use webhook::journal::{Batch, BatchStamp};

/// The interval at which the database is checked for the mark. It is small compared with the time that a
/// recorder takes.
const POLL: Duration = Duration::from_millis(10);

/// The result of publishing a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marked {
    /// The recorders have written everything that was published before the mark. Also used if there is no
    /// recorder, because then all of it is still in the queues.
    Recorded,
    /// No recorder has written the mark yet. It was published at this time, in Unix milliseconds.
    NotYet {
        /// When the mark was published, in Unix milliseconds.
        since_ms: u64,
    },
    /// The journal's queue does not accept the mark. The error is the broker's.
    Refused {
        /// The error and its causes.
        error: String,
    },
}

/// Publishes marks, each under a random name of its own.
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

    /// Publishes a mark and waits until it is written or the deadline has passed.
    pub(super) async fn mark(&self, deadline: Instant) -> Result<Marked, store::Error> {
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
            let error = display_chain(&error);
            return Ok(Marked::Refused { error });
        }
        while !self.store.is_marked(&name).await? {
            if Instant::now() >= deadline {
                return Ok(Marked::NotYet { since_ms });
            }
            sleep(POLL).await;
        }
        // If this fails, a later audit deletes the mark.
        let _ = self.store.forget_mark(&name, since_ms).await;
        Ok(Marked::Recorded)
    }
}
