//! Events with typed data, and their encoding as JSON.

use std::net::IpAddr;

use bytes::Bytes;
use serde::{Serialize, Serializer, ser::SerializeMap};
use webhook::{EventId, EventType, LeadId, OrganizationId, ProjectId};

/// A JSON object with any content.
pub type Object = serde_json::Map<String, serde_json::Value>;

/// The lead that events are about, and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    /// The field `lead_id`, not empty.
    pub id: LeadId,
    /// The field `project_id`, not empty.
    pub project_id: ProjectId,
    /// The field `organization_id`, not empty.
    pub organization_id: OrganizationId,
}

/// Something that happened to a lead.
///
/// The id is part of the value, so publishing the same value again publishes the same event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The AMQP `message_id`. Receivers get it as `webhook-id`.
    pub id: EventId,
    /// The lead that the event is about.
    pub lead: Lead,
    /// When the event happened, in Unix milliseconds. Use [`Timestamps`](crate::Timestamps) to obtain it.
    pub timestamp_ms: u64,
    /// The type and the data of the event.
    pub data: Data,
    /// The W3C trace context that deliveries continue, at most 256 bytes; `None` for no trace. A longer one
    /// is ignored.
    pub traceparent: Option<String>,
}

/// The type of an event, with its data.
///
/// In JSON, `data` also contains the lead's id, the event's timestamp under a name that depends on the type
/// (`created_at`, ...), and the lead's `status`: `processing` until it is `completed` or `failed`.
/// `magnet.viewed` has no `status`.
///
/// ```json
/// {
///   "lead_id": "lead_789ghi",
///   "input_data": {"fullName": "John Smith"},
///   "status": "processing",
///   "created_at": 1703123456789
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// `lead.created`: a generation request was received and queued.
    LeadCreated {
        /// The known data about the lead.
        input_data: Object,
    },
    /// `research.started`: the research agent started.
    ResearchStarted,
    /// `research.completed`: the research is done, and the generation is about to begin.
    ResearchCompleted {
        /// The results of the research.
        research_results: Object,
    },
    /// `research.failed`: the research agent encountered an error. The lead's status remains `processing`,
    /// because the pipeline may retry the research.
    ResearchFailed {
        /// The error.
        error: Failure,
    },
    /// `magnet.generated`: the content was generated.
    MagnetGenerated {
        /// Data about the generated content, such as `contentLength`.
        generated_content: Object,
    },
    /// `lead.completed`: the magnet is ready to be viewed.
    LeadCompleted {
        /// The results of the research.
        research_results: Object,
        /// Data about the generated content, such as `contentLength`.
        generated_content: Object,
    },
    /// `lead.failed`: the generation failed permanently.
    LeadFailed {
        /// The final error.
        error: Failure,
    },
    /// `magnet.viewed`: a recipient opened the magnet.
    MagnetViewed {
        /// The recipient's IP address.
        viewer_ip: IpAddr,
        /// The recipient's `User-Agent` header.
        user_agent: String,
    },
}

/// The reason of a failure, as customers see it: `{"code":"api_limit","message":"..."}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// A stable identifier for programs.
    pub code: String,
    /// A description for people.
    pub message: String,
}

/// An event that is already encoded as JSON. Exactly these bytes are signed and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serialized {
    /// The event's JSON.
    pub body: Bytes,
    /// The event's id: 1 to 128 characters of `[A-Za-z0-9_-]`. With `None`, the id is derived from the body.
    pub message_id: Option<String>,
    /// The W3C trace context that deliveries continue, at most 256 bytes; `None` for no trace. A longer one
    /// is ignored.
    pub traceparent: Option<String>,
}

impl Lead {
    /// Creates a lead from the ids of its organization, its project and itself.
    pub fn new(
        organization_id: impl Into<Box<str>>,
        project_id: impl Into<Box<str>>,
        lead_id: impl Into<Box<str>>,
    ) -> Self {
        Self {
            id: LeadId::new(lead_id),
            project_id: ProjectId::new(project_id),
            organization_id: OrganizationId::new(organization_id),
        }
    }
}

impl Event {
    /// Creates an event with a new random id: `evt_` and 32 hexadecimal digits.
    pub fn new(lead: Lead, timestamp_ms: u64, data: Data) -> Self {
        let random: [u8; 16] = rand::random();
        Self {
            id: EventId::new(format!("evt_{}", hex::encode(random))),
            lead,
            timestamp_ms,
            data,
            traceparent: None,
        }
    }

