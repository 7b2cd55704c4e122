//! Which records a reader gets.

use webhook::{
    EndpointId, EventKind, OrganizationId,
    journal::{DeliveryRef, EventRecord, Record, Then, ThenKind, Verdict},
};

/// The criteria for records. A criterion that is `None` accepts every record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only records of this organization.
    pub organization: Option<OrganizationId>,
    /// Only events of this type, and what is known to be about them.
    pub event_type: Option<EventKind>,
    /// Only records of this endpoint, and events that matched it.
    pub endpoint: Option<EndpointId>,
    /// Only attempts and decisions with this outcome.
    pub outcome: Option<ThenKind>,
}

impl Filter {
    /// Returns whether the filter accepts a record. `event_type` is the type of its event, if it is known. A gap
    /// is always accepted, because the lost records may be of any kind.
    pub(super) fn accepts(&self, record: &Record, event_type: Option<EventKind>) -> bool {
        match record {
            Record::Event(record) => self.accepts_event(record),
            Record::Attempt(record) => self.accepts_delivery(&record.delivery, event_type, record.then),
            Record::Step(record) => self.accepts_delivery(&record.delivery, event_type, record.then),
            Record::Gap(_) => true,
        }
    }

    fn accepts_event(&self, record: &EventRecord) -> bool {
        let event = &record.event;
        self.outcome.is_none()
            && is_wanted(self.organization.as_ref(), &event.organization_id)
            && self.event_type.is_none_or(|wanted| wanted == event.event_type)
            && self
                .endpoint
                .as_ref()
                .is_none_or(|wanted| record.considered.get(wanted) == Some(Verdict::Matched))
    }

    fn accepts_delivery(&self, delivery: &DeliveryRef, event_type: Option<EventKind>, then: Then) -> bool {
        is_wanted(self.organization.as_ref(), &delivery.organization_id)
            && is_wanted(self.endpoint.as_ref(), &delivery.endpoint_id)
            && self.event_type.is_none_or(|wanted| event_type == Some(wanted))
            && self.outcome.is_none_or(|wanted| wanted == then.kind())
    }
}

fn is_wanted<T: PartialEq>(wanted: Option<&T>, found: &T) -> bool {
    wanted.is_none_or(|wanted| wanted == found)
}
