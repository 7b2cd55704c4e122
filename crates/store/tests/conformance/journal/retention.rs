//! Retention: expired rows are deleted in chunks, and pending deliveries stay.

use store::{Error, Lookup, NewApiKey, RejectedRow, Store};
use webhook::journal::{Record, Then};

use super::{
    super::{
        api_keys::{key_id, new_key, new_platform_key},
        bed::{Bed, endpoint_id, new_endpoint, on_both_databases},
    },
    samples::{MINUTE, T, attempt, books, delivered, died, dlv, event, evt, gap, record, taken, to},
};

on_both_databases! {
    what_is_older_goes_in_chunks_and_nothing_else_does,
    a_pending_delivery_stays_with_its_event,
    an_event_stays_as_long_as_a_resend_of_it,
    the_row_of_a_deleted_endpoint_stays_until_the_journal_has_no_delivery_to_it,
    a_reader_that_may_have_missed_a_deletion_loads_everything_again,
    an_endpoint_that_was_changed_every_minute_holds_up_nothing,
    keys_that_were_revoked_or_have_expired_go_in_chunks_and_no_others_do,
}

async fn what_is_older_goes_in_chunks_and_nothing_else_does(bed: Bed) {
    let store = bed.migrated().await;
    // Ten are older than `T`, and ten are not.
    let at = |number: u32| T - 10 + u64::from(number);
    let records = (0..20).flat_map(|number| {
        let event = event(number);
        let lost = gap("worker", at(number), at(number));
        [
            taken(&event, at(number), "1:matched"),
            delivered(&event, 1, at(number)),
            lost,
        ]
    });
    let rejected: Vec<_> = (0..20)
        .map(|number| RejectedRow {
            id: format!("rej_{number}"),
            rejected_ms: at(number),
            source: "due".to_owned(),
            reason: "bad_header".to_owned(),
            detail: String::new(),
            message_id: None,
            event_type: None,
            headers: "{}".to_owned(),
            body: bytes(),
            redriven_ms: None,
        })
        .collect();
    store.record(&books(records), &rejected).await.unwrap();

    let deleted = expire(&store, T, 4).await;
    assert!(deleted.iter().all(|rows| *rows <= 5 * 4), "{deleted:?}");
    assert_eq!(deleted.iter().sum::<u64>(), 50);
    for table in ["events", "deliveries", "attempts", "rejected", "gaps"] {
        assert_eq!(
            bed.number(&format!("SELECT COUNT(*) FROM {table}")).await,
            10,
            "{table}"
        );
    }
    assert_eq!(store.event(&evt(9), None).await.unwrap(), []);
    assert_eq!(store.event(&evt(10), None).await.unwrap().len(), 1);
    assert!(store.rejected_message("rej_10").await.unwrap().is_some());
}

/// Half of the endpoint's history has expired. A search in quadratic time would exceed the timeout.
async fn an_endpoint_that_was_changed_every_minute_holds_up_nothing(bed: Bed) {
    const CHANGES: u64 = 60_000;
    let store = bed.migrated().await;
    bed.execute(&format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {CHANGES}) \
         INSERT INTO endpoint_history (endpoint_id, version, at_ms, project_id, subscription) \
         SELECT 'ep_often', n, {T} + CAST(n AS BIGINT) * {MINUTE}, NULL, '*' FROM numbers UNION ALL SELECT 'ep_once', 1, {T}, NULL, '*'"
    ))
    .await;
    expire(&store, T + (CHANGES / 2) * MINUTE + 1, 100).await;
    let left = "SELECT COUNT(*) FROM endpoint_history WHERE endpoint_id = 'ep_often'";
    assert_eq!(
        bed.number(left).await as u64,
        CHANGES / 2 + 1,
        "the newest of the old ones was true until later"
    );
    assert_eq!(
        bed.number("SELECT COUNT(*) FROM endpoint_history").await as u64,
        CHANGES / 2 + 2
    );
}

