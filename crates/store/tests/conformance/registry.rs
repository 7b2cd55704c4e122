//! The registry: its counter, loading it, and following it during concurrent writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use store::{CHANGES_MAX, Changes, ENDPOINTS_MAX, EndpointChange, Error, Position, Store};
use webhook::{Endpoint, EndpointId};

use super::bed::{Backup, Bed, SECRET, endpoint_id, new_endpoint, on_both_databases, since};

on_both_databases! {
    every_write_advances_the_counter_by_one,
    changes_are_those_after_the_given_version,
    a_counter_that_went_back_is_noticed,
    a_restored_database_that_counts_past_what_a_reader_saw_is_noticed,
    a_reader_that_saw_what_the_backup_has_reads_on,
    twenty_writers_get_increasing_versions_and_a_poller_misses_nothing,
    a_loaded_registry_is_of_one_moment,
    changes_come_in_bounded_pages_that_miss_nothing,
    one_row_that_cannot_be_read_hides_no_other,
    more_endpoints_than_workers_hold_are_refused,
}

const WRITERS: u32 = 20;
const ENDPOINTS_PER_WRITER: u32 = 10;

async fn every_write_advances_the_counter_by_one(bed: Bed) {
    let store = bed.migrated().await;
    assert_eq!(store.registry_position().await.unwrap().version, 0);
    assert_eq!(store.load_registry().await.unwrap().position.version, 0);

    let id = endpoint_id(1);
    store
        .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
        .await
        .unwrap();
    assert_eq!(store.registry_position().await.unwrap().version, 1);
    let updated = store
        .update_endpoint(&id, EndpointChange::default(), 2)
        .await
        .unwrap();
    assert_eq!(
        (updated.version, store.registry_position().await.unwrap().version),
        (2, 2)
    );
    store.delete_endpoint(&id, 3).await.unwrap();
    assert_eq!(store.registry_position().await.unwrap().version, 3);
}

async fn changes_are_those_after_the_given_version(bed: Bed) {
    let store = bed.migrated().await;
    let none = |position| Changes {
        position,
        endpoints: vec![],
        deleted: vec![],
        unreadable: vec![],
    };
    assert_eq!(store.registry_changes(&since(0)).await.unwrap(), none(since(0)));

    let first = store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(1), 1)
        .await
        .unwrap();
    let second = store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(2), 1)
        .await
        .unwrap();
    let first_again = store.enable_endpoint(&first.id, 2).await.unwrap();
    assert_eq!(
        store.registry_changes(&since(0)).await.unwrap().endpoints,
        [second.clone(), first_again.clone()]
    );
    assert_eq!(
        store.registry_changes(&since(1)).await.unwrap().endpoints,
        [second.clone(), first_again.clone()]
    );
    assert_eq!(
        store.registry_changes(&since(2)).await.unwrap().endpoints,
        std::slice::from_ref(&first_again)
    );
    let newest = store.registry_position().await.unwrap();
    assert_eq!((newest.version, newest.change), (3, 3));
    assert_eq!(store.registry_changes(&since(3)).await.unwrap(), none(newest));

    let snapshot = store.load_registry().await.unwrap();
    assert_eq!(
        (snapshot.position.version, snapshot.endpoints),
        (3, vec![first_again, second])
    );
}

async fn a_counter_that_went_back_is_noticed(bed: Bed) {
    let store = bed.migrated().await;
    store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(1), 1)
        .await
        .unwrap();
    let error = store.registry_changes(&since(2)).await.unwrap_err();
    assert!(
        matches!(error, Error::RegistryWentBack { since: 2, version: 1 }),
        "{error:?}"
    );
}

/// The backup has one endpoint. After the backup the reader sees a second one, which the restored database
/// never had. The restored database then reaches the same version and later ones through other changes.
async fn a_restored_database_that_counts_past_what_a_reader_saw_is_noticed(bed: Bed) {
    let store = bed.migrated().await;
    let create = async |store: &Store, number| {
        let id = endpoint_id(number);
        let created = store.create_endpoint(new_endpoint("org_1"), id, 1).await;
        created.unwrap()
    };
    create(&store, 1).await;
    let backup = Backup::of(&bed, &store).await;
    let store = bed.connect().await;
    create(&store, 2).await;
    let seen = store.load_registry().await.unwrap().position;
    store.close().await;

    backup.restore(&bed).await;
    let store = bed.connect().await;
    for number in 3..6 {
        let created = create(&store, number).await;
        let position = store.registry_position().await.unwrap();
        assert_eq!(position.version, created.version);
        assert_ne!(position, seen, "at version {}", position.version);
        let error = store.registry_changes(&seen).await.unwrap_err();
        assert!(matches!(error, Error::RegistryWentBack { .. }), "{error:?}");
    }
    let ids: Vec<_> = store.load_registry().await.unwrap().endpoints;
    let ids: Vec<_> = ids.into_iter().map(|endpoint| endpoint.id).collect();
    assert_eq!(ids, [1, 3, 4, 5].map(endpoint_id));
}

