//! Announcements of roles, and workers that are behind.

use std::time::Duration;

use store::{ANNOUNCED_MAX, Announcement, JournalTotals, Position, Restarts, Store, WorkerBehind};

use super::bed::{Backup, Bed, endpoint_id, new_endpoint, now_ms, on_both_databases};

on_both_databases! {
    a_worker_is_behind_until_it_announces_the_version_or_a_later_one,
    a_role_that_was_closed_is_behind_nothing_until_it_announces_itself_again,
    a_worker_that_followed_another_history_is_behind_whatever_its_version,
    only_workers_act_on_endpoints,
    a_worker_that_was_not_heard_of_for_long_is_told_from_one_that_was,
    a_role_that_started_and_ended_lately_is_counted,
}

async fn announce(store: &Store, process: &str, role: &str, position: Position) {
    let announced = Announcement {
        process,
        role,
        host: "host_1",
        position,
        journal: JournalTotals::default(),
        in_hand: 0,
        now_ms: now_ms(),
    };
    store.announce_role(&announced).await.unwrap();
}

async fn behind(store: &Store, position: &Position) -> Vec<String> {
    let behind = store.workers_behind(position).await.unwrap();
    behind.into_iter().map(|worker| worker.process).collect()
}

/// Writes an endpoint and returns the registry's position afterwards.
async fn write(store: &Store, number: u32) -> Position {
    let new = new_endpoint("org_1");
    store.create_endpoint(new, endpoint_id(number), 1).await.unwrap();
    store.registry_position().await.unwrap()
}

async fn a_worker_is_behind_until_it_announces_the_version_or_a_later_one(bed: Bed) {
    let store = bed.migrated().await;
    let first = write(&store, 1).await;
    assert_eq!(behind(&store, &first).await, [""; 0]);
    announce(&store, "w1", "worker", Position::default()).await;
    announce(&store, "w2", "worker", first).await;
    assert_eq!(behind(&store, &first).await, ["w1"]);
    let second = write(&store, 2).await;
    assert_eq!(behind(&store, &second).await, ["w1", "w2"]);
    announce(&store, "w1", "worker", second).await;
    assert_eq!(behind(&store, &second).await, ["w2"]);
    assert_eq!(behind(&store, &first).await, [""; 0]);
}

async fn a_role_that_was_closed_is_behind_nothing_until_it_announces_itself_again(bed: Bed) {
    let store = bed.migrated().await;
    announce(&store, "w1", "worker", Position::default()).await;
    let position = write(&store, 1).await;
    store.close_role("w1", "worker").await.unwrap();
    assert_eq!(behind(&store, &position).await, [""; 0]);
    announce(&store, "w1", "worker", Position::default()).await;
    assert_eq!(behind(&store, &position).await, ["w1"]);
}

async fn a_worker_that_followed_another_history_is_behind_whatever_its_version(bed: Bed) {
    let store = bed.migrated().await;
    let backup = Backup::of(&bed, &store).await;
    let store = bed.connect().await;
    write(&store, 1).await;
    let lost = write(&store, 2).await;
    store.close().await;
    backup.restore(&bed).await;
    let store = bed.connect().await;
    announce(&store, "w1", "worker", lost).await;
    let first = write(&store, 3).await;
    assert!(first.version < lost.version);
    assert_eq!(behind(&store, &first).await, ["w1"]);
    announce(&store, "w1", "worker", first).await;
    assert_eq!(behind(&store, &first).await, [""; 0]);
}

async fn only_workers_act_on_endpoints(bed: Bed) {
    let store = bed.migrated().await;
    for role in ["recorder", "api"] {
        announce(&store, "p1", role, Position::default()).await;
    }
    let position = write(&store, 1).await;
    assert_eq!(behind(&store, &position).await, [""; 0]);
}

async fn a_worker_that_was_not_heard_of_for_long_is_told_from_one_that_was(bed: Bed) {
    let store = bed.migrated().await;
    announce(&store, "w1", "worker", Position::default()).await;
    let position = write(&store, 1).await;
    let found = store.workers_behind(&position).await.unwrap();
    assert!(
        found[0].is_heard() && found[0].unseen < Duration::from_secs(1),
        "{found:?}"
    );
    assert_eq!(found[0].host, "host_1");
    bed.execute("UPDATE roles SET seen_ms = seen_ms - 3500").await;
    let found: Vec<WorkerBehind> = store.workers_behind(&position).await.unwrap();
    assert!(
        !found[0].is_heard() && found[0].unseen > ANNOUNCED_MAX,
        "{found:?}"
    );
    bed.execute("UPDATE roles SET seen_ms = seen_ms - 2592000000")
        .await;
    store.forget_old_roles().await.unwrap();
    assert_eq!(bed.number("SELECT COUNT(*) FROM roles").await, 0);
}

async fn a_role_that_started_and_ended_lately_is_counted(bed: Bed) {
    let store = bed.migrated().await;
    announce(&store, "closed", "recorder", Position::default()).await;
    for process in ["closed", "killed", "earlier", "running"] {
        announce(&store, process, "worker", Position::default()).await;
    }
    let (within, unheard) = (Duration::from_mins(15), Duration::from_secs(10));
    assert!(store.restarts(within, unheard).await.unwrap().is_empty());
    store.close_role("closed", "worker").await.unwrap();
    bed.execute("UPDATE roles SET seen_ms = seen_ms - 11000 WHERE process = 'killed'")
        .await;
    store.close_role("earlier", "worker").await.unwrap();
    bed.execute("UPDATE roles SET started_ms = started_ms - 901000 WHERE process = 'earlier'")
        .await;
    let (role, host) = ("worker".to_owned(), "host_1".to_owned());
    let restarts = store.restarts(within, unheard).await.unwrap();
    assert_eq!(restarts, [Restarts { role, host, count: 2 }]);
}
