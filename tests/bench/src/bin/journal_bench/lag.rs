//! Measures how far the journal lags behind, with all roles running.

use std::{
    fmt,
    future::pending,
    time::{Duration, Instant},
};

use bench::{
    event::{self, Events},
    pace,
    process::Cost,
    receiver::{Expected, Receiver},
};
use e2e::{Installation, percentile};
use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;

use crate::{
    Options,
    roles::{self, Recorder},
    servers::Servers,
};

pub(crate) struct Lag {
    per_second: usize,
    events: usize,
    receipt_ms: [f64; 3],
    stored_ms: Vec<f64>,
    commit_ms: [f64; 3],
    /// The number of messages in the journal's queue when the last event was published.
    queued: u32,
    /// The time from the last publish until everything was stored.
    stored_after: Duration,
    /// The processor time of each process, in microseconds per event; `None` if it is not known.
    cpu_us: Vec<(&'static str, Option<f64>)>,
}

/// The seconds at the start that are not evaluated: processes start and connect, and PostgreSQL has no
/// statistics yet.
const WARM_UP_SECONDS: usize = 5;
const ARRIVAL_MAX: Duration = Duration::from_mins(5);
/// The interval between two counts of the stored rows. A count takes some milliseconds.
const STORED_POLL: Duration = Duration::from_millis(50);

/// Selects percentiles of the time from the end of an attempt to the commit that made it visible. PostgreSQL
/// itself records the time of the commit.
const SELECT_LAG: &str = "SELECT percentile_disc(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY \
    CAST(extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000 AS double precision) - began_ms - duration_ms) \
    FROM attempts WHERE began_ms >= $1";

/// Measures the lag. Panics unless every event arrived and was recorded exactly once, and the audit balances.
pub(crate) async fn run(options: &Options, servers: &Servers) -> Lag {
    let warm_up = WARM_UP_SECONDS * options.per_second;
    let events = warm_up + options.seconds * options.per_second;
    let url = servers.database("lag").await;
    let installation = servers.installation("journal-lag", &url).await;
    let mut receiver = Receiver::start(&Expected::events(events)).await;
    installation
        .endpoint(&event::organization(0), &receiver.url(0, 0))
        .await;
    let mut database = PgConnection::connect(&url).await.unwrap();
    let servers_cpu = [servers.postgres_cpu(), servers.broker_cpu().unwrap_or_default()];
    let recorder = Recorder::start(&installation, None);
    let worker = roles::worker(&installation);

    let paced = pace::publish(
        installation.amqp(),
        Events::USUAL,
        0..events,
        options.per_second,
        pending(),
    )
    .await;
    let (queued, published) = (installation.amqp().ready("journal").await, Instant::now());
    receiver.complete(ARRIVAL_MAX).await;
    wait_until_stored(&mut database, events).await;
    let stored_after = published.elapsed();
    assert_eq!(
        installation.amqp().ready("journal").await,
        0,
        "the journal's queue"
    );
    let now = [servers.postgres_cpu(), servers.broker_cpu().unwrap_or_default()];
    let servers_cpu = [0, 1].map(|server: usize| now[server].saturating_sub(servers_cpu[server]));

    let worker = worker.end().await;
    let (recorder, mut commit_ms) = recorder.end().await;
    let receipts = receiver.end().await;
    assert_eq!(receipts.requests, events, "an event arrived twice");
    balance(&installation, events).await;
    installation.delete().await;
    let due_ms = (paced.due_ns(warm_up) / 1_000_000) as i64;
    let stored_ms = sqlx::query_scalar(SELECT_LAG)
        .bind(due_ms)
        .fetch_one(&mut database);
    let arrived = receipts.at_ns.iter().enumerate().skip(warm_up);
    let mut receipt_ms: Vec<_> = arrived
        .map(|(number, at_ns)| at_ns.saturating_sub(paced.due_ns(number)) as f64 / 1e6)
        .collect();
    let us = |cpu: Duration| cpu.as_secs_f64() * 1e6 / events as f64;
    let cost_us = |cost: &Cost| Some(us(cost.cpu));
    Lag {
        per_second: options.per_second,
        events: receipt_ms.len(),
        receipt_ms: percentiles(&mut receipt_ms),
        stored_ms: stored_ms.await.unwrap(),
        commit_ms: percentiles(&mut commit_ms),
        queued,
        stored_after,
        cpu_us: vec![
            ("worker", cost_us(&worker)),
            ("recorder", cost_us(&recorder)),
            ("PostgreSQL", Some(us(servers_cpu[0]))),
            ("RabbitMQ", servers.broker_cpu().map(|_| us(servers_cpu[1]))),
        ],
    }
}

async fn wait_until_stored(database: &mut PgConnection, attempts: usize) {
    let mut poll = tokio::time::interval(STORED_POLL);
    let all = async {
        loop {
            poll.tick().await;
            let count = sqlx::query_scalar("SELECT COUNT(*) FROM attempts").fetch_one(&mut *database);
            let count: i64 = count.await.unwrap();
            if count as usize == attempts {
                return;
            }
        }
    };
    timeout(ARRIVAL_MAX, all).await.expect("every attempt is stored");
}

async fn balance(installation: &Installation, events: usize) {
    let audit = installation.audit().await;
    audit.assert_settled();
    assert_eq!(audit.number("/matched") as usize, events, "{audit:#?}");
    assert_eq!(
        audit.number("/deliveries/delivered") as usize,
        events,
        "{audit:#?}"
    );
}

/// Returns the median, the 99th percentile and the maximum.
pub(crate) fn percentiles(values: &mut [f64]) -> [f64; 3] {
    [50.0, 99.0, 100.0].map(|p| percentile(values, p))
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            per_second, events, ..
        } = self;
        writeln!(
            f,
            "| {events} events at {per_second}/s | p50 ms | p99 ms | max ms |"
        )?;
        writeln!(f, "|---|---|---|---|")?;
        for (what, [p50, p99, max]) in [
            ("publish to receipt", self.receipt_ms),
            ("end of attempt to commit", self.stored_ms[..].try_into().unwrap()),
            ("a commit of the recorder", self.commit_ms),
        ] {
            writeln!(f, "| {what} | {p50:.1} | {p99:.1} | {max:.1} |")?;
        }
        writeln!(f, "\n| process | CPU µs/event |\n|---|---|")?;
        for (process, us) in &self.cpu_us {
            let us = us.map_or_else(|| "not known".to_owned(), |us| format!("{us:.1}"));
            writeln!(f, "| {process} | {us} |")?;
        }
        let (queued, stored) = (self.queued, self.stored_after);
        write!(
            f,
            "\nMessages in the journal's queue when the last event was published: {queued}; everything stored {stored:.1?} later."
        )
    }
}
