//! What a message's work came to: what it owes before it may be acked.

use std::sync::Arc;

use broker::{Outgoing, Topology, WINDOW_MAX};
use webhook::{Delivery, Event};

use crate::registry::Registered;

/// What has to be confirmed before a message may be acked.
#[derive(Debug, Default)]
pub(crate) struct Settlement {
    publishes: Vec<Outgoing>,
    apart: Option<Apart>,
}

/// First deliveries of an event that become messages of their own. There may be thousands of them; they are made a window at
/// a time.
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

    /// How many messages have to be published.
    pub(crate) fn owed(&self) -> usize {
        self.publishes.len() + self.apart.as_ref().map_or(0, |apart| apart.endpoints.len())
    }

    /// Owes this message again: it was taken out and could not be published.
    pub(crate) fn take_back(&mut self, publish: Outgoing) {
        self.publishes.push(publish);
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

impl From<Outgoing> for Settlement {
    fn from(publish: Outgoing) -> Self {
        Self {
            publishes: vec![publish],
            apart: None,
        }
    }
}

impl FromIterator<Outgoing> for Settlement {
    fn from_iter<I: IntoIterator<Item = Outgoing>>(publishes: I) -> Self {
        Self {
            publishes: publishes.into_iter().collect(),
            apart: None,
        }
    }
}
