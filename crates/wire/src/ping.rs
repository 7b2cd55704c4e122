//! The result of a ping.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A ping of an endpoint, and its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Ping {
    /// The id of the ping. The endpoint receives it as `webhook-id`.
    #[schema(example = "ping_5f0c8a0e8d3b4b6c9f5a1e2d3c4b5a69")]
    pub id: String,
    /// The id of the ping's delivery, which can be retrieved later.
    #[schema(example = "dlv_958343c375fad16b091b931f14abe353")]
    pub delivery_id: String,
    /// The id of the endpoint.
    #[schema(example = "ep_8e0d3e107685e7013e1070dba5f85cc2")]
    pub endpoint_id: String,
    /// Whether the endpoint answered with a 2xx; null if the result is not known yet.
    #[schema(example = true)]
    pub ok: Option<bool>,
    /// Why the ping was cancelled or deferred, as one word; null otherwise.
    pub reason: Option<String>,
    /// The HTTP status of the response; null if there was none.
    #[schema(minimum = 100, maximum = 999, example = 200)]
    pub status: Option<u16>,
    /// How long the attempt took, in milliseconds; null if no attempt is recorded yet.
    #[schema(minimum = 0, example = 34)]
    pub duration_ms: Option<u64>,
    /// The phase in which the attempt failed: `resolve`, `connect`, `tls`, `send` or `response`; null if
    /// there was a response.
    pub phase: Option<String>,
    /// The kind of failure, as one word; null if there was a response.
    pub failure: Option<String>,
    /// A description of the failure; null if there was none.
    pub error: Option<String>,
    /// The beginning of the response's body; null if no attempt is recorded yet.
    #[schema(example = "OK")]
    pub response: Option<String>,
}
