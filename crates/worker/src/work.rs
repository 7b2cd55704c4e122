//! A message from its arrival to its ack: [`Work`] in progress, then [`Processed`], then [`Settled`].

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use broker::{AckHandle, Outgoing, Source, Topology, WINDOW_MAX};
use webhook::{Delivery, Event, journal::Record};

use crate::registry::Registered;

/// A message that is being processed.
#[derive(Debug)]
pub(crate) struct Work {
    /// The key under which `recall` remembers the message.
    pub(crate) key: u64,
    /// The ack handle of the latest copy that the broker delivered; `None` while the message is only
    /// expected.
    ack: Mutex<Option<AckHandle>>,
    /// Counts the message as in hand while it is being processed; `None` for an event message.
    _in_hand: Option<InHand>,
}

/// Counts a delivery as in hand until it is dropped.
#[derive(Debug)]
struct InHand(Arc<AtomicU64>);

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Work {
    /// Begins the work on a message that came from `source`. Unless it is an event, counts it in `in_hand`.
    pub(crate) fn new(key: u64, ack: Option<AckHandle>, source: Source, in_hand: &Arc<AtomicU64>) -> Self {
        let count = || {
            in_hand.fetch_add(1, Ordering::Relaxed);
            InHand(Arc::clone(in_hand))
        };
        Self {
            key,
            ack: Mutex::new(ack),
            _in_hand: (source != Source::Events).then(count),
        }
    }

    /// Returns whether an ack would reach the broker.
    pub(crate) fn is_live(&self) -> bool {
        self.handle().as_ref().is_some_and(AckHandle::is_live)
    }

    /// Locks the ack handle.
    pub(crate) fn handle(&self) -> MutexGuard<'_, Option<AckHandle>> {
        self.ack.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The effects of one step of a delivery: the message to publish if the delivery continues, and the records
/// to write.
#[derive(Debug)]
pub(crate) struct Effects {
    publish: Option<Outgoing>,
    record: Option<Record>,
    /// The records of what happened before this step: a request that the endpoint rejected because of its
    /// signature, or the event of a ping.
    before: Vec<Record>,
}

impl Effects {
    pub(crate) fn new(publish: Option<Outgoing>, record: Option<Record>) -> Self {
        Self {
            publish,
            record,
            before: Vec::new(),
        }
    }

    /// Also records what happened before this step.
    pub(crate) fn after(mut self, before: Option<Record>) -> Self {
        self.before.extend(before);
        self
    }
}

impl From<Outgoing> for Effects {
    fn from(publish: Outgoing) -> Self {
        Self::new(Some(publish), None)
    }
}

/// A message that has been processed: the publishes that must be confirmed before it may be acknowledged,
/// called its outstanding publishes, and the records to write after that.
#[derive(Debug)]
pub(crate) struct Processed {
    pub(crate) work: Arc<Work>,
    publishes: Vec<Outgoing>,
    apart: Option<Apart>,
    records: Vec<Record>,
    /// How many of its commits have failed; 0 again when a parked message is redelivered.
    pub(crate) failures: u32,
}

/// A message whose publishes are all confirmed. It is to be recorded and acknowledged.
pub(crate) struct Settled {
    pub(crate) work: Arc<Work>,
    pub(crate) records: Vec<Record>,
}

/// First deliveries of an event that get separate messages. There may be thousands of them, so the messages
/// are created one window at a time.
#[derive(Debug)]
struct Apart {
    event: Arc<Event>,
    endpoints: Vec<Arc<Registered>>,
}

impl Processed {
    /// Creates the result of this work, without outstanding publishes and records so far.
    pub(crate) fn new(work: Arc<Work>) -> Self {
        Self {
            work,
            publishes: Vec::new(),
            apart: None,
            records: Vec::new(),
            failures: 0,
        }
    }

    /// Adds the outstanding publish and the records of a step.
    pub(crate) fn add(&mut self, effects: Effects) {
        self.publishes.extend(effects.publish);
        self.records.extend(effects.before);
        self.records.extend(effects.record);
    }

    /// Adds an outstanding publish.
    pub(crate) fn add_publish(&mut self, publish: Outgoing) {
        self.publishes.push(publish);
    }

    /// Adds an outstanding publish for the first delivery to each of these endpoints.
    pub(crate) fn add_apart(&mut self, event: Arc<Event>, endpoints: Vec<Arc<Registered>>) {
        self.apart = (!endpoints.is_empty()).then_some(Apart { event, endpoints });
    }

    /// Adds records.
    pub(crate) fn add_records(&mut self, records: Vec<Record>) {
        self.records.extend(records);
    }

    /// Discards everything that was added before, and adds this outstanding publish.
    pub(crate) fn replace(&mut self, publish: Outgoing) {
        *self = Self::new(Arc::clone(&self.work));
        self.add_publish(publish);
    }

    /// Returns the number of outstanding publishes.
    pub(crate) fn outstanding(&self) -> usize {
        self.publishes.len() + self.apart.as_ref().map_or(0, |apart| apart.endpoints.len())
    }

    /// Removes and returns at most one window of outstanding publishes.
    pub(crate) fn take_window(&mut self, topology: &Topology) -> Vec<Outgoing> {
        let mut window: Vec<_> = self
            .publishes
            .drain(..self.publishes.len().min(WINDOW_MAX))
            .collect();
        if let Some(Apart { event, endpoints }) = &mut self.apart {
            let rest = endpoints.len().saturating_sub(WINDOW_MAX - window.len());
            window.extend(endpoints.drain(rest..).map(|registered| {
                let first = Delivery::first(Arc::clone(event), registered.endpoint.id.clone());
                Outgoing::due(topology, &first)
            }));
        }
        window
    }

    /// Returns the message as settled, once it has no outstanding publishes.
    pub(crate) fn into_settled(self) -> Settled {
        Settled {
            work: self.work,
            records: self.records,
        }
    }
}
