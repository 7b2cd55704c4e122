//! Several processes on one database, simulated by several stores, and operations that are dropped before
//! they end.

use std::{
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection};
use store::{EventFilter, Lookup, Store};

use super::bed::{Bed, endpoint_id, new_endpoint, on_both_databases, on_postgres};

on_both_databases! {
    what_one_store_wrote_another_reads_at_once,
    two_stores_write_the_same_endpoint_in_turns,
    an_abandoned_write_is_applied_whole_or_not_at_all_and_holds_up_nobody,
    a_closed_store_is_unavailable,
}

/// The queries of one customer wait for a lock of another process. Only PostgreSQL has locks that block
/// readers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_about_the_journal_take_no_connection_from_anything_else() {
    on_postgres(|bed| async move {
        let store = bed.migrated().await;
        let mut other = PgConnection::connect(&bed.url).await.unwrap();
        sqlx::raw_sql("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
            .execute(&mut other)
            .await
            .unwrap();
        let ask = |store: Store| {
            tokio::spawn(async move { store.events(&EventFilter::default(), None, 10).await })
        };
        let asked: Vec<_> = (0..10).map(|_| ask(store.clone())).collect();
        let waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let begun = Instant::now();
        while bed.number(waiting).await < 4 {
            assert!(begun.elapsed() < Duration::from_secs(4), "four wait for the lock");
        }
        for number in 0..2 {
            let created = store.create_endpoint(new_endpoint("org_1"), endpoint_id(number), 1);
            created.await.unwrap();
        }
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
        for answer in asked {
            assert_eq!(answer.await.unwrap().unwrap(), []);
        }
    })
    .await;
}

async fn what_one_store_wrote_another_reads_at_once(bed: Bed) {
    let (one, other) = (bed.migrated().await, bed.connect().await);
    for number in 0..20 {
        let (writing, reading) = if number % 2 == 0 {
            (&one, &other)
        } else {
            (&other, &one)
        };
        let created = writing
            .create_endpoint(new_endpoint("org_1"), endpoint_id(number), 1)
            .await
            .unwrap();
        assert_eq!(
            reading.registry_position().await.unwrap().version,
            created.version
        );
        assert_eq!(
            reading.endpoint(&created.id).await.unwrap(),
            Lookup::Found(created)
        );
    }
}

async fn two_stores_write_the_same_endpoint_in_turns(bed: Bed) {
    let stores = [bed.migrated().await, bed.connect().await];
    stores[0]
        .create_endpoint(new_endpoint("org_1"), endpoint_id(1), 0)
        .await
        .unwrap();
    let write = |store: Store| {
        tokio::spawn(async move {
            for now_ms in 1..=25 {
                store.enable_endpoint(&endpoint_id(1), now_ms).await.unwrap();
            }
        })
    };
    let writers = stores.clone().map(write);
    for writer in writers {
        writer.await.unwrap();
    }
    let Lookup::Found(endpoint) = stores[1].endpoint(&endpoint_id(1)).await.unwrap() else {
        panic!("it exists")
    };
    assert_eq!(
        (
            endpoint.version,
            stores[0].registry_position().await.unwrap().version
        ),
        (51, 51)
    );
}

/// Polls every write a different number of times and then drops it, so that each write is abandoned in a
/// different place.
async fn an_abandoned_write_is_applied_whole_or_not_at_all_and_holds_up_nobody(bed: Bed) {
    let store = bed.migrated().await;
    for number in 0..40 {
        let mut write = pin!(store.create_endpoint(new_endpoint("org_1"), endpoint_id(number), 1));
        for _ in 0..=number % 10 {
            let pending = std::future::poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx).is_pending())).await;
            if !pending {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let last = store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(1000), 1)
        .await
        .unwrap();
    let snapshot = store.load_registry().await.unwrap();
    assert_eq!(
        (snapshot.position.version, snapshot.endpoints.len() as i64),
        (last.version, last.version)
    );
    assert_eq!(
        bed.number("SELECT endpoint_count FROM registry").await,
        last.version
    );
}

async fn a_closed_store_is_unavailable(bed: Bed) {
    let store = bed.migrated().await;
    let clone = store.clone();
    store.close().await;
    assert!(clone.registry_position().await.unwrap_err().is_unavailable());
    assert!(
        clone
            .enable_endpoint(&endpoint_id(1), 1)
            .await
            .unwrap_err()
            .is_unavailable()
    );
}
