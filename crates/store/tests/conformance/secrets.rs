//! Secrets: sealed at rest, rotated, and resealed.

use signature::Secret;
use store::{Error, Lookup, Store};
use webhook::{Endpoint, EndpointId};

use super::{
    bed::{Bed, endpoint_id, new_endpoint, on_both_databases, sealing_key, since},
    schema::ALL,
};

on_both_databases! {
    no_secret_is_stored_in_clear,
    a_secret_that_was_stored_in_clear_is_sealed_by_migrating,
    what_is_sealed_for_one_endpoint_does_not_open_at_another,
    without_its_key_nothing_is_loaded_and_nothing_sealed,
    a_rotated_secret_is_valid_until_its_overlap_ends,
    a_second_rotation_waits_for_the_overlap_or_voids_everything_before,
    sealing_anew_needs_no_other_key_afterwards,
}

fn secret(byte: u8) -> Secret {
    Secret::generate([byte; 32])
}

async fn found(store: &Store, id: &EndpointId) -> Endpoint {
    match store.endpoint(id).await.unwrap() {
        Lookup::Found(endpoint) => endpoint,
        other => panic!("{other:?}"),
    }
}

async fn in_clear(bed: &Bed) -> i64 {
    bed.number("SELECT COUNT(*) FROM endpoints WHERE secret LIKE 'whsec%' OR previous_secret LIKE 'whsec%'")
        .await
}

async fn no_secret_is_stored_in_clear(bed: Bed) {
    let store = bed.migrated().await;
    let new = new_endpoint("org_1");
    store.create_endpoint(new, endpoint_id(1), 1).await.unwrap();
    store
        .rotate_secret(&endpoint_id(1), &secret(8), Some(9), 2)
        .await
        .unwrap();
    let sealed =
        "SELECT COUNT(*) FROM endpoints WHERE secret LIKE 'sealed:%' AND previous_secret LIKE 'sealed:%'";
    assert_eq!((bed.number(sealed).await, in_clear(&bed).await), (1, 0));
    store.delete_endpoint(&endpoint_id(1), 3).await.unwrap();
    let left = "SELECT COUNT(*) FROM endpoints WHERE secret IS NOT NULL OR previous_secret IS NOT NULL";
    assert_eq!(bed.number(left).await, 0);
}

async fn a_secret_that_was_stored_in_clear_is_sealed_by_migrating(bed: Bed) {
    let store = bed.migrated().await;
    let new = new_endpoint("org_1");
    let created = store.create_endpoint(new, endpoint_id(1), 1).await.unwrap();
    // The schema and the secret as the version before sealing left them.
    bed.execute(&format!(
        "UPDATE endpoints SET secret = '{}'; ALTER TABLE endpoints DROP COLUMN previous_secret; \
         ALTER TABLE endpoints DROP COLUMN previous_until_ms; ALTER TABLE registry DROP COLUMN sealing_key; \
         DROP TABLE relays; DROP TABLE api_keys; DROP TABLE changes; DROP TABLE roles; DROP TABLE installation; DROP TABLE batches; DROP TABLE delays; DROP TABLE totals; ALTER TABLE events DROP COLUMN seen; DROP INDEX deliveries_undelivered_by_organization; DROP INDEX deliveries_unrecorded; ALTER TABLE deliveries DROP COLUMN recorded; ALTER TABLE deliveries DROP COLUMN replaced_ms; DROP TABLE endpoint_history; DROP TABLE retention; DROP TABLE retention_stops; ALTER TABLE registry DROP COLUMN change_count; \
         ALTER TABLE registry DROP COLUMN low_version; DROP INDEX endpoints_existing; DROP INDEX endpoints_deleted; \
         DELETE FROM magnetite_migrations WHERE version >= 3",
        created.secret.expose()
    ))
    .await;
    let store = bed.connect().await;
    assert_eq!(store.migrate().await.unwrap(), ALL[2..]);
    assert_eq!(in_clear(&bed).await, 0);
    assert_eq!(found(&store, &created.id).await, created);
}

async fn what_is_sealed_for_one_endpoint_does_not_open_at_another(bed: Bed) {
    let store = bed.migrated().await;
    for id in [1, 2] {
        let new = new_endpoint("org_1");
        store.create_endpoint(new, endpoint_id(id), 1).await.unwrap();
    }
    let (from, to) = (endpoint_id(1), endpoint_id(2));
    bed.execute(&format!(
        "UPDATE endpoints SET secret = (SELECT secret FROM endpoints WHERE id = '{from}') WHERE id = '{to}'"
    ))
    .await;
    let error = store.endpoint(&to).await.unwrap_err();
    assert!(
        matches!(&error, Error::Undecodable { column: "secret", .. }),
        "{error}"
    );
    let loaded = store.load_registry().await.unwrap();
    assert_eq!((loaded.endpoints.len(), loaded.unreadable), (1, vec![to]));
}

