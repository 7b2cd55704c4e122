//! Remembers the messages that this worker is processing or has processed, so that a redelivered message is
//! not processed twice.
//!
//! When the connection is lost, the broker redelivers every unacknowledged message, often to the same worker.
//! The earlier copy of the message can be in one of three states here:
//! - It is still being processed. The new ack handle replaces the old one.
//! - It has been processed, but its outstanding publishes were not made because its ack handle was dead. The
//!   worker commits it with the new handle.
//! - It is settled and only the ack was lost. The worker acknowledges the new copy.
//!
//! In none of these cases is the request to the endpoint repeated.
//!
//! A message can also be expected before it arrives: the worker publishes a held message for an attempt in
//! progress, and receives it back as the handle with which to settle that attempt.
//!
//! If the connection was away for too long to redeliver a held message in time, the message becomes due
//! instead. It still counts as a message of the held queue, and is matched with its earlier copy even if
//! RabbitMQ does not mark it as redelivered. (RabbitMQ 4 does, RabbitMQ 3 does not.)
//!
//! The same content published twice is two messages, and looks the same here. Therefore a copy is matched
//! with an earlier one only if RabbitMQ marks it as redelivered and the channel of the earlier copy is
//! closed: while that channel is open, the broker does not redeliver its messages. Settled messages are
//! remembered for a few minutes only.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use broker::{Incoming, Message, Origin, Source};

use crate::work::{Processed, Work};

/// What to do with a message that arrived.
pub(crate) enum Arrival {
    /// Process the message.
    New(Arc<Work>),
    /// The message is already being processed, and that work now has this copy's ack handle. Nothing is left
    /// to do.
    Attached,
    /// An earlier copy has been processed; commit it with the ack handle of this one.
    Parked(Processed),
    /// An earlier copy is settled; acknowledge this one.
    Settled,
}

pub(crate) struct Recall {
    hasher: RandomState,
    capacity: usize,
    /// The number of deliveries in hand.
    in_hand: Arc<AtomicU64>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<u64, Entry>,
    /// Keys of settled messages, oldest first: the next ones to forget.
    settled: VecDeque<u64>,
    /// Keys of processed messages that wait for their next copy. They are kept apart, because the much more
    /// frequent settled messages would soon evict them.
    parked: VecDeque<u64>,
}

enum Entry {
    Working(Arc<Work>),
    Parked(Processed),
    Settled { origin: Origin, at: Instant },
}

/// How long after its ack was submitted a message may be redelivered and still be recognized.
///
/// RabbitMQ redelivers unacknowledged messages as soon as there is a consumer, so this is the longest outage
/// that is bridged.
const SETTLED_AGE_MAX: Duration = Duration::from_mins(5);

impl Recall {
    /// Creates a memory for at most `capacity` settled messages and as many that wait for redelivery, in
    /// addition to those being processed.
    ///
    /// Counts in `in_hand` how many deliveries, due or held, are being processed.
    pub(crate) fn new(capacity: usize, in_hand: Arc<AtomicU64>) -> Self {
        Self {
            hasher: RandomState::new(),
            capacity,
            in_hand,
            entries: Mutex::default(),
        }
    }

    /// Registers the work on a message that is about to be published and will be delivered to this worker.
    pub(crate) fn expect(&self, source: Source, message: &Message) -> Arc<Work> {
        let key = keyed(source, self.content(message));
        self.lock().begin(Work::new(key, None, source, &self.in_hand))
    }

    /// Compares a message that arrived with those remembered.
    ///
    /// `source` is the queue that the message was in when this worker published it or first received it. If
    /// `was_held`, the message has left that queue of held deliveries and arrived through another queue.
    pub(crate) fn arrive(&self, source: Source, incoming: &Incoming, was_held: bool) -> Arrival {
        let key = keyed(source, self.content(&incoming.message));
        let mut entries = self.lock();
        if entries.comes_back(key, incoming.redelivered || was_held) {
            match entries.by_key.remove(&key) {
                Some(Entry::Working(work)) => {
                    *work.handle() = Some(incoming.ack.clone());
                    entries.by_key.insert(key, Entry::Working(work));
                    return Arrival::Attached;
                }
                Some(Entry::Parked(mut processed)) => {
                    *processed.work.handle() = Some(incoming.ack.clone());
                    processed.failures = 0;
                    let working = Entry::Working(Arc::clone(&processed.work));
                    entries.by_key.insert(key, working);
                    return Arrival::Parked(processed);
                }
                Some(Entry::Settled { at, .. }) => {
                    entries.by_key.insert(
                        key,
                        Entry::Settled {
                            origin: incoming.ack.origin(),
                            at,
                        },
                    );
                    return Arrival::Settled;
                }
                None => {}
            }
        }
        let work = Work::new(key, Some(incoming.ack.clone()), source, &self.in_hand);
        Arrival::New(entries.begin(work))
    }

