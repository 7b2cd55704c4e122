//! Events, and what became of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::DeliveryWithAttempts;

/// Something that happened to a lead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventSummary {
    /// Its id, which endpoints get in `webhook-id`.
    #[schema(example = "evt_e3857281de58d21d48b287e274b6f6c0")]
    pub id: String,
    /// What happened.
    #[serde(rename = "type")]
    #[schema(schema_with = crate::schema::event_kind)]
    pub event_type: String,
    /// Whose it is.
    #[schema(example = "org_123abc")]
    pub organization_id: String,
    /// In which project.
    #[schema(example = "proj_456def")]
    pub project_id: String,
    /// To which lead.
    #[schema(example = "lead_789ghi")]
    pub lead_id: String,
    /// When it happened, in Unix milliseconds.
    #[schema(example = 1_703_123_456_789_i64)]
    pub timestamp_ms: u64,
    /// When a worker took it, in Unix milliseconds.
    #[schema(example = 1_703_123_456_812_i64)]
    pub received_ms: u64,
    /// How many endpoints it matched.
    #[schema(example = 1)]
    pub matched: u64,
    /// How many deliveries are in each state, all runs together.
    pub deliveries: States,
}

/// How many deliveries are in each state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct States {
    /// Answered with a 2xx.
    #[schema(example = 1)]
    pub delivered: u64,
    /// Given up.
    #[schema(example = 0)]
    pub dead: u64,
    /// Their endpoint was deleted.
    #[schema(example = 0)]
    pub cancelled: u64,
    /// Not over.
    #[schema(example = 0)]
    pub pending: u64,
}

/// An event, every endpoint of its organization, and what became of the one at the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Story {
    /// Its id, which endpoints get in `webhook-id`.
    #[schema(example = "evt_e3857281de58d21d48b287e274b6f6c0")]
    pub id: String,
    /// What happened.
    #[serde(rename = "type")]
    #[schema(schema_with = crate::schema::event_kind)]
    pub event_type: String,
    /// Whose it is.
    #[schema(example = "org_123abc")]
    pub organization_id: String,
    /// In which project.
    #[schema(example = "proj_456def")]
    pub project_id: String,
    /// To which lead.
    #[schema(example = "lead_789ghi")]
    pub lead_id: String,
    /// When it happened, in Unix milliseconds.
    #[schema(example = 1_703_123_456_789_i64)]
    pub timestamp_ms: u64,
    /// When a worker took it, in Unix milliseconds.
    #[schema(example = 1_703_123_456_812_i64)]
    pub received_ms: u64,
    /// The trace that it was published in (W3C Trace Context).
    pub traceparent: Option<String>,
    /// How long the body is.
    #[schema(example = 124)]
    pub body_bytes: usize,
    /// The body as it was published, which is what endpoints get.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub body: Option<String>,
    /// Every endpoint that could have got it: what needs someone first.
    pub endpoints: Vec<Considered>,
}

/// What became of an event at one endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Considered {
    /// Which endpoint.
    #[schema(example = "ep_8e0d3e107685e7013e1070dba5f85cc2")]
    pub endpoint_id: String,
    /// Its URL now; null when it was deleted.
    #[schema(format = "uri", example = "https://example.com/webhook")]
    pub url: Option<String>,
    /// Whether it was deleted since.
    #[schema(example = false)]
    pub deleted: bool,
    /// Whether it was to get the event when that came, or why not: `matched`, `project` (it takes another
    /// project's), `event_type` (it is not subscribed to the type), `disabled`, `created_after` the
    /// event, `pinged`, or `unknown`.
    #[schema(example = "matched")]
    pub verdict: String,
    /// Since when and why it was disabled, if that was why not.
    pub disabled: Option<DisabledSince>,
    /// One for each run.
    pub deliveries: Vec<DeliveryWithAttempts>,
}

/// Since when and why an endpoint was disabled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DisabledSince {
    /// Unix milliseconds.
    #[schema(example = 1_703_123_396_789_i64)]
    pub since_ms: i64,
    /// `manual`, `gone` or `failing`.
    #[schema(example = "gone")]
    pub reason: String,
}
