//! The recorder: from the journal's queue to the store.
//!
//! ```text
//! [journal]  -> entry -> write -> ack       every event, every attempt
//! [dead]     -> entry -> write -> ack       what was given up, with its event, so that it can be sent again
//! [rejected] -> entry -> write -> ack       what nobody could read, as it came
//!                        upkeep             retention, endpoints that fail for days, operations to tell of
//!                        depths             how much waits, for metrics
//! ```
//!
//! Workers publish what happened in batches; `entry` reads them, `write` gathers what has arrived, writes it
//! in one transaction and acks. While one transaction is under way the next gathers.
//!
//! What survives a crash: what the broker holds. A message is acked after the commit, so what was written may
//! come again, and batches of several workers come in any order. Neither matters: everything that is written
//! merges (see [`webhook::journal`]). Any number of recorders may run.
//!
//! Invariants:
//! - A message is acked after what it says was committed, never before.
//! - While the database is away nothing is acked and nothing is dropped: the queues hold it.
//! - A message that cannot be read is set aside among the rejected ones, with the reason. So is a record that
//!   the database refuses: alone, with its content, so that it can be redriven. Everything else of its batch
//!   is written.
//! - Nothing is deleted by a clock that is in doubt: retention counts from the earlier of this host's clock
//!   and the newest record, and stops while clocks disagree.
//! - Memory is bounded by the prefetch of the three queues.
//!
//! Deliberately absent: any influence on deliveries. A recorder that is down for a day costs a lagging
//! journal.

mod config;
mod entry;
mod meters;
mod depths;
mod part;
mod lag;
mod readiness;
mod write;
mod upkeep;

use std::sync::Arc;

use broker::{Incoming, Link, Publisher, Topology, Unsettled};
use runtime::{display_chain, now_ms, vital};
use store::Store;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use meters::METRICS;

use entry::Source;
use readiness::{Readiness, Writing};

/// What a recorder works with.
#[derive(Debug)]
pub struct Deps {
    /// The broker to consume from.
    pub broker: broker::Config,
    /// What has to be on it.
    pub topology: Topology,
    /// Where the journal is kept; its schema must be up to date.
    pub store: Store,
    /// The name of this host, under which it says that its clock is in doubt.
    pub host: String,
    /// Why this process could not write its row in the table of roles the last time, which it does every
    /// second; `None` if it could.
    pub database: watch::Receiver<Option<String>>,
    /// Receives what the recorder waits for; `None` while it records.
    pub readiness: watch::Sender<Option<String>>,
    /// Receives what the recorder works without; `None` while nothing is missing.
    pub degraded: watch::Sender<Option<String>>,
}

/// Why a recorder cannot work at all. Faults that can pass (broker or database away) are waited for instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part of the recorder ended by itself: a bug. Nothing is lost, the broker hands out again what was
    /// not acked.
    #[error("the recorder's {0} ended unexpectedly, see the panic above; restart the recorder")]
    Ended(&'static str),
}

const SOURCES: [Source; 3] = [Source::Journal, Source::Dead, Source::Rejected];

