//! Measures publishing when each event is confirmed to its publisher: with the producer crate, over HTTP, over
//! HTTP in batches, and with the command over HTTP.

use std::{
    fmt, fs,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bench::{
    event::{self, Events},
    installation,
};
use e2e::{Answered, Api, Installation, binary, percentile};
use futures_util::future::join_all;
use producer::{Producer, Serialized};
use serde::Serialize;
use tokio::process::Command;

/// The number of clients that publish concurrently, each one event at a time.
const CLIENTS: usize = 64;
/// The number of clients that publish batches.
const BATCH_CLIENTS: usize = 4;
const BATCH_EVENTS: usize = 100;
pub(crate) const HEADER: &str =
    "| published by | events | events/s | p50 ms | p99 ms |\n|---|---|---|---|---|";
/// The name of one of the ways to publish.
pub(crate) const SINGLE_OVER_HTTP: &str = "64 connections to the API";
const CONNECT_MAX: Duration = Duration::from_secs(30);

#[derive(Serialize)]
pub(crate) struct Published {
    pub(crate) way: &'static str,
    events: usize,
    pub(crate) per_second: f64,
    /// The median time of one call; `None` for a command, which makes all calls itself.
    p50_ms: Option<f64>,
    /// The 99th percentile of these times.
    p99_ms: Option<f64>,
}

/// Measures all ways to publish. Panics if the number of queued events differs from the number of confirmed
/// ones.
pub(crate) async fn run(events: usize) -> Vec<Published> {
    // The default limit is 5,000 requests per second for each key.
    let settings = [("MAGNETITE_API__RATE_PER_KEY", "1000000")];
    let installation = installation::create("bench-publish", &settings).await;
    let api = Api::start(&installation).await;
    let key = installation.key(&event::organization(0), "events:write").await;
    let config = producer::Config::new(installation.broker_url(), installation.prefix()).unwrap();
    let producer = Producer::connect(config);
    producer.ready(CONNECT_MAX).await.unwrap();
    // A warm-up, with more events than it takes to open all connections and channels.
    publish_http(&api, &key, 1000).await;
    let published = vec![
        publish_linked(&producer, events).await,
        publish_http(&api, &key, events).await,
        publish_batches(&api, &key, events).await,
        publish_command(&installation, &api, &key, events).await,
    ];
    let confirmed = 1000 + published.iter().map(|way| way.events).sum::<usize>();
    let ready = installation.amqp().ready("events").await as usize;
    assert_eq!(ready, confirmed, "confirmed and queued are not the same");
    producer.shutdown().await;
    assert!(api.role.terminate().await);
    installation.delete().await;
    published
}

async fn publish_linked(producer: &Producer, events: usize) -> Published {
    let name = "64 tasks with the producer crate";
    measure(name, CLIENTS, events, 1, async |number| {
        let event = Serialized::new(Events::USUAL.body(number));
        producer.publish_json(&event).await.unwrap();
    })
    .await
}

async fn publish_http(api: &Api, key: &str, events: usize) -> Published {
    measure(SINGLE_OVER_HTTP, CLIENTS, events, 1, async |number| {
        let published = api
            .send("POST", "/v1/events", key, &[], Events::USUAL.body(number))
            .await;
        expect(&published);
    })
    .await
}

async fn publish_batches(api: &Api, key: &str, events: usize) -> Published {
    let name = "4 connections to the API, 100 events a request";
    measure(name, BATCH_CLIENTS, events, BATCH_EVENTS, async |number| {
        let events: Vec<_> = (number..number + BATCH_EVENTS)
            .map(|number| Events::USUAL.body(number))
            .collect();
        let batch = format!("[{}]", events.join(","));
        expect(&api.send("POST", "/v1/events/batch", key, &[], batch).await);
    })
    .await
}

/// Runs `magnetite publish` over the API with a file. Panics unless it prints an id for each line.
async fn publish_command(installation: &Installation, api: &Api, key: &str, events: usize) -> Published {
    let file = installation.directory().join("events.jsonl");
    let lines: Vec<_> = (0..events).map(|number| Events::USUAL.body(number)).collect();
    fs::write(&file, lines.join("\n")).unwrap();
    let began = Instant::now();
    let mut command = Command::new(binary());
    let output = command
        .arg("publish")
        .arg(&file)
        .env_clear()
        .env("MAGNETITE_API_URL", api.url())
        .env("MAGNETITE_API_KEY", key)
        .stdin(Stdio::null())
        .output();
    let output = output.await.unwrap();
    let took = began.elapsed();
    let ids = String::from_utf8(output.stdout).unwrap();
    let notes = String::from_utf8_lossy(&output.stderr);
    assert_eq!(ids.lines().count(), events, "{notes}");
    Published {
        way: "magnetite publish over the API",
        events,
        per_second: events as f64 / took.as_secs_f64(),
        p50_ms: None,
        p99_ms: None,
    }
}

fn expect(published: &Answered) {
    assert_eq!(published.status, 202, "{published:?}");
}

/// Measures one way to publish. `publish` receives the number of the first of `each` events.
async fn measure(
    way: &'static str,
    clients: usize,
    events: usize,
    each: usize,
    publish: impl AsyncFn(usize),
) -> Published {
    let (next, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let client = async || {
        let mut ms = Vec::new();
        loop {
            let number = next.fetch_add(each, Ordering::Relaxed);
            if number >= events {
                return ms;
            }
            let began = Instant::now();
            publish(number).await;
            ms.push(began.elapsed().as_secs_f64() * 1000.0);
        }
    };
    let mut ms = join_all((0..clients).map(|_| client())).await.concat();
    let published = ms.len() * each;
    Published {
        way,
        events: published,
        per_second: published as f64 / began.elapsed().as_secs_f64(),
        p50_ms: Some(percentile(&mut ms, 50.0)),
        p99_ms: Some(percentile(&mut ms, 99.0)),
    }
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            way,
            events,
            per_second,
            p50_ms,
            p99_ms,
        } = self;
        let ms = |ms: Option<f64>| ms.map_or_else(String::new, |ms| format!("{ms:.2}"));
        let (p50_ms, p99_ms) = (ms(*p50_ms), ms(*p99_ms));
        write!(f, "| {way} | {events} | {per_second:.0} | {p50_ms} | {p99_ms} |")
    }
}