async fn a_reader_that_saw_what_the_backup_has_reads_on(bed: Bed) {
    let store = bed.migrated().await;
    let create = async |store: &Store, number| {
        let id = endpoint_id(number);
        store.create_endpoint(new_endpoint("org_1"), id, 1).await.unwrap();
    };
    create(&store, 1).await;
    let seen = store.registry_position().await.unwrap();
    let backup = Backup::of(&bed, &store).await;
    backup.restore(&bed).await;
    let store = bed.connect().await;
    assert_eq!(store.registry_position().await.unwrap(), seen);
    create(&store, 2).await;
    let changes = store.registry_changes(&seen).await.unwrap();
    assert_eq!(changes.endpoints.len(), 1);
    assert_eq!(changes.endpoints[0].id, endpoint_id(2));
    // An older version of the program writes no nonce. Then the time identifies the change.
    bed.execute("UPDATE changes SET nonce = NULL").await;
    let seen = store.registry_position().await.unwrap();
    assert_eq!(seen.stamp, 1);
    create(&store, 3).await;
    let changes = store.registry_changes(&seen).await.unwrap();
    assert_eq!(changes.endpoints.len(), 1);
}

/// A reader that keeps a copy of the registry and follows the changes, like a worker.
struct Follower {
    position: Position,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    deleted: BTreeSet<EndpointId>,
    /// All versions of endpoints, in the order in which the reader saw them.
    versions: Vec<i64>,
}

impl Follower {
    async fn follow(&mut self, store: &Store) {
        let since = self.position.version;
        let changes = store.registry_changes(&self.position).await.unwrap();
        assert!(changes.position.version >= since);
        for endpoint in changes.endpoints {
            assert!(since < endpoint.version && endpoint.version <= changes.position.version);
            self.versions.push(endpoint.version);
            self.endpoints.insert(endpoint.id.clone(), endpoint);
        }
        for id in changes.deleted {
            assert!(self.deleted.insert(id.clone()), "{id} was deleted twice");
            self.endpoints.remove(&id);
        }
        self.position = changes.position;
    }
}

/// Creates endpoints, changes every second one and deletes every fourth. Returns the versions of the
/// creations and changes, in the order in which they were assigned.
async fn write_some(store: Store, writer: u32) -> Vec<i64> {
    let mut versions = Vec::new();
    for number in 0..ENDPOINTS_PER_WRITER {
        let id = endpoint_id(writer * 1000 + number);
        versions.push(
            store
                .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
                .await
                .unwrap()
                .version,
        );
        if number % 2 == 0 {
            versions.push(
                store
                    .update_endpoint(&id, EndpointChange::default(), 2)
                    .await
                    .unwrap()
                    .version,
            );
        }
        if number % 4 == 0 {
            store.delete_endpoint(&id, 3).await.unwrap();
        }
    }
    versions
}

async fn twenty_writers_get_increasing_versions_and_a_poller_misses_nothing(bed: Bed) {
    let stores = [bed.migrated().await, bed.connect().await, bed.connect().await];
    let done = Arc::new(AtomicBool::new(false));
    let poller = tokio::spawn({
        let (store, done) = (stores[2].clone(), done.clone());
        async move {
            let (endpoints, deleted) = (BTreeMap::new(), BTreeSet::new());
            let mut follower = Follower {
                position: Position::default(),
                endpoints,
                deleted,
                versions: Vec::new(),
            };
            loop {
                // Read before the last poll, so that the last poll follows the last write.
                let last = done.load(Ordering::SeqCst);
                follower.follow(&store).await;
                if last {
                    return follower;
                }
                tokio::task::yield_now().await;
            }
        }
    });
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write_some(stores[writer as usize % 2].clone(), writer)))
        .collect();
    let mut versions = Vec::new();
    for writer in writers {
        let own = writer.await.unwrap();
        assert!(own.is_sorted_by(|one, next| one < next), "{own:?}");
        versions.extend(own);
    }
    done.store(true, Ordering::SeqCst);
    let follower = poller.await.unwrap();

    // For every ten endpoints: ten creations, five updates, three deletions.
    let writes = i64::from(WRITERS * ENDPOINTS_PER_WRITER / 10 * 18);
    versions.sort_unstable();
    assert!(
        versions.is_sorted_by(|one, next| one < next),
        "two writes got one version"
    );
    assert_eq!(stores[0].registry_position().await.unwrap().version, writes);

    let snapshot = stores[0].load_registry().await.unwrap();
    assert_eq!(
        (snapshot.position.version, follower.position.version),
        (writes, writes)
    );
    assert_eq!(
        follower.endpoints.into_values().collect::<Vec<_>>(),
        snapshot.endpoints
    );
    assert_eq!(
        follower.deleted.len(),
        (WRITERS * ENDPOINTS_PER_WRITER / 10 * 3) as usize
    );
    // Versions became visible in the order of the commits: none appeared after a later one had been seen.
    assert!(
        follower.versions.is_sorted_by(|one, next| one < next),
        "{:?}",
        follower.versions
    );
}

