//! Who gets the events.

use e2e::{Endpoint, Installation, now_ms};
use signature::Secret;
use store::{NewEndpoint, Store};
use webhook::{EndpointId, OrganizationId};

use crate::{event, receiver::Receiver};

/// The endpoints of the first organization, in place of each other.
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

/// One endpoint each for so many organizations, in the installation's SQLite. Through the store itself, which
/// seals their secrets: a command for each would take minutes.
pub(crate) async fn of_many(installation: &Installation, receiver: &Receiver, organizations: usize) {
    let url = format!("sqlite://{}/magnetite.db", installation.directory().display());
    let store = Store::connect(&url, &[]).await.unwrap();
    for number in 0..organizations {
        // Nobody forges anything here, so the number is random enough.
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
