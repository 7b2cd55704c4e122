//! The objects of an organization: an endpoint, an event whose delivery to it is dead, and an API key.

use std::sync::Arc;

use webhook::{
    DeadReason, EndpointId, Event, OrganizationId, Trigger,
    journal::{Books, DeliveryRef, EventRecord, Record, StepRecord, Then},
};

use super::bed::Bed;

/// The ids of these objects.
pub(super) struct Things {
    pub(super) endpoint: String,
    pub(super) event: String,
    pub(super) delivery: String,
    pub(super) api_key: String,
}

/// When all of this happened, in Unix milliseconds.
pub(super) const AT_MS: u64 = 1_703_123_456_789;

impl Things {
    /// Returns ids of the same form that belong to no object.
    pub(super) fn missing() -> Self {
        let zeros = "0".repeat(32);
        Self {
            endpoint: format!("ep_{zeros}"),
            event: format!("evt_{zeros}"),
            delivery: format!("dlv_{zeros}"),
            api_key: format!("key_{zeros}"),
        }
    }

    /// Returns all ids.
    pub(super) fn ids(&self) -> [&str; 4] {
        [&self.endpoint, &self.event, &self.delivery, &self.api_key]
    }
}

impl Bed {
    pub(super) async fn things(&self, organization: &str) -> Things {
        let endpoint = self.endpoint(organization).await["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let body = format!(
            r#"{{"event":"lead.created","timestamp":{AT_MS},"organization_id":"{organization}","project_id":"p","lead_id":"{endpoint}","data":{{}}}}"#
        );
        let event = Arc::new(Event::from_message(None, None, body.into()).unwrap());
        let delivery = DeliveryRef {
            organization_id: OrganizationId::new(organization),
            event_id: event.id.clone(),
            endpoint_id: EndpointId::new(endpoint.as_str()),
            run: 0,
            trigger: Trigger::Event,
        };
        let things = Things {
            endpoint,
            event: event.id.to_string(),
            delivery: delivery.id().to_string(),
            api_key: self
                .key_row(organization, "events:write", None)
                .await
                .1
                .id
                .to_string(),
        };
        let mut books = Books::default();
        books.add(Record::Event(EventRecord {
            considered: format!("{}:matched", things.endpoint).parse().unwrap(),
            event,
            received_ms: AT_MS,
            seen: None,
        }));
        books.add(Record::Step(StepRecord {
            delivery,
            at_ms: AT_MS,
            attempts: 0,
            last_status: None,
            last_error: String::new(),
            then: Then::Dead {
                reason: DeadReason::EndpointDisabled,
            },
        }));
        self.context.store.record(&books, &[]).await.unwrap();
        things
    }
}
