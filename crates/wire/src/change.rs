//! The log of changes.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A change of an endpoint or an API key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// The number of the change, which increases with every change.
    #[schema(example = 12)]
    pub number: u64,
    /// When the change was made, in Unix milliseconds.
    #[schema(example = 1_703_123_456_789_i64)]
    pub at_ms: u64,
    /// The id of the API key that was used, or `cli`, `worker` (after a 410) or `recorder` (after days
    /// without a success).
    #[schema(example = "key_86f1e90be5ba9e3ea5a5a94bb9df0a56")]
    pub actor: String,
    /// The kind of change: `endpoint.created`, `endpoint.updated`, `endpoint.enabled`, `endpoint.disabled`,
    /// `endpoint.secret_rotated`, `endpoint.deleted`, `api_key.created` or `api_key.revoked`.
    #[schema(example = "endpoint.updated")]
    pub kind: String,
    /// The organization that owns the endpoint or key; null for a platform key.
    #[schema(example = "org_123abc")]
    pub organization_id: Option<String>,
    /// The id of the endpoint or key.
    #[schema(example = "ep_8e0d3e107685e7013e1070dba5f85cc2")]
    pub subject: String,
    /// What has changed. It never contains a secret. Of a URL, it only contains the host.
    #[schema(value_type = Object, example = json!({ "events": { "from": "*", "to": "lead.*" } }))]
    pub detail: Value,
}
