//! What this worker is doing and has done, so that a message that comes back is not worked on twice.
//!
//! When the connection is lost, the broker hands every unacked message out again, often to the same worker.
//! Three things may have become of it here. It is still being worked on: then the new handle takes the old
//! one's place. Its work is done but what it owes could not be published, because its handle was dead: then
//! it is committed with the new handle. It is settled and only the ack was lost: then it is acked. In none of
//! them is the endpoint asked again.
//!
//! A message can also be expected before it comes: this worker publishes one for an attempt that it has in
//! its hands, and takes it back as the handle to settle that attempt with.
//!
//! A held message that could not be handed out again in time, because the connection was away for longer,
//! comes due instead: it counts as one of the queue that it was held in, and comes back also if RabbitMQ does
//! not mark it as redelivered. (4 does, 3 does not.)
//!
//! The same content published twice is two messages, and looks the same here. So a copy is taken for an
//! earlier one only if RabbitMQ marks it as redelivered and the channel of the earlier one is gone: while
//! that is there, the broker hands none of its messages out again. And what was settled is remembered for a
//! few minutes only.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use broker::{AckHandle, Incoming, Message, Origin, Source};

use crate::settlement::Settlement;

/// One message in work.
#[derive(Debug)]
pub(crate) struct Work {
    key: u64,
    /// The handle of the latest copy that the broker handed out; none yet of a message that is only
    /// expected.
    ack: Mutex<Option<AckHandle>>,
    /// Counts it while it is in work, unless it is an event.
    _in_hand: Option<InHand>,
}

/// Counts a delivery for as long as it is in hand.
#[derive(Debug)]
struct InHand(Arc<AtomicU64>);