async fn a_loaded_registry_is_of_one_moment(bed: Bed) {
    let (writing, reading) = (bed.migrated().await, bed.connect().await);
    let writer = tokio::spawn(async move {
        for number in 0..60 {
            writing
                .create_endpoint(new_endpoint("org_1"), endpoint_id(number), 1)
                .await
                .unwrap();
        }
    });
    loop {
        let last = writer.is_finished();
        let snapshot = reading.load_registry().await.unwrap();
        // There are only creations, so there are as many endpoints as versions.
        assert_eq!(snapshot.endpoints.len() as i64, snapshot.position.version);
        if last {
            assert_eq!(snapshot.position.version, 60);
            return writer.await.unwrap();
        }
    }
}

/// Inserts endpoints with the versions 1 to `count`, which is faster than through the store. Their secrets
/// are not sealed and do not open.
async fn fill(bed: &Bed, count: u32) {
    bed.execute(&format!(
        "INSERT INTO endpoints (id, organization_id, url, subscription, secret, version, created_at_ms, updated_at_ms) \
         WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}) \
         SELECT 'ep_' || n, 'org_1', 'https://hooks.example', '*', '{SECRET}', n, 1, 1 FROM numbers; \
         UPDATE registry SET version = {count}, endpoint_count = {count}"
    ))
    .await;
}

async fn changes_come_in_bounded_pages_that_miss_nothing(bed: Bed) {
    let store = bed.migrated().await;
    let count = 2 * CHANGES_MAX + 5;
    fill(&bed, count).await;

    let (mut position, mut sizes) = (Position::default(), Vec::new());
    while position.version < store.registry_position().await.unwrap().version {
        let changes = store.registry_changes(&position).await.unwrap();
        let first = changes.unreadable.first().unwrap().as_str().to_owned();
        assert_eq!(first, format!("ep_{}", position.version + 1));
        position = changes.position;
        sizes.push(changes.unreadable.len());
    }
    assert_eq!(sizes, [CHANGES_MAX as usize, CHANGES_MAX as usize, 5]);
}

async fn more_endpoints_than_workers_hold_are_refused(bed: Bed) {
    let store = bed.migrated().await;
    fill(&bed, ENDPOINTS_MAX).await;
    assert_eq!(
        store.load_registry().await.unwrap().unreadable.len(),
        ENDPOINTS_MAX as usize
    );

    let error = store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(1), 1)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooManyEndpoints), "{error:?}");
    assert!(error.to_string().contains("100000"), "{error}");

    // If the limit is exceeded nevertheless, a worker does not load a part of the endpoints as if it were
    // all.
    bed.execute("UPDATE registry SET endpoint_count = 0").await;
    store
        .create_endpoint(new_endpoint("org_2"), endpoint_id(1), 1)
        .await
        .unwrap();
    let error = store.load_registry().await.unwrap_err();
    assert!(matches!(error, Error::TooManyEndpoints), "{error:?}");
}

/// One row is written as a newer version would write it during a rolling upgrade.
async fn one_row_that_cannot_be_read_hides_no_other(bed: Bed) {
    let store = bed.migrated().await;
    let ids: Vec<_> = (1..=3).map(endpoint_id).collect();
    for id in &ids {
        store
            .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
            .await
            .unwrap();
    }
    bed.execute(&format!(
        "UPDATE endpoints SET subscription = 'lead.reborn' WHERE id = '{}'",
        ids[1]
    ))
    .await;
    let readable = |endpoints: &[Endpoint]| -> Vec<_> {
        endpoints
            .iter()
            .map(|endpoint| (endpoint.id.clone(), endpoint.version))
            .collect()
    };
    let others = [(ids[0].clone(), 1), (ids[2].clone(), 3)];

    let snapshot = store.load_registry().await.unwrap();
    assert_eq!(
        (snapshot.position.version, &snapshot.unreadable),
        (3, &vec![ids[1].clone()])
    );
    assert_eq!(readable(&snapshot.endpoints), others);
    let changes = store.registry_changes(&since(0)).await.unwrap();
    assert_eq!(
        (changes.position.version, &changes.unreadable),
        (3, &vec![ids[1].clone()])
    );
    assert_eq!(readable(&changes.endpoints), others);
    // Later changes are found. The unreadable row is not read again until it is written again.
    store.enable_endpoint(&ids[0], 2).await.unwrap();
    let changes = store.registry_changes(&since(3)).await.unwrap();
    assert_eq!((changes.position.version, changes.unreadable), (4, vec![]));
    assert_eq!(readable(&changes.endpoints), [(ids[0].clone(), 4)]);
    // A change that makes the row readable adds the endpoint again.
    let mended = EndpointChange {
        subscription: Some("lead.completed".parse().unwrap()),
        ..EndpointChange::default()
    };
    store.update_endpoint(&ids[1], mended, 3).await.unwrap();
    let changes = store.registry_changes(&since(4)).await.unwrap();
    assert_eq!(readable(&changes.endpoints), [(ids[1].clone(), 5)]);
    assert_eq!(store.load_registry().await.unwrap().unreadable, []);
}
