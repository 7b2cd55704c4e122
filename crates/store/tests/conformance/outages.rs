//! A database that hangs or closes connections while it is in use.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use store::{Error, OPERATION_TIMEOUT};
use tokio::time::{Instant, advance, pause, resume};

use super::bed::{Bed, endpoint_id, new_endpoint, on_postgres};

/// Holds the lock that every write takes first.
const HOLD: &str = "UPDATE registry SET version = version";

/// Counts the connections that wait for a lock.
const WAITING: &str = "SELECT COUNT(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// The number of connections that the store has for writes.
const WRITES: u32 = 8;

// A single thread, because the clock can be paused only there.
#[tokio::test]
async fn writes_that_hang_in_postgres_are_given_up_and_their_connections_with_them() {
    on_postgres(|bed: Bed| async move {
        let store = bed.migrated().await;
        let mut other = PgConnection::connect(&bed.url).await.unwrap();
        let mut holding = other.begin().await.unwrap();
        sqlx::query(HOLD).execute(&mut *holding).await.unwrap();

        let create = |number| {
            let store = store.clone();
            async move {
                store
                    .create_endpoint(new_endpoint("org_1"), endpoint_id(number), 1)
                    .await
            }
        };
        let writes: Vec<_> = (0..WRITES).map(|number| tokio::spawn(create(number))).collect();
        let started = Instant::now();
        while bed.number(WAITING).await < i64::from(WRITES) {
            assert!(
                started.elapsed() < Duration::from_secs(8),
                "the writes do not wait for the lock"
            );
        }
        pause();
        advance(OPERATION_TIMEOUT).await;
        for write in writes {
            let error = write.await.unwrap().unwrap_err();
            assert!(
                matches!(error, Error::TimedOut { .. }) && error.is_unavailable(),
                "{error:?}"
            );
            let text = error.to_string();
            assert!(
                text.contains("create endpoint ep_") && text.contains("within 20 s"),
                "{text}"
            );
        }
        resume();

        // The lock is still held, so this read cannot use a connection that waits for it.
        assert_eq!(store.registry_position().await.unwrap().version, 0);
        holding.rollback().await.unwrap();
        assert_eq!(create(100).await.unwrap().version, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_hung_up_is_connected_to_again() {
    on_postgres(|bed: Bed| async move {
        let store = bed.migrated().await;
        let mut version = 0;
        for round in 0..5 {
            let writers: Vec<_> = (0..8)
                .map(|writer| {
                    let store = store.clone();
                    let id = endpoint_id(100 * round + writer);
                    tokio::spawn(async move { store.create_endpoint(new_endpoint("org_1"), id, 1).await })
                })
                .collect();
            bed.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await;
            for writer in writers {
                match writer.await.unwrap() {
                    Ok(endpoint) => version = version.max(endpoint.version),
                    Err(error) => assert!(error.is_unavailable(), "{error:?}"),
                }
            }
            assert!(store.registry_position().await.unwrap().version >= version);
        }
    })
    .await;
}
