//! The metrics that every delivery changes.

use std::{collections::HashMap, time::Duration};

use metrics::{Counter, Histogram};
use webhook::{EventKind, EventType, Outcome};

/// Looked up once: that costs several times what the change does.
pub(crate) struct Meters {
    delivered: Counter,
    duration: Histogram,
    events: HashMap<EventKind, Counter>,
}

impl Meters {
    pub(crate) fn new() -> Self {
        let events = EventType::ALL.into_iter().map(|kind| {
            let counter = metrics::counter!("magnetite_events_total", "type" => kind.as_str());
            (EventKind::Of(kind), counter)
        });
        Self {
            delivered: metrics::counter!("magnetite_attempts_total", "outcome" => Outcome::Delivered.as_str()),
            duration: metrics::histogram!("magnetite_attempt_duration_seconds"),
            events: events.collect(),
        }
    }

    /// An event was fanned out.
    pub(crate) fn event(&self, kind: EventKind) {
        if let Some(counter) = self.events.get(&kind) {
            counter.increment(1);
        }
    }

    /// A request was charged to its endpoint.
    pub(crate) fn attempted(&self, decided: Outcome, took: Duration) {
        self.duration.record(took);
        match decided {
            Outcome::Delivered => self.delivered.increment(1),
            _ => metrics::counter!("magnetite_attempts_total", "outcome" => decided.as_str()).increment(1),
        }
    }
}
