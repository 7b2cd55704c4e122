//! Creates and revokes API keys.
//!
//! The caller decides which scopes a key may have, and for which organization. As for endpoints, it tells the
//! store beforehand who writes: [`Store::acting_as`].

use std::{ops::RangeInclusive, time::Duration};

use store::{ApiKeyRow, NewApiKey, Store};
use webhook::{ApiKey, ApiKeyId, OrganizationId, Scopes};

/// The permitted lifetime of a key. For more than ten years, which is practically unlimited, the key is to be
/// created without an expiry.
pub const LIFETIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(10 * 366 * 24);

/// A key to be created.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The organization to which the key gives access; `None` for a platform key, which gives access to all.
    pub organization_id: Option<OrganizationId>,
    /// A name for people.
    pub name: String,
    /// What the key allows.
    pub scopes: Scopes,
    /// How long the key is valid; `None` until it is revoked.
    pub lifetime: Option<Duration>,
}

/// A key that was created.
#[derive(Clone, Debug)]
pub struct CreatedKey {
    /// The key as it is stored.
    pub row: ApiKeyRow,
    /// The key itself, which is stored nowhere: show it to its owner once.
    pub key: ApiKey,
}

/// Creates a key with a new id and a new random text. `now_ms` is in Unix milliseconds, here and below.
///
/// # Errors
/// Returns [`store::Error::TooManyApiKeys`] if the organization has its maximum number of keys, or an error if
/// the database operation fails.
pub async fn create(store: &Store, new: NewKey, now_ms: u64) -> Result<CreatedKey, store::Error> {
    let key = ApiKey::generate(rand::random());
    let stored = NewApiKey {
        organization_id: new.organization_id,
        name: new.name,
        scopes: new.scopes,
        key: key.clone(),
        expires_at_ms: new.lifetime.map(|lifetime| now_ms + lifetime.as_millis() as u64),
    };
    let id = ApiKeyId::generate(rand::random());
    let row = store.create_api_key(stored, id, now_ms).await?;
    Ok(CreatedKey { row, key })
}

/// Revokes a key of this organization. Revoking it again changes nothing.
///
/// # Errors
/// Returns [`store::Error::ApiKeyNotFound`] if the organization has no such key, or an error if the database
/// operation fails.
pub async fn revoke(
    store: &Store,
    organization: &OrganizationId,
    id: &ApiKeyId,
    now_ms: u64,
) -> Result<ApiKeyRow, store::Error> {
    let key = store.api_key(id).await?;
    if key.organization_id.as_ref() != Some(organization) {
        return Err(store::Error::ApiKeyNotFound { id: id.clone() });
    }
    store.revoke_api_key(id, now_ms).await
}