/// Deletes expired rows and returns the number of rows deleted with each slice.
async fn expire(store: &Store, before_ms: u64, chunk: u32) -> Vec<u64> {
    let (mut from_ms, mut deleted) = (0, Vec::new());
    while from_ms < before_ms {
        let expired = store.delete_expired(from_ms, before_ms, chunk).await.unwrap();
        assert!(expired.until_ms > from_ms && expired.until_ms <= before_ms);
        (from_ms, deleted) = (expired.until_ms, [deleted, vec![expired.rows]].concat());
    }
    deleted
}

fn bytes() -> bytes::Bytes {
    bytes::Bytes::from_static(b"{")
}

async fn a_pending_delivery_stays_with_its_event(bed: Bed) {
    let store = bed.migrated().await;
    let retried = attempt(to(&event(1), 2, 0), 1, T, Then::Retry { at_ms: T + 1_000 });
    record(
        &store,
        [
            taken(&event(1), T, "1:matched 2:matched"),
            delivered(&event(1), 1, T),
            Record::Attempt(retried),
        ],
    )
    .await;
    expire(&store, T + MINUTE, 2).await;
    assert_eq!(store.event(&evt(1), None).await.unwrap().len(), 1);
    assert_eq!(store.delivery(&dlv(1, 1, 0)).await.unwrap(), None);
    assert!(store.delivery(&dlv(1, 2, 0)).await.unwrap().is_some());
}

async fn an_event_stays_as_long_as_a_resend_of_it(bed: Bed) {
    let store = bed.migrated().await;
    record(
        &store,
        [taken(&event(1), T, "1:matched"), died(&event(1), 1, 0, T)],
    )
    .await;
    store
        .request_resends(&[dlv(1, 1, 0)], T + 5 * MINUTE)
        .await
        .unwrap();
    record(&store, [died(&event(1), 1, 1, T + 6 * MINUTE)]).await;
    expire(&store, T + MINUTE, 9).await;
    assert_eq!(store.delivery(&dlv(1, 1, 0)).await.unwrap(), None);
    assert_eq!(store.event(&evt(1), None).await.unwrap().len(), 1);
    expire(&store, T + 9 * MINUTE, 9).await;
    assert_eq!(store.event(&evt(1), None).await.unwrap(), []);
}

/// Creates endpoints with these numbers and deletes them at the same time.
async fn create_and_delete(store: &Store, numbers: impl IntoIterator<Item = u32>, at_ms: u64) {
    for number in numbers {
        let id = endpoint_id(number);
        store
            .create_endpoint(new_endpoint("org_1"), id.clone(), at_ms as i64)
            .await
            .unwrap();
        store.delete_endpoint(&id, at_ms as i64).await.unwrap();
    }
}

async fn the_row_of_a_deleted_endpoint_stays_until_the_journal_has_no_delivery_to_it(bed: Bed) {
    let store = bed.migrated().await;
    store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(0), 1)
        .await
        .unwrap();
    create_and_delete(&store, 1..=12, T).await;
    create_and_delete(&store, [13], T + MINUTE).await;
    let retried = attempt(to(&event(1), 2, 0), 1, T, Then::Retry { at_ms: T + 1_000 });
    record(
        &store,
        [
            taken(&event(1), T, "1:matched 2:matched"),
            delivered(&event(1), 1, T),
            Record::Attempt(retried),
        ],
    )
    .await;
    let rows = "SELECT COUNT(*) FROM endpoints";
    expire(&store, T, 100).await;
    assert_eq!(bed.number(rows).await, 14, "none is old enough");
    let deleted = expire(&store, T + MINUTE, 100).await;
    // One delivery and its attempt, the other attempt, and all rows except those of endpoints 0, 2 and 13.
    assert_eq!(deleted.iter().sum::<u64>(), 3 + 11);
    assert_eq!(bed.number(rows).await, 3);

    assert!(matches!(
        store.endpoint(&endpoint_id(0)).await.unwrap(),
        Lookup::Found(_)
    ));
    for number in 1..=13 {
        let found = store.endpoint(&endpoint_id(number)).await.unwrap();
        assert_eq!(
            found,
            Lookup::Deleted,
            "of endpoint {number} the log of changes is left"
        );
    }
    assert_eq!(store.endpoint(&endpoint_id(14)).await.unwrap(), Lookup::Unknown);

    record(&store, [delivered(&event(1), 2, T + MINUTE)]).await;
    expire(&store, T + 2 * MINUTE, 100).await;
    assert_eq!(bed.number(rows).await, 1);
    assert_eq!(store.load_registry().await.unwrap().endpoints.len(), 1);
}

