//! What customers were promised of each event's JSON: a schema, an example, and a sample about any lead.
//!
//! Workers deliver what was published and check the envelope alone ([`Envelope`](crate::Envelope)); this is
//! what the lead pipeline keeps to, and what a receiver can be built and tested against. The types `data` of
//! `lead.created`, `lead.completed` and `magnet.viewed` are the public contract's ("Event-Specific Data
//! Examples"), the others follow their pattern.

mod data;
mod schema;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use crate::{EndpointId, EventId, EventType, LeadId, OrganizationId, PING, ProjectId};

pub use schema::{ping_schema, schema};

/// Whose event it is, about which lead, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Field `organization_id`, not empty.
    pub organization_id: OrganizationId,
    /// Field `project_id`, not empty.
    pub project_id: ProjectId,
    /// Field `lead_id`, not empty.
    pub lead_id: LeadId,
    /// Field `timestamp`, in Unix milliseconds.
    pub timestamp_ms: u64,
}

/// The payload, in the contract's order of fields ("Payload Structure").
#[derive(Serialize)]
struct Payload<'a> {
    event: &'a str,
    timestamp: u64,
    organization_id: &'a OrganizationId,
    project_id: &'a ProjectId,
    lead_id: &'a LeadId,
    data: &'a RawValue,
}

/// What a ping says of a lead and, at an endpoint of all projects, of a project: there is none.
pub(crate) const NONE: &str = "ping";

impl About {
    /// As in the contract's examples. Those of one type have one timestamp, the types in the order of a
    /// lead's life.
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

    /// The bytes of an event of this type with this `data`, a JSON object.
    pub fn event(&self, event_type: EventType, data: &RawValue) -> Bytes {
        self.payload(event_type.as_str(), data)
    }

    /// The bytes of a ping of this endpoint: all fields of an event.
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
        let bytes = serde_json::to_vec(&payload).expect("every key is a string and no value can fail");
        bytes.into()
    }
}

/// The bytes of a realistic event of this type, as the lead pipeline would publish it: its `data` is that of
/// the [`example`], about this lead at this time.
pub fn sample(event_type: EventType, about: &About) -> Bytes {
    about.event(event_type, &data::of(event_type, about))
}

/// An event of this type as customers see it in the contract.
pub fn example(event_type: EventType) -> Value {
    let sample = sample(event_type, &About::example(event_type));
    serde_json::from_slice(&sample).expect("a sample is JSON")
}

/// The id of a ping, from 16 random bytes: `ping_` and 32 hexadecimal digits.
pub(crate) fn ping_id(random: [u8; 16]) -> EventId {
    EventId::new(format!("ping_{}", hex::encode(random)))
}

#[cfg(test)]
mod tests;
