//! What a message's work came to: what it owes before it may be acked.

use std::sync::Arc;

use broker::{Outgoing, Topology, WINDOW_MAX};
use webhook::{Delivery, Event, journal::Record};

use crate::registry::Registered;

/// What one turn of a delivery came to: what has to be published, if it goes on, and what there is to record.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    publish: Option<Outgoing>,
    record: Option<Record>,
    /// What happened before: a request that the endpoint refused because of its signature, a ping's event.
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

    /// Also records what happened before.
    pub(crate) fn after(mut self, before: Option<Record>) -> Self {
        self.before.extend(before);
        self
    }
}

/// What has to be confirmed before a message may be acked, and what is recorded when it is.
#[derive(Debug, Default)]
pub(crate) struct Settlement {
    publishes: Vec<Outgoing>,
    records: Vec<Record>,
    apart: Option<Apart>,
}

/// First deliveries of an event that become messages of their own. There may be thousands of them; they are
/// made a window at a time.
#[derive(Debug)]
struct Apart {
    event: Arc<Event>,
    endpoints: Vec<Arc<Registered>>,
}

impl Settlement {
    /// Also owes a message for the first delivery to each of these endpoints.
    pub(crate) fn and_apart(self, event: Arc<Event>, endpoints: Vec<Arc<Registered>>) -> Self {
        let apart = (!endpoints.is_empty()).then_some(Apart { event, endpoints });
        Self { apart, ..self }
    }

    /// Also records these.
    pub(crate) fn and_records(mut self, records: Vec<Record>) -> Self {
        self.records.extend(records);
        self
    }

    /// Also owes this message.
    pub(crate) fn owe(&mut self, publish: Outgoing) {
        self.publishes.push(publish);
    }

    /// Also owes what this turn came to, and records it.
    pub(crate) fn add(&mut self, turn: Turn) {
        self.publishes.extend(turn.publish);
        self.records.extend(turn.before);
        self.records.extend(turn.record);
    }

    /// What is to be recorded, once nothing is owed any more.
    pub(crate) fn into_records(self) -> Vec<Record> {
        self.records
    }

    /// How many messages have to be published.
    pub(crate) fn owed(&self) -> usize {
        self.publishes.len() + self.apart.as_ref().map_or(0, |apart| apart.endpoints.len())
    }

    /// Takes out at most one window of what is owed.
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