impl InHand {
    fn of(source: Source, count: &Arc<AtomicU64>) -> Option<Self> {
        (source != Source::Events).then(|| {
            count.fetch_add(1, Ordering::Relaxed);
            Self(Arc::clone(count))
        })
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What to do with a message that arrived.
pub(crate) enum Arrival {
    /// Work on it.
    New(Arc<Work>),
    /// Its earlier copy is in work; nothing is left to do with this one.
    Attached,
    /// Commit what its earlier copy came to.
    Parked(Arc<Work>, Settlement),
    /// Ack it.
    Settled,
}

pub(crate) struct Recall {
    hasher: RandomState,
    capacity: usize,
    /// How many deliveries are in hand.
    in_hand: Arc<AtomicU64>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<u64, Entry>,
    /// Keys of what is settled, oldest first: what is forgotten next.
    settled: VecDeque<u64>,
    /// Keys of what waits for its message. Apart, because what is settled every second would soon push it
    /// out.
    parked: VecDeque<u64>,
}

enum Entry {
    Working(Arc<Work>),
    Parked(Arc<Work>, Settlement),
    Settled { origin: Origin, at: Instant },
}

/// How long after its ack was handed over a message may come back. RabbitMQ hands out again what it saw no
/// ack for as soon as there is a consumer, so this is the longest outage that is bridged.
const SETTLED_AGE_MAX: Duration = Duration::from_mins(5);

impl Recall {
    /// Remembers at most `capacity` messages that are settled, and as many that wait for the broker, besides
    /// those in work. Counts in `in_hand` how many deliveries, due or held, are in work.
    pub(crate) fn new(capacity: usize, in_hand: Arc<AtomicU64>) -> Self {
        Self {
            hasher: RandomState::new(),
            capacity,
            in_hand,
            entries: Mutex::default(),
        }
    }

    /// The work on a message that is about to be published and will be handed out to this worker.
    pub(crate) fn expect(&self, source: Source, message: &Message) -> Arc<Work> {
        let key = keyed(source, self.content(message));
        self.lock().begin(key, None, InHand::of(source, &self.in_hand))
    }

    /// What a message is, from the queue that it was in when this worker published it or saw it first. One
    /// that `was_held` comes back from there in another queue.
    pub(crate) fn arrive(&self, source: Source, incoming: &Incoming, was_held: bool) -> Arrival {
        let key = keyed(source, self.content(&incoming.message));
        let mut entries = self.lock();
        if entries.comes_back(key, incoming.redelivered || was_held) {
            match entries.by_key.remove(&key) {
                Some(Entry::Working(work)) => {
                    *work.lock() = Some(incoming.ack.clone());
                    entries.by_key.insert(key, Entry::Working(work));
                    return Arrival::Attached;
                }
                Some(Entry::Parked(work, settlement)) => {
                    *work.lock() = Some(incoming.ack.clone());
                    entries.by_key.insert(key, Entry::Working(Arc::clone(&work)));
                    return Arrival::Parked(work, settlement);
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
        let in_hand = InHand::of(source, &self.in_hand);
        Arrival::New(entries.begin(key, Some(incoming.ack.clone()), in_hand))
    }

    /// Everything the message caused is confirmed: acks the latest copy of it, or the first one once it has
    /// come.
    pub(crate) fn settled(&self, work: &Arc<Work>) {
        let mut entries = self.lock();
        let Some(ack) = work.lock().clone() else {
            let nothing = Settlement::default();
            return entries.park(work, nothing, self.capacity);
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

    /// The message has to wait until the broker hands it out again, because its handle is dead. Gives the
    /// settlement back when that has happened meanwhile.
    pub(crate) fn park(&self, work: &Arc<Work>, settlement: Settlement) -> Result<(), Settlement> {
        let mut entries = self.lock();
        if work.is_live() {
            return Err(settlement);
        }
        entries.park(work, settlement, self.capacity);
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

/// The key of this content from this queue.
fn keyed(source: Source, content: u64) -> u64 {
    content.rotate_left(match source {
        Source::Events => 0,
        Source::Due => 1,
        Source::Held => 2,
    })
}

impl Work {
    /// Whether an ack would reach the broker.
    pub(crate) fn is_live(&self) -> bool {
        self.lock().as_ref().is_some_and(AckHandle::is_live)
    }

    fn lock(&self) -> MutexGuard<'_, Option<AckHandle>> {
        self.ack.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether no copy of it has come yet.
    fn is_expected(&self) -> bool {
        match self {
            Self::Working(work) | Self::Parked(work, _) => work.lock().is_none(),
            Self::Settled { .. } => false,
        }
    }

    /// Whether the broker may hand this very message out again.
    fn may_come_back(&self) -> bool {
        match self {
            Self::Working(work) | Self::Parked(work, _) => !work.is_live(),
            Self::Settled { origin, at } => !origin.is_live() && at.elapsed() < SETTLED_AGE_MAX,
        }
    }
}

impl Entries {
    fn begin(&mut self, key: u64, ack: Option<AckHandle>, in_hand: Option<InHand>) -> Arc<Work> {
        let work = Arc::new(Work {
            key,
            ack: Mutex::new(ack),
            _in_hand: in_hand,
        });
        self.by_key.insert(key, Entry::Working(Arc::clone(&work)));
        work
    }

    /// Whether a message that has come is one that is known. `again` says that the broker has handed it out
    /// before.
    fn comes_back(&self, key: u64, again: bool) -> bool {
        let comes_back = |entry: &Entry| entry.is_expected() || (again && entry.may_come_back());
        self.by_key.get(&key).is_some_and(comes_back)
    }

    /// False when another message of the same content has taken its place.
    fn is_working(&self, work: &Arc<Work>) -> bool {
        matches!(self.by_key.get(&work.key), Some(Entry::Working(now)) if Arc::ptr_eq(now, work))
    }

    /// Keeps what the work came to until a copy of its message comes.
    fn park(&mut self, work: &Arc<Work>, settlement: Settlement, capacity: usize) {
        if self.is_working(work) {
            self.done(work.key, Entry::Parked(Arc::clone(work), settlement), capacity);
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
