//! API keys.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Credential;

/// An API key, which authenticates clients of the HTTP API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    /// The id of the key. It identifies the key and grants nothing.
    #[schema(example = "key_86f1e90be5ba9e3ea5a5a94bb9df0a56")]
    pub id: String,
    /// The key itself. Present only in the response that created it: store it, because it is not shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        value_type = Option<String>,
        example = "mgk_mCfcS3-vYvJpHOCxvC0jQ1a2vHnZT5cO3e6uYF1oQz4",
        nullable = false
    )]
    pub key: Option<Credential>,
    /// The beginning of the key, by which people recognize it.
    #[schema(example = "mgk_mCfcS3")]
    pub prefix: String,
    /// The organization to which the key gives access; null for a platform key, which gives access to all.
    #[schema(example = "org_123abc")]
    pub organization_id: Option<String>,
    /// A name for people, such as where the key is used.
    #[schema(example = "lead form")]
    pub name: String,
    /// What the key allows.
    #[schema(schema_with = crate::schema::scopes)]
    pub scopes: Vec<String>,
    /// When the key was created, in Unix milliseconds.
    #[schema(example = 1_703_123_456_789_i64)]
    pub created_at_ms: u64,
    /// When the key expires, in Unix milliseconds; null if it is valid until it is revoked.
    pub expires_at_ms: Option<u64>,
    /// When the key was last used, in Unix milliseconds, up to a minute late; null if never.
    pub last_used_at_ms: Option<u64>,
    /// When the key was revoked, in Unix milliseconds; null if it was not revoked.
    pub revoked_at_ms: Option<u64>,
}