async fn a_reader_that_may_have_missed_a_deletion_loads_everything_again(bed: Bed) {
    let store = bed.migrated().await;
    create_and_delete(&store, [1], T).await;
    let before = store.load_registry().await.unwrap().position;
    create_and_delete(&store, [2], T).await;
    let after = store.load_registry().await.unwrap().position;
    create_and_delete(&store, [3], T + MINUTE).await;

    let changes = store.registry_changes(&before).await.unwrap();
    assert_eq!(changes.deleted, [endpoint_id(2), endpoint_id(3)]);
    expire(&store, T + 1, 100).await;
    let error = store.registry_changes(&before).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::RegistryForgot {
                since: 2,
                low_version: 4
            }
        ),
        "{error:?}"
    );
    let changes = store.registry_changes(&after).await.unwrap();
    assert_eq!(changes.deleted, [endpoint_id(3)]);
    let loaded = store.load_registry().await.unwrap();
    assert_eq!((loaded.position.version, loaded.endpoints.len()), (6, 0));
    expire(&store, T + 2 * MINUTE, 100).await;
    assert!(store.registry_changes(&loaded.position).await.is_ok());
    store.registry_changes(&after).await.unwrap_err();
}

async fn keys_that_were_revoked_or_have_expired_go_in_chunks_and_no_others_do(bed: Bed) {
    let store = bed.migrated().await;
    let create = async |byte: u8, new: NewApiKey, expires_at_ms: Option<u64>| {
        let new = NewApiKey { expires_at_ms, ..new };
        store.create_api_key(new, key_id(byte), 1).await.unwrap();
    };
    // Ten were revoked and ten have expired before `T`, one millisecond after the other.
    for byte in 0..10 {
        create(byte, new_key("org_1", byte), None).await;
        let ended_ms = T - 10 + u64::from(byte);
        store.revoke_api_key(&key_id(byte), ended_ms).await.unwrap();
        create(10 + byte, new_platform_key(10 + byte), Some(ended_ms)).await;
    }
    create(20, new_key("org_1", 20), None).await;
    create(21, new_platform_key(21), None).await;
    create(22, new_key("org_1", 22), Some(T)).await;
    create(23, new_key("org_1", 23), None).await;
    store.revoke_api_key(&key_id(23), T).await.unwrap();
    // Revoked recently, but expired before.
    create(24, new_key("org_1", 24), Some(T - 1)).await;
    store.revoke_api_key(&key_id(24), T).await.unwrap();
    let changes = store.changes(None, None, 100).await.unwrap();

    let deleted = expire(&store, T, 4).await;
    assert!(deleted.iter().all(|rows| *rows <= 2 * 4), "{deleted:?}");
    assert_eq!(deleted.iter().sum::<u64>(), 21);
    let left = store.api_keys(None, None, 100).await.unwrap();
    let left: Vec<_> = left.into_iter().map(|key| key.id).collect();
    assert_eq!(left, [20, 21, 22, 23].map(key_id));
    assert_eq!(store.changes(None, None, 100).await.unwrap(), changes);
}
