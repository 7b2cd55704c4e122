//! API keys: creating, listing and revoking them.

use std::time::Duration;

use futures_util::Stream;
use serde::Serialize;
use webhook::Scope;
use wire::{ApiKey as ApiKeyInfo, Listing};

use crate::{
    client::Client,
    error::Error,
    operation::Operation,
    pages,
    request::{Request, whole_seconds},
};

/// An API key to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateApiKey {
    /// A name for people, such as where the key is used. At most 255 bytes.
    pub name: String,
    /// What the key allows: at least one scope, and only scopes of the key that sends the request.
    pub scopes: Vec<Scope>,
    /// How long the key is valid: whole seconds, from one second to ten years; `None` until it is revoked.
    pub expires_in: Option<Duration>,
}

/// Which API keys to list, ordered by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListApiKeys {
    /// The maximum number of keys on a page, from 1 to 100; `None` for 20.
    pub limit: Option<u32>,
    /// The `next_cursor` of the previous page; `None` for the first page.
    pub cursor: Option<String>,
}

/// The body of a request to create a key.
#[derive(Serialize)]
struct Creation<'a> {
    name: &'a str,
    scopes: &'a [Scope],
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_s: Option<u64>,
}

/// API keys of an organization, which need a key with the scope `admin`. Platform keys are created and
/// revoked on the command line only.
impl Client {
    /// Creates a key, and returns it with its text in `key`, which is not shown again.
    ///
    /// # Errors
    /// Returns an error if the API refuses the key, or is not reached. If the key may have been created, list
    /// the keys, and revoke the one that you have not received.
    pub async fn create_api_key(&self, new: &CreateApiKey) -> Result<ApiKeyInfo, Error> {
        let operation = Operation::CREATE_API_KEY;
        let expires_in_s = new
            .expires_in
            .map(|time| whole_seconds(operation, time, "the lifetime of the key"));
        let creation = Creation {
            name: &new.name,
            scopes: &new.scopes,
            expires_in_s: expires_in_s.transpose()?,
        };
        let request = Request::new(operation).json(&creation)?;
        self.send(&request).await?.json()
    }

    /// Returns a page of keys, including revoked and expired ones, without their texts. With a platform key
    /// that names no organization, these are the keys of all organizations and the platform keys.
    ///
    /// # Errors
    /// Returns an error if the API refuses the request, or is not reached.
    pub async fn list_api_keys(&self, which: &ListApiKeys) -> Result<Listing<ApiKeyInfo>, Error> {
        pages::one(self, which.request(), which.cursor.as_deref()).await
    }

    /// Returns all keys from the page at `cursor` on. The pages are read when they are needed.
    pub fn all_api_keys(
        &self,
        which: ListApiKeys,
    ) -> impl Stream<Item = Result<ApiKeyInfo, Error>> + Send + Unpin + use<> {
        pages::all(self, which.request(), which.cursor)
    }

    /// Revokes a key, and returns it with the time at which it was revoked. Revoking it again changes
    /// nothing.
    ///
    /// A client can revoke its own key. If the answer is then lost, the repeat is refused (`unauthorized`).
    ///
    /// # Errors
    /// Returns an error if the organization has no such key, or the API is not reached.
    pub async fn revoke_api_key(&self, id: &str) -> Result<ApiKeyInfo, Error> {
        let request = Request::about(Operation::REVOKE_API_KEY, id)?;
        self.send(&request).await?.json()
    }
}

impl CreateApiKey {
    /// Creates a request for a key that is valid until it is revoked.
    pub fn new(name: impl Into<String>, scopes: impl Into<Vec<Scope>>) -> Self {
        Self {
            name: name.into(),
            scopes: scopes.into(),
            expires_in: None,
        }
    }
}

impl ListApiKeys {
    fn request(&self) -> Request {
        Request::new(Operation::LIST_API_KEYS).query("limit", self.limit)
    }
}
