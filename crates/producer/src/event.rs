//! Events with typed data, and their JSON.

use std::net::IpAddr;

use bytes::Bytes;
use serde::{Serialize, Serializer, ser::SerializeMap};
use webhook::{EventId, EventType, LeadId, OrganizationId, ProjectId};

/// A JSON object whose content is free.
pub type Object = serde_json::Map<String, serde_json::Value>;

/// The lead that events are about, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    /// Field `lead_id`, not empty.
    pub id: LeadId,
    /// Field `project_id`, not empty.
    pub project_id: ProjectId,
    /// Field `organization_id`, not empty.
    pub organization_id: OrganizationId,
}

/// Something that happened to a lead.
///
/// Publishing the same value again publishes the same event: its id is part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The AMQP `message_id`, and what receivers see as `webhook-id`.
    pub id: EventId,
    /// About which lead.
    pub lead: Lead,
    /// When it happened, in Unix milliseconds; from [`Timestamps`](crate::Timestamps).
    pub timestamp_ms: u64,
    /// What happened.
    pub data: Data,
    /// The W3C trace context that deliveries continue, at most 256 characters.
    pub traceparent: Option<String>,
}

/// What happened. On the wire `data` also holds the lead's id and the event's timestamp under a name of its
/// own (`created_at`, ...), and `status`, which is the lead's: `processing` until it is `completed` or
/// `failed`.
///
/// ```json
/// {"lead_id":"lead_789ghi","input_data":{"fullName":"John Smith"},"status":"processing","created_at":1703123456789}
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// `lead.created`: a generation request was received and queued.
    LeadCreated {
        /// What was known of the lead.
        input_data: Object,
    },
    /// `research.started`: the research agent began.
    ResearchStarted,
    /// `research.completed`: research is done, generation is about to begin.
    ResearchCompleted {
        /// What was found.
        research_results: Object,
    },
    /// `research.failed`: the research agent met an error. The lead may still be tried again: its status is
    /// `processing`.
    ResearchFailed {
        /// What went wrong.
        error: Failure,
    },
    /// `magnet.generated`: the content was generated.
    MagnetGenerated {
        /// What was made, such as `contentLength`.
        generated_content: Object,
    },
    /// `lead.completed`: the magnet is ready to be viewed.
    LeadCompleted {
        /// What was found.
        research_results: Object,
        /// What was made, such as `contentLength`.
        generated_content: Object,
    },
    /// `lead.failed`: generation failed for good.
    LeadFailed {
        /// What went wrong at last.
        error: Failure,
    },
    /// `magnet.viewed`: a recipient opened the magnet.
    MagnetViewed {
        /// The recipient's address.
        viewer_ip: IpAddr,
        /// The recipient's `User-Agent` header.
        user_agent: String,
    },
}

/// Why something failed, as customers see it: `{"code":"api_limit","message":"..."}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// A stable word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// An event that is already JSON: these bytes are what is signed and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serialized {
    /// The event's JSON.
    pub body: Bytes,
    /// The event's id: 1 to 128 characters of `[A-Za-z0-9_-]`. `None` derives it from the body.
    pub message_id: Option<String>,
    /// The W3C trace context that deliveries continue, at most 256 characters.
    pub traceparent: Option<String>,
}

impl Lead {
    /// A lead of a project of an organization.
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
    /// An event with a new random id: `evt_` and 32 hexadecimal digits.
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

    /// The event under an id of the caller's: whoever makes the event anew after a crash, from what was
    /// written down, repeats it instead of making a second one. 1 to 128 characters of `[A-Za-z0-9_-]`.
    #[must_use]
    pub fn with_id(mut self, id: EventId) -> Self {
        self.id = id;
        self
    }

    /// The event as part of a trace.
    #[must_use]
    pub fn with_traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }

    /// The event as it is published. The same event always gives the same bytes.
    pub fn serialize(&self) -> Serialized {
        let body = Body {
            event: self.data.event_type().as_str(),
            timestamp: self.timestamp_ms,
            organization_id: &self.lead.organization_id,
            project_id: &self.lead.project_id,
            lead_id: &self.lead.id,
            data: DataOf(self),
        };
        let body = serde_json::to_vec(&body).expect("every key is a string and no value can fail");
        Serialized {
            body: body.into(),
            message_id: Some(self.id.as_str().to_owned()),
            traceparent: self.traceparent.clone(),
        }
    }
}

impl Serialized {
    /// An event whose id is derived from its bytes: the same bytes are the same event.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            message_id: None,
            traceparent: None,
        }
    }
}

impl Data {
    /// The type of the event that has this data.
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

/// Field `data`, in the order of the public contract's examples.
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
