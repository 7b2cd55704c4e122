//! The endpoints that receive the events.

use bench::{event, receiver::Receiver};
use e2e::{Endpoint, Installation, now_ms};
use signature::Secret;
use store::{NewEndpoint, Store};
use webhook::{EndpointId, OrganizationId};

/// Registers `fan_out` endpoints for the first organization.
pub(crate) async fn of_one(
    installation: &Installation,
    receiver: &Receiver,
    fan_out: usize,
) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for place in 0..fan_out {
        let url = receiver.url(0, place);
        endpoints.push(installation.endpoint(&event::organization(0), &url).await);
    }
    endpoints
}

/// Registers one endpoint for each of this many organizations, in the installation's SQLite database. Uses
/// the store directly, which also encrypts their secrets, because running a command for each would take
/// minutes.
pub(crate) async fn of_many(installation: &Installation, receiver: &Receiver, organizations: usize) {
    let url = format!("sqlite://{}/magnetite.db", installation.directory().display());
    let store = Store::connect(&url, &[]).await.unwrap();
    for number in 0..organizations {
        // The secrets protect nothing here, so numbers are random enough.
        let (mut random, mut id) = ([0; 32], [0; 16]);
        random[..8].copy_from_slice(&number.to_be_bytes());
        id[..8].copy_from_slice(&number.to_be_bytes());
        let new = NewEndpoint {
            organization_id: OrganizationId::new(event::organization(number)),
            project_id: None,
            url: receiver.url(number, 0),
            subscription: "*".parse().unwrap(),
            secret: Secret::generate(random),
        };
        let created = store.create_endpoint(new, EndpointId::generate(id), now_ms() as i64);
        created.await.unwrap();
    }
    store.close().await;
}
