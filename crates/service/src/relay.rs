//! Opens relays: endpoints whose requests are passed to a program that is connected to the API.

use std::time::Duration;

use signature::Secret;
use store::{Error, NewEndpoint, Store};
use webhook::{ApiKeyId, Endpoint, EndpointId, OrganizationId, ProjectId, RELAY_URL, Subscription};

/// How long a relay lives without a connected program.
pub const LEASE: Duration = Duration::from_mins(1);

/// A relay to be opened.
#[derive(Clone, Debug)]
pub struct NewRelay {
    /// The organization whose events are delivered.
    pub organization_id: OrganizationId,
    /// The project whose events are delivered; `None` for all projects.
    pub project_id: Option<ProjectId>,
    /// The event types to deliver.
    pub subscription: Subscription,
}

/// Opens a relay for a key: registers an endpoint with a new id and a new secret. Ends the relay that the key had in
/// the organization before, so that it has one at a time. `now_ms` is in Unix milliseconds.
///
/// # Errors
/// Returns an error if the database does not accept the endpoint.
pub async fn open(store: &Store, new: NewRelay, key: &ApiKeyId, now_ms: i64) -> Result<Endpoint, Error> {
    let organization = new.organization_id.clone();
    // Before the new one is created, because the organization may have no room for both.
    end_all(store, store.relays_of(key, &organization, None).await?, now_ms).await?;
    let id = EndpointId::generate(rand::random());
    let endpoint = NewEndpoint {
        organization_id: new.organization_id,
        project_id: new.project_id,
        url: RELAY_URL.to_owned(),
        subscription: new.subscription,
        secret: Secret::generate(rand::random()),
    };
    let opened = store.create_relay(endpoint, id, (key, LEASE), now_ms).await?;
    // Another request of the key may have opened one at the same time. The newest stays.
    let others = store.relays_of(key, &organization, Some(opened.version)).await?;
    end_all(store, others, now_ms).await?;
    Ok(opened)
}

async fn end_all(store: &Store, relays: Vec<EndpointId>, now_ms: i64) -> Result<(), Error> {
    for relay in relays {
        match store.delete_endpoint(&relay, now_ms).await {
            Ok(()) | Err(Error::EndpointNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
