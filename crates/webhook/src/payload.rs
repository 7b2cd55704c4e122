//! The JSON that customers were promised for each event: a schema, an example, and a sample about any lead.
//!
//! Workers deliver events as they were published and only check the envelope ([`Envelope`](crate::Envelope)).
//! This module describes what the lead pipeline adheres to, and what a receiver can be built and tested
//! against. The public contract defines `data` of `lead.created`, `lead.completed` and `magnet.viewed`
//! ("Event-Specific Data Examples"); the other types follow their pattern.

mod data;
mod schema;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use crate::{EndpointId, EventId, EventType, LeadId, OrganizationId, PING, ProjectId};

pub use schema::{ping_schema, schema};

/// The lead that an event is about, its owner, and the time of the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The field `organization_id`, not empty.
    pub organization_id: OrganizationId,
    /// The field `project_id`, not empty.
    pub project_id: ProjectId,
    /// The field `lead_id`, not empty.
    pub lead_id: LeadId,
    /// The field `timestamp`, in Unix milliseconds.
    pub timestamp_ms: u64,
}

/// The payload, with the fields in the order of the contract ("Payload Structure").
#[derive(Serialize)]
struct Payload<'a> {
    event: &'a str,
    timestamp: u64,
    organization_id: &'a OrganizationId,
    project_id: &'a ProjectId,
    lead_id: &'a LeadId,
    data: &'a RawValue,
}

/// The lead id of a ping, and its project id if the endpoint receives the events of all projects: a ping has
/// neither.
pub(crate) const NONE: &str = "ping";

impl About {
    /// Returns the values of the contract's examples.
    ///
    /// All examples of a type have the same timestamp. The timestamps of the types are in the order in which
    /// the types occur for a lead.
    fn example(event_type: EventType) -> Self {
        let timestamp_ms = match event_type {
            EventType::LeadCreated => 1_703_123_456_789,
            EventType::ResearchStarted => 1_703_123_457_789,
            EventType::ResearchCompleted | EventType::ResearchFailed => 1_703_123_556_789,
            EventType::MagnetGenerated => 1_703_123_656_789,
            EventType::LeadCompleted | EventType::LeadFailed => 1_703_123_756_789,
            EventType::MagnetViewed => 1_703_124_056_789,
        };
        Self {
            organization_id: OrganizationId::new("org_123abc"),
            project_id: ProjectId::new("proj_456def"),
            lead_id: LeadId::new("lead_789ghi"),
            timestamp_ms,
        }
    }

    /// Returns the bytes of an event of this type with this `data`, a JSON object.
    pub fn event(&self, event_type: EventType, data: &RawValue) -> Bytes {
        self.payload(event_type.as_str(), data)
    }

    /// Returns the bytes of a ping of this endpoint, with all fields of an event.
    pub(crate) fn ping(&self, endpoint_id: &EndpointId) -> Bytes {
        self.payload(PING, &data::of_ping(endpoint_id, self.timestamp_ms))
    }

    fn payload(&self, event: &str, data: &RawValue) -> Bytes {
        let payload = Payload {
            event,
            timestamp: self.timestamp_ms,
            organization_id: &self.organization_id,
            project_id: &self.project_id,
            lead_id: &self.lead_id,
            data,
        };
        let bytes =
            serde_json::to_vec(&payload).expect("every key is a string, and no value fails to serialize");
        bytes.into()
    }
}

/// Returns the bytes of a realistic event of this type, as the lead pipeline would publish it.
///
/// Its `data` is that of the [`example`], with the lead and the time of `about`.
pub fn sample(event_type: EventType, about: &About) -> Bytes {
    about.event(event_type, &data::of(event_type, about))
}

/// Returns the example of this type that the contract shows to customers.
pub fn example(event_type: EventType) -> Value {
    let sample = sample(event_type, &About::example(event_type));
    serde_json::from_slice(&sample).expect("a sample is JSON")
}

/// Returns the id of a ping, made from 16 random bytes: `ping_` and 32 hexadecimal digits.
pub(crate) fn ping_id(random: [u8; 16]) -> EventId {
    EventId::new(format!("ping_{}", hex::encode(random)))
}

#[cfg(test)]
mod tests;