    /// Acknowledges the latest copy of a message, after everything it caused has been confirmed. If no copy
    /// has arrived yet, the first one is acknowledged when it does.
    pub(crate) fn acknowledge(&self, work: &Arc<Work>) {
        let mut entries = self.lock();
        let Some(ack) = work.handle().clone() else {
            return entries.park(Processed::new(Arc::clone(work)), self.capacity);
        };
        if entries.is_working(work) {
            let settled = Entry::Settled {
                origin: ack.origin(),
                at: Instant::now(),
            };
            entries.done(work.key, settled, self.capacity);
        }
        ack.ack();
    }

    /// Parks a processed message until the broker redelivers it, because its ack handle is dead. Returns the
    /// message as an error if a new copy has arrived meanwhile.
    pub(crate) fn park(&self, processed: Processed) -> Result<(), Processed> {
        let mut entries = self.lock();
        if processed.work.is_live() {
            return Err(processed);
        }
        entries.park(processed, self.capacity);
        Ok(())
    }

    fn content(&self, message: &Message) -> u64 {
        let mut state = self.hasher.build_hasher();
        message.hash_content(&mut state);
        state.finish()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the key for this content from this queue.
fn keyed(source: Source, content: u64) -> u64 {
    content.rotate_left(match source {
        Source::Events => 0,
        Source::Due => 1,
        Source::Held => 2,
    })
}

impl Entry {
    /// Returns whether no copy of the message has arrived yet.
    fn is_expected(&self) -> bool {
        match self {
            Self::Working(work) | Self::Parked(Processed { work, .. }) => work.handle().is_none(),
            Self::Settled { .. } => false,
        }
    }

    /// Returns whether the broker may redeliver this message.
    fn may_come_back(&self) -> bool {
        match self {
            Self::Working(work) | Self::Parked(Processed { work, .. }) => !work.is_live(),
            Self::Settled { origin, at } => !origin.is_live() && at.elapsed() < SETTLED_AGE_MAX,
        }
    }
}

impl Entries {
    fn begin(&mut self, work: Work) -> Arc<Work> {
        let work = Arc::new(work);
        self.by_key.insert(work.key, Entry::Working(Arc::clone(&work)));
        work
    }

    /// Returns whether a message that arrived is a copy of a remembered one. `again` is true if the broker
    /// has delivered the message before.
    fn comes_back(&self, key: u64, again: bool) -> bool {
        let comes_back = |entry: &Entry| entry.is_expected() || (again && entry.may_come_back());
        self.by_key.get(&key).is_some_and(comes_back)
    }

    /// Returns whether this work is in progress and still registered. Another message with the same content
    /// may have replaced it.
    fn is_working(&self, work: &Arc<Work>) -> bool {
        matches!(self.by_key.get(&work.key), Some(Entry::Working(now)) if Arc::ptr_eq(now, work))
    }

    /// Keeps the processed message until its next copy arrives.
    fn park(&mut self, processed: Processed, capacity: usize) {
        if self.is_working(&processed.work) {
            self.done(processed.work.key, Entry::Parked(processed), capacity);
        }
    }

    fn done(&mut self, key: u64, entry: Entry, capacity: usize) {
        let is_parked = matches!(entry, Entry::Parked(..));
        self.by_key.insert(key, entry);
        let kind = if is_parked {
            &mut self.parked
        } else {
            &mut self.settled
        };
        kind.push_back(key);
        while kind.len() > capacity {
            let Some(oldest) = kind.pop_front() else {
                break;
            };
            let is_of_kind = |entry: &Entry| match entry {
                Entry::Working(_) => false,
                Entry::Parked(..) => is_parked,
                Entry::Settled { .. } => !is_parked,
            };
            if self.by_key.get(&oldest).is_some_and(is_of_kind) {
                self.by_key.remove(&oldest);
            }
        }
    }
}
