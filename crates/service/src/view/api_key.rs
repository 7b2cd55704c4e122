//! Converts API keys.

use store::ApiKeyRow;
use webhook::OrganizationId;

use crate::api_keys::CreatedKey;

/// Converts a key, without its text.
pub fn api_key(row: &ApiKeyRow) -> wire::ApiKey {
    wire::ApiKey {
        id: row.id.to_string(),
        key: None,
        prefix: row.prefix.clone(),
        organization_id: row.organization_id.as_ref().map(OrganizationId::to_string),
        name: row.name.clone(),
        scopes: row.scopes.names().map(str::to_owned).collect(),
        created_at_ms: row.created_at_ms,
        expires_at_ms: row.expires_at_ms,
        last_used_at_ms: row.last_used_at_ms,
        revoked_at_ms: row.revoked_at_ms,
    }
}

/// Converts a key with its text, for the response to the request that created it.
pub fn api_key_with_text(created: &CreatedKey) -> wire::ApiKey {
    wire::ApiKey {
        key: Some(wire::Credential(created.key.expose().to_owned())),
        ..api_key(&created.row)
    }
}
