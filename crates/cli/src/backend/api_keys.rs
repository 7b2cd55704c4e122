//! API keys: creating, listing and revoking them.

use anyhow::anyhow;
use client::{CreateApiKey, ListApiKeys};
use runtime::now_ms;
use service::{
    api_keys::{self, NewKey},
    view,
};
use store::ApiKeyRow;
use webhook::{ApiKeyId, OrganizationId};

use crate::{
    pages::{self, Pages},
    remote::told,
};

use super::{Backend, not_found};

const LIST_THEM: &str = "`magnetite api-key list` lists the existing keys";

impl Backend {
    /// Creates a key, and returns it with its text.
    pub(crate) async fn create_api_key(&self, new: NewKey) -> anyhow::Result<wire::ApiKey> {
        match self {
            Self::Direct(direct) => {
                let created = api_keys::create(&direct.store, new, now_ms()).await?;
                Ok(view::api_key_with_text(&created))
            }
            Self::Api(api) => {
                let Some(organization) = &new.organization_id else {
                    unreachable!("a platform key is created on the database")
                };
                let client = api.client_for(Some(organization));
                let new = CreateApiKey {
                    name: new.name,
                    scopes: new.scopes.into(),
                    expires_in: new.lifetime,
                };
                client.create_api_key(&new).await.map_err(told)
            }
        }
    }

    /// Returns the keys of one organization, or of all, ordered by id.
    pub(crate) fn api_keys<'a>(
        &'a self,
        organization: Option<&'a OrganizationId>,
    ) -> Pages<'a, wire::ApiKey> {
        match self {
            Self::Direct(direct) => pages::of_rows(
                None,
                async move |after: Option<&ApiKeyId>, rows| {
                    direct.store.api_keys(organization, after, rows).await
                },
                |key: &ApiKeyRow| key.id.clone(),
                |key| view::api_key(&key),
            ),
            Self::Api(api) => pages::of_api(None, |items| {
                api.client_for(organization).all_api_keys(ListApiKeys {
                    limit: Some(items),
                    cursor: None,
                })
            }),
        }
    }

    /// Revokes a key.
    pub(crate) async fn revoke_api_key(&self, id: &ApiKeyId) -> anyhow::Result<wire::ApiKey> {
        match self {
            Self::Direct(direct) => match direct.store.revoke_api_key(id, now_ms()).await {
                Ok(revoked) => Ok(view::api_key(&revoked)),
                Err(error @ store::Error::ApiKeyNotFound { .. }) => Err(anyhow!("{error}; {LIST_THEM}")),
                Err(error) => Err(error.into()),
            },
            Self::Api(api) => {
                let revoked = api.client.revoke_api_key(id.as_str()).await;
                revoked.map_err(|error| not_found(error, "API key", id.as_str(), LIST_THEM))
            }
        }
    }
}
