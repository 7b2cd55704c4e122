//! How long an event takes from its publisher to its receiver, on a machine that has little else to do.

use std::{fmt, future::pending, time::Duration};

use e2e::{Installation, percentile};

use crate::{
    Options,
    client::{self, Side},
    event, pace,
    receiver::Receiver,
};

pub(crate) struct Latency {
    events: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

const PER_SECOND: usize = 100;
/// Not counted: the worker starts and opens its connections meanwhile.
const WARM_UP_SECONDS: usize = 3;
const ARRIVAL_MAX: Duration = Duration::from_mins(1);

/// The time that counts begins when an event was to be published, not when it was.
pub(crate) async fn run(options: &Options) -> Latency {
    let warm_up = WARM_UP_SECONDS * PER_SECOND;
    let events = warm_up + options.seconds * PER_SECOND;
    let installation = Installation::new("bench-latency").await;
    let mut receiver = Receiver::start(events).await;
    installation.endpoint(event::ORGANIZATION, &receiver.url()).await;
    let worker = client::worker(&installation, Side::Worker, options);

    let paced = pace::publish(installation.amqp(), 0..events, PER_SECOND, pending()).await;
    receiver.complete(ARRIVAL_MAX).await;
    worker.end().await;
    let receipts = receiver.end().await;
    assert_eq!(receipts.requests as usize, events, "an event arrived twice");
    installation.delete().await;

    let arrived = receipts.at_ns.iter().enumerate().skip(warm_up);
    let mut ms: Vec<_> = arrived
        .map(|(number, at_ns)| at_ns.saturating_sub(paced.due_ns(number)) as f64 / 1e6)
        .collect();
    Latency {
        events: ms.len(),
        p50_ms: percentile(&mut ms, 50.0),
        p99_ms: percentile(&mut ms, 99.0),
        max_ms: percentile(&mut ms, 100.0),
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            events,
            p50_ms,
            p99_ms,
            max_ms,
        } = self;
        writeln!(f, "| events at {PER_SECOND}/s | p50 ms | p99 ms | max ms |")?;
        writeln!(f, "|---|---|---|---|")?;
        write!(f, "| {events} | {p50_ms:.2} | {p99_ms:.2} | {max_ms:.2} |")
    }
}
