//! The result of processing a message: what to publish before the ack, and what to record.

use std::sync::Arc;

use broker::{Outgoing, Topology, WINDOW_MAX};
use webhook::{Delivery, Event, journal::Record};

use crate::registry::Registered;

/// The result of one step of a delivery: the message to publish if the delivery continues, and the records to
/// write.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    publish: Option<Outgoing>,
    record: Option<Record>,
    /// The records of what happened before this step: a request that the endpoint rejected because of its
    /// signature, or the event of a ping.
    before: Vec<Record>,
}

impl Turn {
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

/// The publishes that must be confirmed before a message may be acknowledged, called its outstanding
/// publishes, and the records to write after that.
#[derive(Debug, Default)]
pub(crate) struct Settlement {
    publishes: Vec<Outgoing>,
    records: Vec<Record>,
    apart: Option<Apart>,
}

/// First deliveries of an event that get separate messages. There may be thousands of them, so the messages
/// are created one window at a time.
#[derive(Debug)]
struct Apart {
    event: Arc<Event>,
    endpoints: Vec<Arc<Registered>>,
}

impl Settlement {
    /// Adds an outstanding publish for the first delivery to each of these endpoints.
    pub(crate) fn and_apart(self, event: Arc<Event>, endpoints: Vec<Arc<Registered>>) -> Self {
        let apart = (!endpoints.is_empty()).then_some(Apart { event, endpoints });
        Self { apart, ..self }
    }

    /// Adds these records.
    pub(crate) fn and_records(mut self, records: Vec<Record>) -> Self {
        self.records.extend(records);
        self
    }

    /// Adds this message to the outstanding publishes.
    pub(crate) fn owe(&mut self, publish: Outgoing) {
        self.publishes.push(publish);
    }

    /// Adds the outstanding publish and the records of this step.
    pub(crate) fn add(&mut self, turn: Turn) {
        self.publishes.extend(turn.publish);
        self.records.extend(turn.before);
        self.records.extend(turn.record);
    }

    /// Returns the records to write, once there are no outstanding publishes.
    pub(crate) fn into_records(self) -> Vec<Record> {
        self.records
    }

    /// Returns the number of outstanding publishes.
    pub(crate) fn owed(&self) -> usize {
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
}

impl From<Outgoing> for Turn {
    fn from(publish: Outgoing) -> Self {
        Self::new(Some(publish), None)
    }
}

impl From<Outgoing> for Settlement {
    fn from(publish: Outgoing) -> Self {
        Turn::from(publish).into()
    }
}

impl From<Turn> for Settlement {
    fn from(turn: Turn) -> Self {
        let mut settlement = Self::default();
        settlement.add(turn);
        settlement
    }
}
