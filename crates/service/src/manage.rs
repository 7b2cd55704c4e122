//! Registers and changes endpoints.
//!
//! Every running worker uses a change shortly after it was written: see [`crate::workers`].
//!
//! The caller tells the store beforehand who writes, and which version may be overwritten:
//! [`Store::acting_as`], [`Store::if_version`].

use std::{ops::RangeInclusive, time::Duration};

use egress::{Egress, Refusal};
use signature::Secret;
use store::{EndpointChange, NewEndpoint, Store};
use webhook::{Endpoint, EndpointId, OrganizationId, ProjectId, Subscription};

/// The allowed overlaps, during which two secrets are valid. The overlap is limited, because a secret that
/// two parties know spreads over time.
pub const OVERLAP: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(30 * 24);
/// The default overlap.
pub const OVERLAP_DEFAULT: Duration = Duration::from_hours(24);

/// The reason why an endpoint was not registered or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not allowed for an endpoint.
    #[error("the URL is not allowed for an endpoint")]
    Url(#[from] Refusal),
    /// The database operation failed, or the store refused it.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// An endpoint to be registered.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The organization whose events are delivered.
    pub organization_id: OrganizationId,
    /// The project whose events are delivered; `None` for all projects.
    pub project_id: Option<ProjectId>,
    /// The URL that events are sent to.
    pub url: String,
    /// The event types to deliver.
    pub subscription: Subscription,
}

/// How a secret is rotated.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// The new secret; `None` to generate a random one.
    pub secret: Option<Secret>,
    /// How long the old secret stays valid; `None` to revoke it at once.
    pub overlap: Option<Duration>,
}

/// Registers an endpoint with a new id and a new secret. `now_ms` is in Unix milliseconds, here and below.
///
/// # Errors
/// Returns an error if requests to the URL are not allowed, or the database does not accept the endpoint.
pub async fn register(
    store: &Store,
    egress: &Egress,
    new: Registration,
    now_ms: i64,
) -> Result<Endpoint, Error> {
    egress.check_endpoint(&new.url).await?;
    let new = NewEndpoint {
        organization_id: new.organization_id,
        project_id: new.project_id,
        url: new.url,
        subscription: new.subscription,
        secret: Secret::generate(rand::random()),
    };
    let id = EndpointId::generate(rand::random());
    Ok(store.create_endpoint(new, id, now_ms).await?)
}

/// Changes an endpoint.
///
/// # Errors
/// Returns an error if requests to the new URL are not allowed, or the database does not accept the change.
pub async fn change(
    store: &Store,
    egress: &Egress,
    id: &EndpointId,
    change: EndpointChange,
    now_ms: i64,
) -> Result<Endpoint, Error> {
    if let Some(url) = &change.url {
        egress.check_endpoint(url).await?;
    }
    Ok(store.update_endpoint(id, change, now_ms).await?)
}

/// Replaces a secret.
///
/// The caller should give the new secret to the receiver only when [the workers have
/// it](crate::workers::act). If a receiver switched before that, workers would still sign its requests with
/// the old secret alone.
///
/// # Errors
/// Returns [`store::Error::RotationOpen`] if an overlap is requested while the last one has not ended, or an
/// error if the database operation fails.
pub async fn rotate(
    store: &Store,
    id: &EndpointId,
    rotation: &Rotation,
    now_ms: i64,
) -> Result<Endpoint, store::Error> {
    let secret = match &rotation.secret {
        Some(secret) => secret.clone(),
        None => Secret::generate(rand::random()),
    };
    let until_ms = rotation
        .overlap
        .map(|overlap| now_ms + overlap.as_millis() as i64);
    store.rotate_secret(id, &secret, until_ms, now_ms).await
}
