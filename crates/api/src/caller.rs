//! The caller of a request.

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use webhook::{ApiKeyId, OrganizationId};

use crate::problem::Problem;

/// The API key of a request, and its organization.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) key: ApiKeyId,
    /// The only organization whose objects the caller may see and change.
    pub(crate) organization: OrganizationId,
}

/// Available in every operation that needs a key.
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::of_status(StatusCode::NOT_FOUND))
    }
}
