//! Relays: their leases, which keys have them, and how they end.

use std::time::Duration;

use store::{EndpointChange, Error, Lookup, NewEndpoint, Renewal, Store};
use webhook::{ApiKeyId, EndpointId, OrganizationId, RELAY_URL};

use super::{
    api_keys::{key_id, new_key},
    bed::{Bed, endpoint_id, new_endpoint, on_both_databases},
};

on_both_databases! {
    a_lease_is_renewed_by_the_key_that_opened_the_relay_even_after_it_has_expired,
    a_relay_without_a_valid_key_is_not_renewed_and_the_reason_is_told,
    a_relay_that_was_deleted_is_not_renewed,
    a_relay_is_deleted_only_when_its_lease_has_expired,
    a_relay_that_cannot_be_created_leaves_no_lease,
    the_url_of_a_relay_cannot_be_changed,
    the_lease_of_an_endpoint_that_is_no_relay_is_forgotten_and_the_endpoint_stays,
    the_relays_of_a_key_are_those_of_one_organization,
    expired_relays_are_listed_in_pages,
}

const AGE: Duration = Duration::from_mins(1);

fn new_relay() -> NewEndpoint {
    NewEndpoint {
        url: RELAY_URL.to_owned(),
        ..new_endpoint("org_1")
    }
}

/// Opens a relay of `org_1` with the endpoint's id of this number.
async fn opened(store: &Store, number: u32, key: &ApiKeyId, age: Duration) -> EndpointId {
    let id = endpoint_id(number);
    let opened = store.create_relay(new_relay(), id.clone(), (key, age), 1).await;
    assert_eq!(opened.unwrap().url, RELAY_URL);
    id
}

async fn key(store: &Store, byte: u8) -> ApiKeyId {
    let row = store
        .create_api_key(new_key("org_1", byte), key_id(byte), 100)
        .await;
    row.unwrap().id
}

async fn leases(bed: &Bed) -> i64 {
    bed.number("SELECT COUNT(*) FROM relays").await
}

async fn a_lease_is_renewed_by_the_key_that_opened_the_relay_even_after_it_has_expired(bed: Bed) {
    let store = bed.migrated().await;
    let (own, other) = (key(&store, 1).await, key(&store, 2).await);
    let relay = opened(&store, 1, &own, Duration::ZERO).await;
    assert_eq!(
        store.renew_relay(&relay, &other, AGE).await.unwrap(),
        Renewal::Ended
    );
    assert_eq!(
        store.expired_relays(None).await.unwrap(),
        std::slice::from_ref(&relay)
    );
    assert_eq!(
        store.renew_relay(&relay, &own, AGE).await.unwrap(),
        Renewal::Renewed
    );
    assert!(store.expired_relays(None).await.unwrap().is_empty());
    let unknown = store.renew_relay(&endpoint_id(9), &own, AGE).await.unwrap();
    assert_eq!(unknown, Renewal::Ended);
}

async fn a_relay_without_a_valid_key_is_not_renewed_and_the_reason_is_told(bed: Bed) {
    let store = bed.migrated().await;
    let revoked = key(&store, 1).await;
    let mut expiring = new_key("org_1", 2);
    expiring.expires_at_ms = Some(1);
    let expired = store.create_api_key(expiring, key_id(2), 0).await.unwrap().id;
    let relays = [
        (opened(&store, 1, &revoked, AGE).await, revoked.clone()),
        (opened(&store, 2, &expired, AGE).await, expired),
        // The row of a key that ended long ago is removed.
        (opened(&store, 3, &key_id(3), AGE).await, key_id(3)),
    ];
    assert_eq!(
        store.renew_relay(&relays[0].0, &revoked, AGE).await.unwrap(),
        Renewal::Renewed
    );
    store.revoke_api_key(&revoked, 200).await.unwrap();
    for (relay, key) in relays {
        let renewal = store.renew_relay(&relay, &key, AGE).await.unwrap();
        assert_eq!(renewal, Renewal::KeyInvalid, "{key}");
    }
}

async fn a_relay_that_was_deleted_is_not_renewed(bed: Bed) {
    let store = bed.migrated().await;
    let key = key(&store, 1).await;
    let relay = opened(&store, 1, &key, AGE).await;
    store.delete_endpoint(&relay, 2).await.unwrap();
    assert_eq!(
        store.renew_relay(&relay, &key, AGE).await.unwrap(),
        Renewal::Ended
    );
    assert_eq!(leases(&bed).await, 0, "the lease is removed with the endpoint");
}

