//! The results of publishing events.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An event that was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Published {
    /// The event's id, which receivers get as `webhook-id`.
    #[schema(example = "evt_e3857281de58d21d48b287e274b6f6c0")]
    pub id: String,
}

/// Events that were published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublishedBatch {
    /// The events' ids, which receivers get as `webhook-id`, in the order of the events.
    #[schema(example = json!(["evt_e3857281de58d21d48b287e274b6f6c0"]))]
    pub ids: Vec<String>,
}
