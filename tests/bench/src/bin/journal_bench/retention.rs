//! Measures how much deleting old rows slows down a recorder that stores new ones.

use std::{
    fmt,
    future::pending,
    time::{Duration, Instant},
};

use bench::{
    event::{self, Events},
    pace,
    receiver::{Expected, Receiver},
};
use e2e::{Installation, now_ms};
use sqlx::{Connection as _, PgConnection};

use crate::{
    lag::percentiles,
    roles::{self, Recorder},
};

pub(crate) struct Retention {
    expired: i64,
    rows: u64,
    took: Duration,
    /// How long the recorder's commits took before and during the deletion, in milliseconds.
    commits_ms: [Vec<f64>; 2],
}

const PER_SECOND: usize = 500;
const BEFORE_SECONDS: usize = 60;
/// The maximum duration of the deletion.
const DURING_SECONDS_MAX: usize = 3600;
const STORED_MAX: Duration = Duration::from_mins(1);

/// Lets the oldest `expired` attempts expire, with their deliveries and events. Panics unless the expired
/// rows are deleted and everything that was recorded meanwhile is stored.
pub(crate) async fn run(installation: &Installation, url: &str, expired: i64) -> Retention {
    let mut database = PgConnection::connect(url).await.unwrap();
    let (before, all) = (BEFORE_SECONDS * PER_SECOND, DURING_SECONDS_MAX * PER_SECOND);
    let receiver = Receiver::start(&Expected::events(before + all)).await;
    installation
        .endpoint(&event::organization(0), &receiver.url(0, 0))
        .await;
    let worker = roles::worker(installation);

    let recorder = Recorder::start(installation, None);
    pace::publish(
        installation.amqp(),
        Events::USUAL,
        0..before,
        PER_SECOND,
        pending(),
    )
    .await;
    let (_, commits_before) = recorder.end().await;

    let oldest_kept_ms: i64 =
        sqlx::query_scalar("SELECT began_ms FROM attempts ORDER BY id OFFSET $1 LIMIT 1")
            .bind(expired)
            .fetch_one(&mut database)
            .await
            .unwrap();
    let age_s = (now_ms() - oldest_kept_ms as u64) / 1000;
    let mut recorder = Recorder::start(installation, Some(age_s));
    let (began, mut rows, mut took) = (Instant::now(), 0, Duration::ZERO);
    let done = async {
        rows = (&mut recorder.deleted).await.unwrap();
        took = began.elapsed();
    };
    let published = pace::publish(
        installation.amqp(),
        Events::USUAL,
        before..before + all,
        PER_SECOND,
        done,
    )
    .await;
    installation.amqp().wait_for_ready("events", 0, STORED_MAX).await;
    worker.end().await;
    installation.amqp().wait_for_ready("journal", 0, STORED_MAX).await;
    let (_, commits_during) = recorder.end().await;

    let receipts = receiver.end().await;
    assert_eq!(
        receipts.requests, published.numbers.end,
        "as many as were published"
    );
    let (recorded, oldest_ms): (i64, i64) = sqlx::query_as(
        "SELECT COUNT(*) FILTER (WHERE e.organization_id = $1), MIN(e.received_ms) FROM events e",
    )
    .bind(event::organization(0))
    .fetch_one(&mut database)
    .await
    .unwrap();
    assert_eq!(
        recorded as usize, published.numbers.end,
        "every event is recorded"
    );
    assert!(oldest_ms >= oldest_kept_ms - 60_000, "what has expired is gone");
    Retention {
        expired,
        rows,
        took,
        commits_ms: [commits_before, commits_during],
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            expired, rows, took, ..
        } = self;
        writeln!(
            f,
            "| commits of the recorder at {PER_SECOND} events/s | number | p50 ms | p99 ms | max ms |"
        )?;
        writeln!(f, "|---|---|---|---|---|")?;
        for (when, commits_ms) in ["before", "while rows are deleted"].iter().zip(&self.commits_ms) {
            let [p50, p99, max] = percentiles(&mut commits_ms.clone());
            writeln!(
                f,
                "| {when} | {} | {p50:.1} | {p99:.1} | {max:.1} |",
                commits_ms.len()
            )?;
        }
        write!(
            f,
            "\n{expired} attempts expired: {rows} rows deleted in {:.0} s.",
            took.as_secs_f64()
        )
    }
}
