//! Deliveries and their attempts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One event's way to one endpoint, in one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// Its id, which the endpoint gets in `X-Magnetite-Delivery`.
    #[schema(example = "dlv_958343c375fad16b091b931f14abe353")]
    pub id: String,
    /// Whose event and endpoint they are.
    #[schema(example = "org_123abc")]
    pub organization_id: String,
    /// What is delivered.
    #[schema(example = "evt_e3857281de58d21d48b287e274b6f6c0")]
    pub event_id: String,
    /// Where to.
    #[schema(example = "ep_8e0d3e107685e7013e1070dba5f85cc2")]
    pub endpoint_id: String,
    /// 0, and one more each time that it is sent again.
    #[schema(example = 0)]
    pub run: u32,
    /// What began it: `event`, `resend` or `ping`.
    #[schema(example = "event")]
    pub trigger: String,
    /// How far it is.
    #[schema(schema_with = crate::schema::delivery_state)]
    pub state: String,
    /// How many attempts were made.
    #[schema(example = 10)]
    pub attempt_count: u32,
    /// The earliest that is known of it, in Unix milliseconds.
    #[schema(example = 1_703_123_456_790_i64)]
    pub created_ms: u64,
    /// When it came into its state, in Unix milliseconds.
    #[schema(example = 1_703_123_607_790_i64)]
    pub updated_ms: u64,
    /// When the next attempt is due, in Unix milliseconds; null when there is none.
    pub next_attempt_ms: Option<u64>,
    /// Why it is dead or cancelled, or was put off.
    #[schema(example = "exhausted")]
    pub reason: Option<String>,
    /// The HTTP status of the last attempt, if there was a response.
    #[schema(example = 500)]
    pub last_status: Option<u16>,
    /// What the last attempt met, in words.
    #[schema(example = "status 500")]
    pub last_error: Option<String>,
    /// When somebody asked for it to be sent again, in Unix milliseconds; null for the run that came with
    /// the event.
    pub requested_ms: Option<u64>,
    /// When what was asked for was put into the queue, in Unix milliseconds.
    pub sent_ms: Option<u64>,
}

/// A delivery, and every attempt at it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryWithAttempts {
    /// The delivery.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// In the order in which they began.
    pub attempts: Vec<Attempt>,
}

/// One request to an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// Its id.
    #[schema(example = "att_018c8a11931f3f2c8a4d5e6f70819203")]
    pub id: String,
    /// From 1 on, within the run. While two secrets are valid, two requests can have one number.
    #[schema(example = 1)]
    pub number: u32,
    /// When it began, in Unix milliseconds.
    #[schema(example = 1_703_123_456_799_i64)]
    pub began_ms: u64,
    /// How long it took, in milliseconds.
    #[schema(example = 34)]
    pub duration_ms: u64,
    /// The HTTP status, if there was a response.
    #[schema(example = 500)]
    pub status: Option<u16>,
    /// How far it came, if there was no response: `resolve`, `connect`, `tls`, `send` or `response`.
    pub phase: Option<String>,
    /// What went wrong, if there was no response, such as `connection_refused`.
    pub failure: Option<String>,
    /// The failure in words.
    #[schema(example = "status 500")]
    pub error: Option<String>,
    /// The beginning of the response's body.
    #[schema(example = "Internal Server Error")]
    pub response: String,
    /// What followed: `delivered`, `retry`, `deferred`, `dead` or `cancelled`.
    #[schema(example = "retry")]
    pub outcome: String,
    /// When the next attempt was due, in Unix milliseconds, if there was to be one.
    #[schema(example = 1_703_123_457_833_i64)]
    pub next_attempt_ms: Option<u64>,
    /// Why it was dead, cancelled or put off.
    pub reason: Option<String>,
}