/// Records until `stop` is cancelled, and then commits what it has taken, hands back the rest, and returns.
///
/// Waits, with a line in the log, for a database or broker that is away.
///
/// # Errors
/// Only what waiting cannot mend.
pub async fn run(config: Config, deps: Deps, stop: CancellationToken) -> Result<(), Error> {
    let Deps {
        broker,
        topology,
        store,
        host,
        database,
        readiness,
        degraded,
    } = deps;
    readiness.send_replace(Some("connecting to the broker".to_owned()));
    let links = CancellationToken::new();
    let consuming = Link::open(&broker, "magnetite recorder, consuming", links.clone());
    let publishing = Link::open(&broker, "magnetite recorder, publishing", links.clone());
    // Bounded by the prefetches, twice after a lost connection: the writer drops what the broker hands out
    // again.
    let (arrived, arrivals) = mpsc::unbounded_channel();
    let (consumes, consumed) = watch::channel([false; SOURCES.len()]);
    let mut consumers = consume_all(&consuming, &topology, arrived, consumes, &stop);
    let is_written = Writing::default();
    let mut writing = tokio::spawn(write::run(
        store.clone(),
        topology.clone(),
        arrivals,
        is_written.clone(),
        stop.clone(),
    ));
    let readiness = Readiness {
        ready: readiness,
        degraded,
        consumed,
        consuming: consuming.clone(),
        publishing: publishing.clone(),
        topology: topology.clone(),
        writing: is_written,
        database,
    };
    let depths = depths::Depths {
        link: consuming.clone(),
        topology: topology.clone(),
        store: store.clone(),
    };
    let upkeep = upkeep::Upkeep {
        config,
        publisher: Publisher::new(publishing, &broker),
        topology,
        store,
        host,
    };
    let upkeep = run_until(&stop, "upkeep", upkeep.run());
    let looking = run_until(&stop, "depths", depths.run());
    let watching = tokio::spawn(vital("readiness", readiness.watch()));

    let [journal, dead, rejected] = &mut consumers;
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        _ = &mut writing => return Err(Error::Ended("writer")),
        _ = journal => return Err(Error::Ended("consumer of the journal")),
        _ = dead => return Err(Error::Ended("consumer of dead letters")),
        _ = rejected => return Err(Error::Ended("consumer of rejected messages")),
    }
    shut_down(consumers, writing).await;
    let _ = upkeep.await;
    let _ = looking.await;
    links.cancel();
    consuming.closed().await;
    let _ = watching.await;
    Ok(())
}

/// Starts a task whose panic ends the process, and which ends with `stop`.
fn run_until<T: Send + 'static>(
    stop: &CancellationToken,
    name: &'static str,
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<Option<T>> {
    tokio::spawn(vital(name, stop.clone().run_until_cancelled_owned(task)))
}

/// Begins to consume each of [`SOURCES`]. `arrived` receives the messages, and `consumes` which sources are
/// consumed.
fn consume_all(
    link: &Link,
    topology: &Topology,
    arrived: mpsc::UnboundedSender<(Source, Incoming)>,
    consumes: watch::Sender<[bool; SOURCES.len()]>,
    stop: &CancellationToken,
) -> [JoinHandle<Unsettled>; SOURCES.len()] {
    let consumes = Arc::new(consumes);
    let consumers = [0, 1, 2].map(|index| {
        let consumes = Arc::clone(&consumes);
        let told = move |is_consumed| consumes.send_modify(|all| all[index] = is_consumed);
        consume(link, topology, SOURCES[index], arrived.clone(), stop, told)
    });
    // The consumers alone hold it from now on: the writer ends after the last of them.
    drop(arrived);
    consumers
}

/// Waits for the consumers, then for the writer, which ends when no consumer is left to hand it a message. A
/// panic was logged, and the broker has what was not acked.
async fn shut_down(consumers: [JoinHandle<Unsettled>; SOURCES.len()], writing: JoinHandle<()>) {
    let mut unsettled = Vec::new();
    for consumer in consumers {
        unsettled.extend(consumer.await);
    }
    let _ = writing.await;
    for handed_out in unsettled {
        handed_out.settled().await;
    }
}

fn consume(
    link: &Link,
    topology: &Topology,
    source: Source,
    arrived: mpsc::UnboundedSender<(Source, Incoming)>,
    stop: &CancellationToken,
    told: impl Fn(bool) + Send + 'static,
) -> JoinHandle<Unsettled> {
    let (link, topology, stop) = (link.clone(), topology.clone(), stop.clone());
    tokio::spawn(async move {
        let queue = source.queue(&topology);
        let take = |incoming| {
            // An error says that the writer ended by a panic; then nothing is acked any more.
            let _ = arrived.send((source, incoming));
        };
        broker::consume(&link, &topology, &queue, source.prefetch(), &stop, told, take).await
    })
}
