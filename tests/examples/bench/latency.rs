//! How long an event takes from its publisher to its receiver, on a machine that has little else to do.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use e2e::{Installation, percentile};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::mpsc;

use crate::{
    Options,
    client::{self, Side},
    event,
    receiver::{Receiver, now_ns},
};

pub(crate) struct Latency {
    events: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

const PER_SECOND: usize = 100;
const INTERVAL: Duration = Duration::from_millis(10);
/// Not counted: the worker starts and opens its connections meanwhile.
const WARM_UP_SECONDS: usize = 3;
const ARRIVAL_MAX: Duration = Duration::from_mins(1);

/// Publishes at a steady pace, whatever becomes of earlier events: the time that counts begins when an event was to be
/// published, not when it was.
pub(crate) async fn run(options: &Options) -> Latency {
    let warm_up = WARM_UP_SECONDS * PER_SECOND;
    let events = warm_up + options.seconds * PER_SECOND;
    let installation = Installation::new("bench-latency").await;
    let mut receiver = Receiver::start(events).await;
    installation.endpoint(event::ORGANIZATION, &receiver.url()).await;
    let worker = client::worker(&installation, Side::Worker, options);

    let (due_ns, mut due) = pace(events);
    let mut publishing = FuturesUnordered::new();
    loop {
        tokio::select! {
            number = due.recv() => match number {
                Some(number) => publishing.push(event::publish(installation.amqp(), number)),
                None => break,
            },
            Some(()) = publishing.next() => {}
        }
    }
    while publishing.next().await.is_some() {}
    drop(publishing);
    receiver.complete(ARRIVAL_MAX).await;
    worker.end().await;
    let receipts = receiver.end().await;
    assert_eq!(receipts.requests as usize, events, "an event arrived twice");
    installation.delete().await;

    let arrived = receipts.at_ns.iter().enumerate().skip(warm_up);
    let mut ms: Vec<_> = arrived
        .map(|(number, at_ns)| at_ns.saturating_sub(due_ns(number)) as f64 / 1e6)
        .collect();
    Latency {
        events: ms.len(),
        p50_ms: percentile(&mut ms, 50.0),
        p99_ms: percentile(&mut ms, 99.0),
        max_ms: percentile(&mut ms, 100.0),
    }
}

/// The numbers of events, each when it is due, and when that is in Unix nanoseconds.
#[allow(
    clippy::disallowed_methods,
    reason = "the pace is what is measured against, and the runtime's timers have a grain of a millisecond"
)]
fn pace(events: usize) -> (impl Fn(usize) -> u64, mpsc::UnboundedReceiver<usize>) {
    let (tell, due) = mpsc::unbounded_channel();
    let (begin, begin_ns) = (Instant::now(), now_ns());
    thread::spawn(move || {
        for number in 0..events {
            let at = begin + INTERVAL * number as u32;
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if tell.send(number).is_err() {
                return;
            }
        }
    });
    let due_ns = move |number: usize| begin_ns + INTERVAL.as_nanos() as u64 * number as u64;
    (due_ns, due)
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
