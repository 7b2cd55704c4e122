//! Operational events: one for every endpoint that is disabled, and no others.

use store::Store;
use webhook::DisabledReason;

use super::{
    super::bed::{Bed, new_endpoint, on_both_databases},
    samples::{ep, org},
};

on_both_databases! {
    disabling_an_endpoint_is_told_once,
    what_did_not_disable_is_not_told,
    what_was_published_is_deleted,
    a_certificate_that_expires_is_told_once_until_it_was_published,
}

async fn told(store: &Store) -> Vec<(String, u64)> {
    let operations = store.operations(99).await.unwrap().into_iter();
    operations
        .map(|operation| (operation.reason, operation.at_ms))
        .collect()
}

fn line(reason: &str, at_ms: u64) -> (String, u64) {
    (reason.to_owned(), at_ms)
}

async fn disabling_an_endpoint_is_told_once(bed: Bed) {
    let store = bed.migrated().await;
    let created = store
        .create_endpoint(new_endpoint("org_1"), ep(1), 1)
        .await
        .unwrap();
    assert!(
        store
            .disable_endpoint_unless_changed(&ep(1), created.version, DisabledReason::Gone, 2)
            .await
            .unwrap()
    );
    let operations = store.operations(9).await.unwrap();
    assert_eq!(
        (operations.len(), operations[0].kind.as_str()),
        (1, "endpoint.disabled")
    );
    assert_eq!(
        (&operations[0].organization_id, &operations[0].endpoint_id),
        (&org(1), &ep(1))
    );
    assert_eq!((operations[0].id.len(), &operations[0].id[..3]), (35, "op_"));

    store
        .disable_endpoint(&ep(1), DisabledReason::Gone, 3)
        .await
        .unwrap();
    assert_eq!(told(&store).await, [line("gone", 2)]);
    store
        .disable_endpoint(&ep(1), DisabledReason::Failing, 4)
        .await
        .unwrap();
    store.enable_endpoint(&ep(1), 5).await.unwrap();
    store
        .disable_endpoint(&ep(1), DisabledReason::Failing, 6)
        .await
        .unwrap();
    assert_eq!(
        told(&store).await,
        [line("gone", 2), line("failing", 4), line("failing", 6)]
    );
}

async fn what_did_not_disable_is_not_told(bed: Bed) {
    let store = bed.migrated().await;
    let created = store
        .create_endpoint(new_endpoint("org_1"), ep(1), 1)
        .await
        .unwrap();
    store.enable_endpoint(&ep(1), 2).await.unwrap();
    assert!(
        !store
            .disable_endpoint_unless_changed(&ep(1), created.version, DisabledReason::Gone, 3)
            .await
            .unwrap()
    );
    assert!(
        store
            .disable_endpoint(&ep(2), DisabledReason::Manual, 3)
            .await
            .is_err()
    );
    store.delete_endpoint(&ep(1), 4).await.unwrap();
    assert!(
        store
            .disable_endpoint(&ep(1), DisabledReason::Manual, 5)
            .await
            .is_err()
    );
    assert_eq!(told(&store).await, []);
}

async fn what_was_published_is_deleted(bed: Bed) {
    let store = bed.migrated().await;
    for (number, now_ms) in (1..=3).zip(1..) {
        store
            .create_endpoint(new_endpoint("org_1"), ep(number), now_ms)
            .await
            .unwrap();
        store
            .disable_endpoint(&ep(number), DisabledReason::Manual, now_ms)
            .await
            .unwrap();
    }
    let oldest = store.operations(2).await.unwrap();
    let ids: Vec<_> = oldest.into_iter().map(|operation| operation.id).collect();
    for _ in 0..2 {
        store.delete_operations(&ids).await.unwrap();
        assert_eq!(told(&store).await, [line("manual", 3)]);
    }
    store.delete_operations(&[]).await.unwrap();
    assert_eq!(told(&store).await.len(), 1);
}

async fn a_certificate_that_expires_is_told_once_until_it_was_published(bed: Bed) {
    let store = bed.migrated().await;
    store
        .create_endpoint(new_endpoint("org_1"), ep(1), 1)
        .await
        .unwrap();
    let (first, renewed) = ("2026-12-01T00:00:00Z", "2027-12-01T00:00:00Z");
    for (endpoint, expires, at_ms) in [
        (ep(1), first, 2),
        (ep(1), first, 3),
        (ep(1), renewed, 4),
        (ep(2), first, 5),
    ] {
        store.announce_expiring(&endpoint, expires, at_ms).await.unwrap();
    }
    assert_eq!(told(&store).await, [line(first, 2), line(renewed, 4)]);
    let operations = store.operations(9).await.unwrap();
    assert_eq!(
        (operations[0].kind.as_str(), &operations[0].endpoint_id),
        ("endpoint.certificate_expiring", &ep(1))
    );
    assert_eq!((operations[0].id.len(), &operations[0].id[..3]), (35, "op_"));
    store
        .delete_operations(&[operations[0].id.clone()])
        .await
        .unwrap();
    store.announce_expiring(&ep(1), first, 6).await.unwrap();
    let again = store.operations(9).await.unwrap().pop().unwrap();
    assert_eq!((again.at_ms, &again.id), (6, &operations[0].id));
    store.delete_endpoint(&ep(1), 7).await.unwrap();
    store
        .announce_expiring(&ep(1), "2028-12-01T00:00:00Z", 8)
        .await
        .unwrap();
    assert_eq!(told(&store).await.len(), 2);
}