async fn a_relay_is_deleted_only_when_its_lease_has_expired(bed: Bed) {
    let store = bed.migrated().await;
    let key = key(&store, 1).await;
    let (expired, current) = (
        opened(&store, 1, &key, Duration::ZERO).await,
        opened(&store, 2, &key, AGE).await,
    );
    assert!(!store.expire_relay(&current, 2).await.unwrap());
    assert!(store.expire_relay(&expired, 2).await.unwrap());
    assert!(
        !store.expire_relay(&expired, 3).await.unwrap(),
        "it was deleted before"
    );
    assert_eq!(store.endpoint(&expired).await.unwrap(), Lookup::Deleted);
    assert!(matches!(
        store.endpoint(&current).await.unwrap(),
        Lookup::Found(_)
    ));
    assert_eq!(leases(&bed).await, 1);
    let changes = store.changes(None, None, 10).await.unwrap();
    assert_eq!(changes[0].kind.as_str(), "endpoint.deleted");
    assert_eq!(changes[0].subject, expired.as_str());
    // A deletion that was refused counts nothing.
    let count = "SELECT endpoint_count FROM registry";
    assert_eq!(bed.number(count).await, 1);
}

async fn a_relay_that_cannot_be_created_leaves_no_lease(bed: Bed) {
    let store = bed.migrated().await.per_organization_max(1);
    let key = key(&store, 1).await;
    opened(&store, 1, &key, AGE).await;
    let refused = store
        .create_relay(new_relay(), endpoint_id(2), (&key, AGE), 2)
        .await;
    assert!(
        matches!(refused, Err(Error::OrganizationFull { .. })),
        "{refused:?}"
    );
    assert_eq!(leases(&bed).await, 1);
}

async fn the_url_of_a_relay_cannot_be_changed(bed: Bed) {
    let store = bed.migrated().await;
    let key = key(&store, 1).await;
    let relay = opened(&store, 1, &key, AGE).await;
    let url = EndpointChange {
        url: Some("https://example.com/".to_owned()),
        ..EndpointChange::default()
    };
    let refused = store.update_endpoint(&relay, url, 2).await;
    assert!(matches!(refused, Err(Error::RelayUrl { .. })), "{refused:?}");
    let events = EndpointChange {
        subscription: Some("lead.*".parse().unwrap()),
        ..EndpointChange::default()
    };
    let changed = store.update_endpoint(&relay, events, 2).await.unwrap();
    assert_eq!(
        (changed.url.as_str(), changed.subscription.to_string().as_str()),
        (RELAY_URL, "lead.*")
    );
}

async fn the_lease_of_an_endpoint_that_is_no_relay_is_forgotten_and_the_endpoint_stays(bed: Bed) {
    let store = bed.migrated().await;
    let key = key(&store, 1).await;
    let relays = [
        opened(&store, 1, &key, Duration::ZERO).await,
        opened(&store, 2, &key, Duration::ZERO).await,
        opened(&store, 3, &key, Duration::ZERO).await,
    ];
    // What a process of a version without relays can do.
    bed.execute(&format!(
        "UPDATE endpoints SET url = 'https://example.com/' WHERE id = '{}'; \
         UPDATE endpoints SET url = NULL, secret = NULL, deleted_at_ms = 2 WHERE id = '{}'",
        relays[0], relays[1],
    ))
    .await;
    for relay in &relays[..2] {
        assert!(!store.expire_relay(relay, 3).await.unwrap(), "{relay}");
    }
    for relay in &relays {
        store.forget_relay(relay).await.unwrap();
    }
    assert_eq!(leases(&bed).await, 1, "that of the relay stays");
    assert!(matches!(
        store.endpoint(&relays[0]).await.unwrap(),
        Lookup::Found(_)
    ));
}

async fn the_relays_of_a_key_are_those_of_one_organization(bed: Bed) {
    let store = bed.migrated().await;
    let (own, other) = (key(&store, 1).await, key(&store, 2).await);
    let relays = [
        opened(&store, 1, &own, AGE).await,
        opened(&store, 3, &own, AGE).await,
    ];
    opened(&store, 2, &other, AGE).await;
    let (first, second) = (OrganizationId::new("org_1"), OrganizationId::new("org_2"));
    assert_eq!(store.relays_of(&own, &first, None).await.unwrap(), relays);
    let Lookup::Found(newest) = store.endpoint(&relays[1]).await.unwrap() else {
        panic!("the relay exists");
    };
    let former = store.relays_of(&own, &first, Some(newest.version)).await;
    assert_eq!(former.unwrap(), relays[..1]);
    assert!(store.relays_of(&own, &second, None).await.unwrap().is_empty());
}

async fn expired_relays_are_listed_in_pages(bed: Bed) {
    let store = bed.migrated().await;
    let key = key(&store, 1).await;
    let mut opened_ids = Vec::new();
    for number in 1..=101 {
        opened_ids.push(opened(&store, number, &key, Duration::ZERO).await);
    }
    let first = store.expired_relays(None).await.unwrap();
    assert_eq!(first.len(), 100);
    let mut listed = store.expired_relays(first.last()).await.unwrap();
    assert_eq!(listed.len(), 1);
    listed.extend(first);
    listed.sort();
    opened_ids.sort();
    assert_eq!(listed, opened_ids);
}
