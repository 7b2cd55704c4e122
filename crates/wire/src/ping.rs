//! What became of a ping.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A ping of an endpoint, and how it was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Ping {
    /// The id that the receiver saw as `webhook-id`.
    #[schema(example = "ping_5f0c8a0e8d3b4b6c9f5a1e2d3c4b5a69")]
    pub id: String,
    /// Its delivery, which can be looked at later.
    #[schema(example = "dlv_958343c375fad16b091b931f14abe353")]
    pub delivery_id: String,
    /// Which endpoint was pinged.
    #[schema(example = "ep_8e0d3e107685e7013e1070dba5f85cc2")]
    pub endpoint_id: String,
    /// Whether it was answered with a 2xx; null when that is not known yet.
    #[schema(example = true)]
    pub ok: Option<bool>,
    /// Why it was given up, in one word.
    pub reason: Option<String>,
    /// The status of the answer.
    #[schema(minimum = 100, maximum = 999, example = 200)]
    pub status: Option<u16>,
    /// How long the attempt took, in milliseconds.
    #[schema(minimum = 0, example = 34)]
    pub duration_ms: Option<u64>,
    /// How far the attempt came, if it failed: `resolve`, `connect`, `tls`, `send` or `response`.
    pub phase: Option<String>,
    /// What went wrong, in one word.
    pub failure: Option<String>,
    /// What went wrong, in words.
    pub error: Option<String>,
    /// The beginning of the answer's body.
    #[schema(example = "OK")]
    pub response: Option<String>,
}
