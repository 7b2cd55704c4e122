//! Passes what workers record to readers, as it happens.
//!
//! ```text
//! broker::tail -> Readers: decode once, convert once, filter for each reader -> Reader: waiting lines
//! ```
//!
//! [`Readers`] receive the copies of the workers' batches over one connection, for any number of [`Reader`]s. A
//! reader that does not take its lines in time loses further ones, and gets a line with their number. It delays no
//! other reader.
//!
//! Nothing is stored: a reader gets what workers record while it exists. Batches that the broker or a worker drops
//! because too many wait are missing without a line.

mod filter;
mod event_types;
mod waiting;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker::{Link, Tailed, Topology};
use runtime::{Lasting, display_chain, now_ms};
use tokio_util::sync::CancellationToken;
use webhook::journal::{Batch, Record};
use wire::TailLine;

use crate::view;

use event_types::EventTypes;
use waiting::Waiting;

pub use filter::Filter;
pub use waiting::Line;

/// Receives what workers record, and passes it to readers.
pub struct Readers {
    /// Returns what readers may see of a line.
    shown: fn(TailLine) -> TailLine,
    state: Mutex<State>,
    /// The condition that batches cannot be decoded.
    unreadable: Lasting,
}

#[derive(Default)]
struct State {
    /// Whether the connection is open, so that nothing is missing.
    is_watching: bool,
    event_types: EventTypes,
    readers: Vec<Arc<Subscription>>,
}

/// What the readers know about one of them.
struct Subscription {
    filter: Filter,
    waiting: Waiting,
}

/// Receives the lines that its filter accepts. Dropping it ends this.
pub struct Reader {
    readers: Arc<Readers>,
    subscription: Arc<Subscription>,
}

impl Readers {
    /// Creates a set without readers. `shown` returns what they may see of a line.
    pub fn new(shown: fn(TailLine) -> TailLine) -> Arc<Self> {
        Arc::new(Self {
            shown,
            state: Mutex::default(),
            unreadable: Lasting::new(),
        })
    }

    /// Adds a reader. Its first line is [`TailLine::Watching`], as soon as the connection is open.
    pub fn add(self: &Arc<Self>, filter: Filter) -> Reader {
        let subscription = Arc::new(Subscription {
            filter,
            waiting: Waiting::default(),
        });
        let mut state = self.state();
        if state.is_watching {
            subscription.waiting.push(&watching());
            subscription.waiting.wake();
        }
        state.readers.push(Arc::clone(&subscription));
        drop(state);
        Reader {
            readers: Arc::clone(self),
            subscription,
        }
    }

    /// Receives what workers record from now on, until `stop` is cancelled. Reconnects whenever the connection
    /// is lost.
    pub async fn watch(&self, link: &Link, topology: &Topology, stop: &CancellationToken) {
        broker::tail(link, topology, stop, |tailed| self.take(&tailed)).await;
    }

    fn take(&self, tailed: &Tailed) {
        match tailed {
            Tailed::Connected => self.state().announce(true, &watching()),
            Tailed::Lost => {
                let interrupted = Line::new(TailLine::Interrupted { at_ms: now_ms() });
                self.state().announce(false, &interrupted);
            }
            Tailed::Batch(batch) => self.batch(batch),
        }
    }

    fn batch(&self, batch: &[u8]) {
        match Batch::decode(batch) {
            Ok(records) => {
                self.unreadable.end();
                self.state().pass(&records, self.shown);
            }
            Err(error) => {
                if self.unreadable.again().is_some() {
                    tracing::warn!(
                        error = %display_chain(&error),
                        "cannot read what a worker recorded; it is not shown"
                    );
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn watching() -> Arc<Line> {
    Line::new(TailLine::Watching { at_ms: now_ms() })
}

impl State {
    /// Notes whether the connection is open, and passes a line to all readers if that has changed.
    fn announce(&mut self, is_watching: bool, line: &Arc<Line>) {
        if self.is_watching == is_watching {
            return;
        }
        self.is_watching = is_watching;
        for reader in &self.readers {
            reader.waiting.push(line);
            reader.waiting.wake();
        }
    }

    /// Passes each record to the readers whose filter accepts it, events first.
    fn pass(&mut self, records: &[Record], shown: fn(TailLine) -> TailLine) {
        // A slow attempt moves to a message of its own, which may be recorded in the same batch as the event's, and
        // before it.
        let (events, others): (Vec<_>, Vec<_>) = records
            .iter()
            .partition(|record| matches!(record, Record::Event(_)));
        for record in events.into_iter().chain(others) {
            let event_type = self.event_types.of(record);
            // It is converted once for all readers, and only if there is one.
            let mut line = None;
            for reader in &self.readers {
                if reader.filter.accepts(record, event_type) {
                    let line =
                        line.get_or_insert_with(|| Line::new(shown(view::tail_line(record, event_type))));
                    reader.waiting.push(line);
                }
            }
        }
        for reader in &self.readers {
            reader.waiting.wake();
        }
    }
}

impl Reader {
    /// Waits until there are lines, and returns all of them, in the order in which workers recorded them, but with the
    /// events of a batch before its attempts.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn next(&self) -> Vec<Arc<Line>> {
        self.subscription.waiting.next().await
    }

    /// Waits until so many lines wait that they should be taken soon, because otherwise further ones may be lost.
    /// At most one task may wait for lines of a reader at a time.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn many(&self) {
        self.subscription.waiting.many().await;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.readers.state();
        state
            .readers
            .retain(|reader| !Arc::ptr_eq(reader, &self.subscription));
    }
}

#[cfg(test)]
mod tests;
