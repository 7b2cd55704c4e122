//! Events to publish.

use std::fmt;

use bytes::Bytes;
use serde_json::value::to_raw_value;
use webhook::{About, EventId, EventType};

/// A JSON object with any content.
pub type Object = serde_json::Map<String, serde_json::Value>;

/// An event to publish: its JSON, whose bytes are signed and delivered unchanged, and its id.
///
/// The id is fixed before the event is sent, so that every repeat publishes the same event. By default, it is
/// derived from the JSON. `Debug` does not show the JSON.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    json: Bytes,
    id: Option<EventId>,
    traceparent: Option<String>,
}

impl Event {
    /// Creates an event about a lead. `GET /v1/event-types` has the schema of `data` for each type.
    ///
    /// ```
    /// use client::{About, Event, EventType, LeadId, Object, OrganizationId, ProjectId};
    ///
    /// let about = About {
    ///     organization_id: OrganizationId::new("org_123abc"),
    ///     project_id: ProjectId::new("proj_456def"),
    ///     lead_id: LeadId::new("lead_789ghi"),
    ///     timestamp_ms: 1_703_123_456_789,
    /// };
    /// let event = Event::new(EventType::ResearchStarted, &about, &Object::new());
    /// assert_eq!(event.id(), event.clone().id());
    /// ```
    pub fn new(event_type: EventType, about: &About, data: &Object) -> Self {
        let data = to_raw_value(data).expect("an object has text keys");
        Self::from_json(about.event(event_type, &data))
    }

    /// Creates an event from its JSON, which is published as it is. The API checks it.
    pub fn from_json(json: impl Into<Bytes>) -> Self {
        Self {
            json: json.into(),
            id: None,
            traceparent: None,
        }
    }

    /// Sets the id: 1 to 128 characters of `A-Z a-z 0-9 _ -`. Two different events must not share an id.
    #[must_use]
    pub fn with_id(mut self, id: EventId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the W3C trace context that the deliveries continue, at most 256 bytes. The API ignores a longer
    /// one.
    #[must_use]
    pub fn with_traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }

    /// Returns the id with which the event is published, and which receivers get as `webhook-id`: the given
    /// one, or else `evt_` and 32 hexadecimal digits that are derived from the JSON.
    pub fn id(&self) -> EventId {
        let derived = || EventId::from_body(&self.json);
        self.id.clone().unwrap_or_else(derived)
    }

    /// Returns the JSON, as it is published.
    pub const fn json(&self) -> &Bytes {
        &self.json
    }

    pub(crate) fn given_id(&self) -> Option<&EventId> {
        self.id.as_ref()
    }

    pub(crate) fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.id())
            .field("bytes", &self.json.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use webhook::{Envelope, LeadId, OrganizationId, ProjectId};

    use super::*;

    fn event(data: &str) -> Event {
        let about = About {
            organization_id: OrganizationId::new("org_1"),
            project_id: ProjectId::new("p"),
            lead_id: LeadId::new("lead_1"),
            timestamp_ms: 1_703_123_456_789,
        };
        let data: Object = serde_json::from_str(data).unwrap();
        Event::new(EventType::LeadCompleted, &about, &data)
    }

    #[test]
    fn an_event_has_the_form_that_the_api_accepts() {
        let event = event(r#"{"score":7}"#);
        assert!(Envelope::parse(event.json()).is_ok(), "{event:?}");
        let json = r#"{"event":"lead.completed","timestamp":1703123456789,"organization_id":"org_1","project_id":"p","lead_id":"lead_1","data":{"score":7}}"#;
        assert_eq!(event, Event::from_json(json));
    }

    #[test]
    fn the_id_is_the_given_one_or_that_of_the_json() {
        let event = event("{}");
        assert_eq!(event.id(), EventId::from_body(event.json()));
        assert_ne!(event.id(), Event::from_json("{}").id());
        let given = event.with_id(EventId::new("lead_1-completed"));
        assert_eq!(given.id().as_str(), "lead_1-completed");
    }

    #[test]
    fn the_json_is_not_shown() {
        let event = event(r#"{"password":"hunter2"}"#);
        assert!(!format!("{event:?}").contains("hunter2"));
    }
}
