//! Events, and their deliveries at each endpoint.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{DeliveryWithAttempts, Endpoint};

/// An event: something that happened to a lead, or a ping of an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventSummary {
    /// The event's id. Endpoints receive it as `webhook-id`.
    #[schema(example = "evt_e3857281de58d21d48b287e274b6f6c0")]
    pub id: String,
    /// The type of the event.
    #[serde(rename = "type")]
    #[schema(schema_with = crate::schema::event_kind)]
    pub event_type: String,
    /// The organization that the event belongs to.
    #[schema(example = "org_123abc")]
    pub organization_id: String,
    /// The project that the event belongs to.
    #[schema(example = "proj_456def")]
    pub project_id: String,
    /// The lead that the event is about.
    #[schema(example = "lead_789ghi")]
    pub lead_id: String,
    /// When the event happened, in Unix milliseconds.
    #[schema(example = 1_703_123_456_789_i64)]
    pub timestamp_ms: u64,
    /// When a worker took the event from its queue, in Unix milliseconds.
    #[schema(example = 1_703_123_456_812_i64)]
    pub received_ms: u64,
    /// The number of endpoints that the event matched.
    #[schema(example = 1)]
    pub matched: u64,
    /// The number of deliveries in each state, over all runs.
    pub deliveries: States,
}

/// The number of deliveries in each state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct States {
    /// Deliveries that the endpoint answered with a 2xx.
    #[schema(example = 1)]
    pub delivered: u64,
    /// Deliveries that were given up. They can be sent again.
    #[schema(example = 0)]
    pub dead: u64,
    /// Deliveries whose endpoint was deleted, and pings that failed.
    #[schema(example = 0)]
    pub cancelled: u64,
    /// Deliveries that have not ended yet.
    #[schema(example = 0)]
    pub pending: u64,
}

/// An event, and what happened to it at every endpoint of its organization.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventHistory {
    /// The event's id. Endpoints receive it as `webhook-id`.
    #[schema(example = "evt_e3857281de58d21d48b287e274b6f6c0")]
    pub id: String,
    /// The type of the event.
    #[serde(rename = "type")]
    #[schema(schema_with = crate::schema::event_kind)]
    pub event_type: String,
    /// The organization that the event belongs to.
    #[schema(example = "org_123abc")]
    pub organization_id: String,
    /// The project that the event belongs to.
    #[schema(example = "proj_456def")]
    pub project_id: String,
    /// The lead that the event is about.
    #[schema(example = "lead_789ghi")]
    pub lead_id: String,
    /// When the event happened, in Unix milliseconds.
    #[schema(example = 1_703_123_456_789_i64)]
    pub timestamp_ms: u64,
    /// When a worker took the event from its queue, in Unix milliseconds.
    #[schema(example = 1_703_123_456_812_i64)]
    pub received_ms: u64,
    /// The trace context that the event was published with (W3C Trace Context); null if there was none.
    pub traceparent: Option<String>,
    /// The size of the body, in bytes.
    #[schema(example = 124)]
    pub body_bytes: usize,
    /// The body as it was published, which is what endpoints receive. Absent if it was not requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub body: Option<String>,
    /// Whether the record that says which endpoints the event matched is missing: it was lost, or has not
    /// arrived yet. The verdicts are then `unknown` or `created_after`.
    #[serde(default)]
    #[schema(required = true, example = false)]
    pub verdicts_missing: bool,
    /// Every endpoint that could have received the event, the most urgent ones first: those with a dead
    /// delivery, those that matched but have no delivery yet, those with a pending, a cancelled and a
    /// delivered delivery, and finally those that did not match.
    pub endpoints: Vec<Considered>,
}

/// What happened to an event at one endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Considered {
    /// The id of the endpoint.
    #[schema(example = "ep_8e0d3e107685e7013e1070dba5f85cc2")]
    pub endpoint_id: String,
    /// The current URL of the endpoint; null if the endpoint was deleted.
    #[schema(format = "uri", example = "https://example.com/webhook")]
    pub url: Option<String>,
    /// Whether the endpoint has been deleted since.
    #[schema(example = false)]
    pub deleted: bool,
    /// The endpoint as it is now, which may differ from what it was when the event was received; null if it
    /// was deleted.
    pub endpoint: Option<Endpoint>,
    /// Why the endpoint received the event or did not: `matched`, `project` (it receives the events of
    /// another project), `event_type` (it does not subscribe to the type), `disabled`, `created_after` (it
    /// was created after the event), `pinged`, or `unknown`.
    #[schema(example = "matched")]
    pub verdict: String,
    /// When and why the endpoint was disabled, if the verdict is `disabled`; null otherwise.
    pub disabled: Option<DisabledSince>,
    /// The deliveries to the endpoint, one for each run.
    pub deliveries: Vec<DeliveryWithAttempts>,
}

/// When and why an endpoint was disabled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DisabledSince {
    /// When the endpoint was disabled, in Unix milliseconds.
    #[schema(example = 1_703_123_396_789_i64)]
    pub since_ms: i64,
    /// Why the endpoint was disabled: `manual`, `gone` or `failing`.
    #[schema(example = "gone")]
    pub reason: String,
}
