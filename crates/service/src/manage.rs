//! Registers and changes endpoints.
//!
//! What is written here every running worker acts on a moment later: see [`crate::workers`].
//!
//! Who writes, and over which version alone, the store was told before: [`Store::acting_as`],
//! [`Store::if_version`].

use std::{ops::RangeInclusive, time::Duration};

use egress::{Egress, Refusal};
use signature::Secret;
use store::{EndpointChange, NewEndpoint, Store};
use webhook::{Endpoint, EndpointId, ID_BYTES_MAX, OrganizationId, ProjectId, Subscription};

/// How long two secrets are valid. Not for good: what is known to two is known to more in the end.
pub const OVERLAP: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(30 * 24);
/// How long they are unless told otherwise.
pub const OVERLAP_DEFAULT: Duration = Duration::from_hours(24);

/// A text that is no organization's, project's or lead's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {ID_BYTES_MAX} bytes, none of them a control character")]
pub struct BadId;

/// Why an endpoint was not registered or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL may not be an endpoint's.
    #[error("the URL cannot be an endpoint's")]
    Url(#[from] Refusal),
    /// The database's, and what it found.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What is to be registered.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Whose events are delivered.
    pub organization_id: OrganizationId,
    /// When set, only events of this project are delivered.
    pub project_id: Option<ProjectId>,
    /// Where to.
    pub url: String,
    /// The event types wanted.
    pub subscription: Subscription,
}

/// How a secret is replaced.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// The new secret; without one a random one is made.
    pub secret: Option<Secret>,
    /// How long the old one stays valid; without, it is void at once.
    pub overlap: Option<Duration>,
}

/// Checks an organization's, project's or lead's id: compared with what events carry, so anything that is
/// text.
///
/// # Errors
/// [`BadId`].
pub fn id(text: &str) -> Result<&str, BadId> {
    let fits = (1..=ID_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    if fits { Ok(text) } else { Err(BadId) }
}

/// Registers an endpoint under a new id, with a new secret. `now_ms` is in Unix milliseconds, here and below.
///
/// # Errors
/// When its URL may not be reached, or the database does not take it.
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
/// When its new URL may not be reached, or the database does not take the change.
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

/// Replaces a secret. It is to be given to the receiver when [workers](crate::workers::act) have it: one that
/// switched before would be asked with the old one alone.
///
/// # Errors
/// The database's, and [`store::Error::RotationOpen`].
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_any_text_on_one_line() {
        assert_eq!(id("Ö 1"), Ok("Ö 1"));
        for bad in ["", "a\nb", "a\0", &"a".repeat(256), &"é".repeat(128)] {
            assert_eq!(id(bad), Err(BadId));
        }
    }
}
