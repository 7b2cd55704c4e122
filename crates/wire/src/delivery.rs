//! Deliveries and their attempts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The delivery of one event to one endpoint, in one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// The delivery's id. The endpoint receives it as `X-Magnetite-Delivery`.
    #[schema(example = "dlv_958343c375fad16b091b931f14abe353")]
    pub id: String,
    /// The organization that owns the event and the endpoint.
    #[schema(example = "org_123abc")]
    pub organization_id: String,
    /// The id of the event.
    #[schema(example = "evt_e3857281de58d21d48b287e274b6f6c0")]
    pub event_id: String,
    /// The id of the endpoint.
    #[schema(example = "ep_8e0d3e107685e7013e1070dba5f85cc2")]
    pub endpoint_id: String,
    /// The number of the run: 0 for the first one, and one more each time that the event is sent again.
    #[schema(example = 0)]
    pub run: u32,
    /// What caused the run: `event`, `resend` or `ping`.
    #[schema(example = "event")]
    pub trigger: String,
    /// The state of the delivery.
    #[schema(schema_with = crate::schema::delivery_state)]
    pub state: String,
    /// The number of attempts made in this run.
    #[schema(example = 10)]
    pub attempt_count: u32,
    /// The earliest recorded time of the delivery, in Unix milliseconds.
    #[schema(example = 1_703_123_456_790_i64)]
    pub created_ms: u64,
    /// When the delivery last changed, in Unix milliseconds.
    #[schema(example = 1_703_123_607_790_i64)]
    pub updated_ms: u64,
    /// When the next attempt is due, in Unix milliseconds; null if there is none.
    pub next_attempt_ms: Option<u64>,
    /// Why the delivery is dead or cancelled, or was deferred, such as `exhausted`; null otherwise.
    #[schema(example = "exhausted")]
    pub reason: Option<String>,
    /// The HTTP status of the last attempt; null if there was no response.
    #[schema(example = 500)]
    pub last_status: Option<u16>,
    /// A description of the last attempt's failure, such as `status 500`; null if there was none.
    #[schema(example = "status 500")]
    pub last_error: Option<String>,
    /// When a request to send the event again was made, in Unix milliseconds; null for the run that the event
    /// itself caused.
    pub requested_ms: Option<u64>,
    /// When the requested run was put into the queue, in Unix milliseconds; null if it was not, or if the run
    /// was not requested.
    pub sent_ms: Option<u64>,
}

/// A delivery with all of its attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryWithAttempts {
    /// The delivery.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// The attempts, in the order in which they began.
    pub attempts: Vec<Attempt>,
}

/// One request to an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// The id of the attempt.
    #[schema(example = "att_018c8a11931f3f2c8a4d5e6f70819203")]
    pub id: String,
    /// The number of the attempt within the run, starting at 1. While two secrets are valid, two requests can
    /// have the same number: a request that is answered with 401 or 403 is repeated with the other secret.
    #[schema(example = 1)]
    pub number: u32,
    /// When the attempt began, in Unix milliseconds.
    #[schema(example = 1_703_123_456_799_i64)]
    pub began_ms: u64,
    /// How long the attempt took, in milliseconds.
    #[schema(example = 34)]
    pub duration_ms: u64,
    /// The HTTP status; null if there was no response.
    #[schema(example = 500)]
    pub status: Option<u16>,
    /// The phase in which the attempt failed: `resolve`, `connect`, `tls`, `send` or `response`; null if
    /// there was a response.
    pub phase: Option<String>,
    /// The kind of failure, such as `connection_refused`; null if there was a response.
    pub failure: Option<String>,
    /// A description of the failure; null if the attempt succeeded.
    #[schema(example = "status 500")]
    pub error: Option<String>,
    /// The beginning of the response's body, at most 4096 bytes; empty if there was no response.
    #[schema(example = "Internal Server Error")]
    pub response: String,
    /// What the attempt resulted in: `delivered`, `retry`, `deferred`, `dead` or `cancelled`.
    #[schema(example = "retry")]
    pub outcome: String,
    /// When the next attempt was due, in Unix milliseconds; null if there was to be none.
    #[schema(example = 1_703_123_457_833_i64)]
    pub next_attempt_ms: Option<u64>,
    /// Why the delivery was dead, cancelled or deferred after the attempt; null otherwise.
    pub reason: Option<String>,
}