async fn without_its_key_nothing_is_loaded_and_nothing_sealed(bed: Bed) {
    let store = bed.migrated().await;
    store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(1), 1)
        .await
        .unwrap();
    let stranger = bed.connect_with(&[sealing_key(2)]).await;
    let missing = |error: Error| {
        assert!(matches!(&error, Error::SealingKeyMissing { .. }), "{error}");
        assert!(error.to_string().contains(&sealing_key(1).id()), "{error}");
    };
    missing(stranger.load_registry().await.unwrap_err());
    missing(stranger.registry_changes(&since(0)).await.unwrap_err());
    missing(stranger.endpoint(&endpoint_id(1)).await.unwrap_err());
    // Regardless of the order of their keys, all stores seal with the key that sealed first.
    let created = stranger
        .create_endpoint(new_endpoint("org_1"), endpoint_id(2), 1)
        .await;
    missing(created.unwrap_err());
    let both = bed.connect_with(&[sealing_key(2), sealing_key(1)]).await;
    both.create_endpoint(new_endpoint("org_1"), endpoint_id(2), 1)
        .await
        .unwrap();
    assert_eq!(store.load_registry().await.unwrap().endpoints.len(), 2);
}

async fn a_rotated_secret_is_valid_until_its_overlap_ends(bed: Bed) {
    let store = bed.migrated().await;
    let new = new_endpoint("org_1");
    let created = store.create_endpoint(new, endpoint_id(1), 1).await.unwrap();
    let rotated = store
        .rotate_secret(&created.id, &secret(8), Some(1_000), 10)
        .await
        .unwrap();
    assert_eq!(rotated.secret, secret(8));
    assert_eq!(rotated.previous_at(999).unwrap().secret, created.secret);
    assert_eq!(rotated.previous_at(1_000), None);
    assert!(rotated.version > created.version);
    let changes = store.registry_changes(&since(created.version)).await.unwrap();
    assert_eq!(changes.endpoints, [rotated]);

    let unknown = store.rotate_secret(&endpoint_id(9), &secret(8), None, 10).await;
    assert!(
        matches!(unknown, Err(Error::EndpointNotFound { .. })),
        "{unknown:?}"
    );
}

async fn a_second_rotation_waits_for_the_overlap_or_voids_everything_before(bed: Bed) {
    let store = bed.migrated().await;
    let id = endpoint_id(1);
    store
        .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
        .await
        .unwrap();
    store
        .rotate_secret(&id, &secret(2), Some(1_000), 10)
        .await
        .unwrap();
    let refused = store.rotate_secret(&id, &secret(3), Some(2_000), 999).await;
    assert!(
        matches!(refused, Err(Error::RotationOpen { until_ms: 1_000, .. })),
        "{refused:?}"
    );
    assert_eq!(found(&store, &id).await.secret, secret(2));
    let voided = store.rotate_secret(&id, &secret(4), None, 999).await.unwrap();
    assert_eq!((voided.secret, voided.previous), (secret(4), None));
    let rotated = store
        .rotate_secret(&id, &secret(5), Some(2_000), 999)
        .await
        .unwrap();
    assert_eq!(rotated.previous.unwrap().secret, secret(4));
    let later = store
        .rotate_secret(&id, &secret(6), Some(3_000), 2_000)
        .await
        .unwrap();
    assert_eq!(later.previous.unwrap().secret, secret(5));
}

async fn sealing_anew_needs_no_other_key_afterwards(bed: Bed) {
    let store = bed.migrated().await;
    // More endpoints than one transaction reseals.
    let count = 450;
    for number in 1..=count {
        store
            .create_endpoint(new_endpoint("org_1"), endpoint_id(number), 1)
            .await
            .unwrap();
    }
    let first = endpoint_id(1);
    store
        .rotate_secret(&first, &secret(2), Some(1_000), 10)
        .await
        .unwrap();
    let before = store.load_registry().await.unwrap();
    let both = bed.connect_with(&[sealing_key(2), sealing_key(1)]).await;
    assert_eq!(both.reseal_secrets().await.unwrap(), u64::from(count));
    assert_eq!(both.reseal_secrets().await.unwrap(), 0);
    let second = bed.connect_with(&[sealing_key(2)]).await;
    assert_eq!(second.load_registry().await.unwrap(), before);
    second
        .create_endpoint(new_endpoint("org_1"), endpoint_id(count + 1), 1)
        .await
        .unwrap();
    let error = store.load_registry().await.unwrap_err();
    assert!(matches!(error, Error::SealingKeyMissing { .. }), "{error}");
}
