//! What became of a ping.

use serde::Serialize;
use utoipa::ToSchema;
use webhook::Delivery;

use super::words;
use service::ping::Pinged;

/// A ping of an endpoint, and how it was answered.
#[derive(Debug, Serialize, ToSchema)]
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

impl Ping {
    /// As its organization may see it.
    #[must_use]
    pub fn for_customers(self) -> Self {
        Self {
            error: self.error.map(words::for_customers),
            ..self
        }
    }

    /// As far as it is known what became of what was sent.
    pub fn new(sent: &Delivery, pinged: Option<&Pinged>) -> Self {
        let last = pinged.and_then(|pinged| pinged.attempts.last());
        let word = |word: &String| (!word.is_empty()).then(|| word.clone());
        Self {
            id: sent.event.id.to_string(),
            delivery_id: sent.id().to_string(),
            endpoint_id: sent.endpoint_id.to_string(),
            ok: pinged.filter(|pinged| pinged.is_over()).map(Pinged::is_delivered),
            reason: pinged.and_then(|pinged| word(&pinged.delivery.standing.reason)),
            status: last.and_then(|last| last.status),
            duration_ms: last.map(|last| last.duration_ms),
            phase: last.and_then(|last| word(&last.phase)),
            failure: last.and_then(|last| word(&last.failure)),
            error: last.and_then(|last| word(&last.error)),
            response: last.map(|last| String::from_utf8_lossy(&last.response).into_owned()),
        }
    }
}
