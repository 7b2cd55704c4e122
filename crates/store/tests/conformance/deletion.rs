//! Deleted endpoints: they are gone, but remembered and reported to readers that follow the registry.

use store::{EndpointChange, Error, Lookup};
use webhook::DisabledReason;

use super::bed::{Bed, endpoint_id, new_endpoint, on_both_databases, since};

on_both_databases! {
    a_deleted_endpoint_is_told_from_one_that_never_was,
    a_deleted_endpoint_leaves_neither_url_nor_secret_in_its_row,
    a_deletion_is_among_the_changes,
}

async fn a_deleted_endpoint_is_told_from_one_that_never_was(bed: Bed) {
    let store = bed.migrated().await;
    let id = endpoint_id(1);
    store
        .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
        .await
        .unwrap();
    store.delete_endpoint(&id, 2).await.unwrap();

    assert_eq!(store.endpoint(&id).await.unwrap(), Lookup::Deleted);
    assert_eq!(store.endpoint(&endpoint_id(2)).await.unwrap(), Lookup::Unknown);
    assert_eq!(store.list_endpoints(None, None, 10).await.unwrap(), []);
    assert_eq!(store.load_registry().await.unwrap().endpoints, []);
    for error in [
        store.delete_endpoint(&id, 3).await.unwrap_err(),
        store.enable_endpoint(&id, 3).await.unwrap_err(),
        store
            .disable_endpoint(&id, DisabledReason::Manual, 3)
            .await
            .unwrap_err(),
        store
            .update_endpoint(&id, EndpointChange::default(), 3)
            .await
            .unwrap_err(),
    ] {
        assert!(matches!(error, Error::EndpointNotFound { .. }), "{error:?}");
    }
    assert_eq!(store.registry_position().await.unwrap().version, 2);
}

async fn a_deleted_endpoint_leaves_neither_url_nor_secret_in_its_row(bed: Bed) {
    let store = bed.migrated().await;
    for number in 0..40 {
        store
            .create_endpoint(new_endpoint("org_1"), endpoint_id(number), 1)
            .await
            .unwrap();
    }
    let holding =
        "SELECT COUNT(*) FROM endpoints WHERE secret LIKE 'sealed:%' AND url LIKE 'https://hooks.example/%'";
    let wiped = "SELECT COUNT(*) FROM endpoints WHERE secret IS NULL AND url IS NULL";
    assert_eq!((bed.number(holding).await, bed.number(wiped).await), (40, 0));

    for number in 0..40 {
        store.delete_endpoint(&endpoint_id(number), 2).await.unwrap();
        let deleted = i64::from(number) + 1;
        if number % 13 == 0 {
            assert_eq!(
                (bed.number(holding).await, bed.number(wiped).await),
                (40 - deleted, deleted)
            );
        }
    }
    // In SQLite's file the deleted bytes are also overwritten, after the write-ahead log has been moved into
    // it.
    store.close().await;
    if let Some(path) = bed.sqlite_path() {
        assert!(
            !path.with_extension("db-wal").exists(),
            "the log is not in the file yet"
        );
        let bytes = std::fs::read(path).unwrap();
        let sealed = b"sealed:";
        assert!(!bytes.windows(sealed.len()).any(|window| window == sealed));
    }
}

async fn a_deletion_is_among_the_changes(bed: Bed) {
    let store = bed.migrated().await;
    let kept = store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(1), 1)
        .await
        .unwrap();
    store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(2), 1)
        .await
        .unwrap();
    store.delete_endpoint(&endpoint_id(2), 2).await.unwrap();

    let changes = store.registry_changes(&since(2)).await.unwrap();
    assert_eq!(
        (changes.position.version, changes.endpoints, changes.deleted),
        (3, vec![], vec![endpoint_id(2)])
    );
    let changes = store.registry_changes(&since(0)).await.unwrap();
    assert_eq!(
        (changes.position.version, changes.endpoints, changes.deleted),
        (3, vec![kept], vec![endpoint_id(2)])
    );
}