    /// Sets the id of the event: 1 to 128 characters of `[A-Za-z0-9_-]`.
    ///
    /// A pipeline that recreates the event from stored data after a crash can thus publish the same event
    /// again instead of a second one.
    #[must_use]
    pub fn with_id(mut self, id: EventId) -> Self {
        self.id = id;
        self
    }

    /// Sets the W3C trace context that deliveries continue.
    #[must_use]
    pub fn with_traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }

    /// Encodes the event as it is published. The same event always results in the same bytes.
    pub fn serialize(&self) -> Serialized {
        let body = Body {
            event: self.data.event_type().as_str(),
            timestamp: self.timestamp_ms,
            organization_id: &self.lead.organization_id,
            project_id: &self.lead.project_id,
            lead_id: &self.lead.id,
            data: DataOf(self),
        };
        let body = serde_json::to_vec(&body).expect("every key is a string, and no value fails to serialize");
        Serialized {
            body: body.into(),
            message_id: Some(self.id.as_str().to_owned()),
            traceparent: self.traceparent.clone(),
        }
    }
}

impl Serialized {
    /// Creates an event whose id is derived from its bytes. The same bytes are the same event.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            message_id: None,
            traceparent: None,
        }
    }
}

impl Data {
    /// Returns the type of the event that has this data.
    pub const fn event_type(&self) -> EventType {
        match self {
            Self::LeadCreated { .. } => EventType::LeadCreated,
            Self::ResearchStarted => EventType::ResearchStarted,
            Self::ResearchCompleted { .. } => EventType::ResearchCompleted,
            Self::ResearchFailed { .. } => EventType::ResearchFailed,
            Self::MagnetGenerated { .. } => EventType::MagnetGenerated,
            Self::LeadCompleted { .. } => EventType::LeadCompleted,
            Self::LeadFailed { .. } => EventType::LeadFailed,
            Self::MagnetViewed { .. } => EventType::MagnetViewed,
        }
    }

    const fn timestamp_field(&self) -> &'static str {
        match self {
            Self::LeadCreated { .. } => "created_at",
            Self::ResearchStarted => "started_at",
            Self::ResearchCompleted { .. } | Self::LeadCompleted { .. } => "completed_at",
            Self::ResearchFailed { .. } | Self::LeadFailed { .. } => "failed_at",
            Self::MagnetGenerated { .. } => "generated_at",
            Self::MagnetViewed { .. } => "viewed_at",
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    event: &'static str,
    timestamp: u64,
    organization_id: &'a OrganizationId,
    project_id: &'a ProjectId,
    lead_id: &'a LeadId,
    data: DataOf<'a>,
}

/// The field `data`, with its fields in the order of the public contract's examples.
struct DataOf<'a>(&'a Event);

impl Serialize for DataOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(event) = self;
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry("lead_id", &event.lead.id)?;
        match &event.data {
            Data::LeadCreated { input_data } => {
                fields.serialize_entry("input_data", input_data)?;
                fields.serialize_entry("status", "processing")?;
            }
            Data::ResearchStarted => fields.serialize_entry("status", "processing")?,
            Data::ResearchCompleted { research_results } => {
                fields.serialize_entry("status", "processing")?;
                fields.serialize_entry("research_results", research_results)?;
            }
            Data::ResearchFailed { error } => {
                fields.serialize_entry("status", "processing")?;
                fields.serialize_entry("error", error)?;
            }
            Data::MagnetGenerated { generated_content } => {
                fields.serialize_entry("status", "processing")?;
                fields.serialize_entry("generated_content", generated_content)?;
            }
            Data::LeadCompleted {
                research_results,
                generated_content,
            } => {
                fields.serialize_entry("status", "completed")?;
                fields.serialize_entry("research_results", research_results)?;
                fields.serialize_entry("generated_content", generated_content)?;
            }
            Data::LeadFailed { error } => {
                fields.serialize_entry("status", "failed")?;
                fields.serialize_entry("error", error)?;
            }
            Data::MagnetViewed {
                viewer_ip,
                user_agent,
            } => {
                fields.serialize_entry("viewer_ip", viewer_ip)?;
                fields.serialize_entry("user_agent", user_agent)?;
            }
        }
        fields.serialize_entry(event.data.timestamp_field(), &event.timestamp_ms)?;
        fields.end()
    }
}

#[cfg(test)]
mod tests;
