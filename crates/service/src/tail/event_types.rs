//! The types of events, because records of attempts do not contain them.

use std::collections::{HashMap, VecDeque};

use webhook::{
    EventId, EventKind, OrganizationId,
    journal::{DeliveryRef, Record},
};

/// The maximum number of events whose types are remembered.
const EVENTS_MAX: usize = 50_000;

type Key = (OrganizationId, EventId);

/// The types of the events that were received last.
#[derive(Default)]
pub(super) struct EventTypes {
    by_event: HashMap<Key, EventKind>,
    /// The keys of `by_event`, oldest first.
    oldest: VecDeque<Key>,
}

impl EventTypes {
    /// Returns the type of the event that a record is about, and remembers it. `None` if the event was received
    /// too early to be known, or if the record is about no event.
    pub(super) fn of(&mut self, record: &Record) -> Option<EventKind> {
        match record {
            Record::Event(record) => {
                let event = &record.event;
                let key = (event.organization_id.clone(), event.id.clone());
                self.remember(key, event.event_type);
                Some(event.event_type)
            }
            Record::Attempt(record) => self.known(&record.delivery),
            Record::Step(record) => self.known(&record.delivery),
            Record::Gap(_) => None,
        }
    }

    fn known(&self, delivery: &DeliveryRef) -> Option<EventKind> {
        let key = (delivery.organization_id.clone(), delivery.event_id.clone());
        self.by_event.get(&key).copied()
    }

    fn remember(&mut self, key: Key, event_type: EventKind) {
        if self.by_event.insert(key.clone(), event_type).is_none() {
            self.oldest.push_back(key);
        }
        if self.oldest.len() > EVENTS_MAX
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.by_event.remove(&oldest);
        }
    }
}
