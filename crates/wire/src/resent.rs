//! The results of sending deliveries again.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A delivery that was sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resent {
    /// The delivery that was to be sent again.
    #[schema(example = "dlv_958343c375fad16b091b931f14abe353")]
    pub resend_of: String,
    /// The new delivery: the same event, byte for byte, to the same endpoint, with a full set of attempts.
    #[schema(example = "dlv_086aabd54955f5b6672963d208a1493e")]
    pub id: String,
}

/// The result for each delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResentDeliveries {
    /// The results, in the order of the ids.
    pub results: Vec<ResendResult>,
}

/// The result for one delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResendResult {
    /// The delivery that was to be sent again.
    #[schema(example = "dlv_958343c375fad16b091b931f14abe353")]
    pub resend_of: String,
    /// The new delivery; null if there is none.
    #[schema(example = "dlv_086aabd54955f5b6672963d208a1493e")]
    pub id: Option<String>,
    /// Why there is no new delivery; null if there is one. `not_found`: the organization has no such
    /// delivery. `still_pending`: the delivery has not ended yet. `event_missing`: the event is no longer
    /// stored. `ping`: pings are not sent again.
    pub refused: Option<String>,
}

/// What was sent, or would be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveredEndpoint {
    /// The number of deliveries that had been given up.
    #[schema(example = 96)]
    pub dead: u64,
    /// The number of events that were received while the endpoint was disabled.
    #[schema(example = 4)]
    pub missed: u64,
    /// The number of deliveries that were requested before and not sent.
    #[schema(example = 0)]
    pub left: u64,
    /// The number of deliveries that were sent.
    #[schema(example = 100)]
    pub sent: u64,
    /// Whether there are more; the same request with `next_cursor` as its `cursor` sends the next ones.
    #[schema(example = true)]
    pub more: bool,
    /// The `cursor` of the next request; null if there are no more.
    pub next_cursor: Option<String>,
    /// The deliveries that were requested and cannot be sent, because their event is no longer stored. Always
    /// empty if they were only counted.
    #[serde(default)]
    #[schema(required = true, example = json!(["dlv_958343c375fad16b091b931f14abe353"]))]
    pub event_missing: Vec<String>,
    /// Whether they were only counted.
    #[schema(example = false)]
    pub dry_run: bool,
}
