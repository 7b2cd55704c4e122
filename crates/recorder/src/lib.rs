//! The recorder: writes the journal's queue, dead letters and rejected messages to the store.
//!
//! ```text
//! [journal]  -> entry -> write -> ack       every event, every attempt
//! [dead]     -> entry -> write -> ack       dead letters with their events, so that they can be resent
//! [rejected] -> entry -> write -> ack       messages that could not be decoded, unchanged
//!                        upkeep             retention, failing endpoints, expired relays, operational messages
//!                        depths             queue lengths and pending deliveries, for metrics
//! ```
//!
//! Workers publish batches of records. `entry` decodes them. `write` collects the messages that have arrived,
//! writes them in one transaction, and acknowledges them. While one transaction is in progress, the messages
//! of the next one gather.
//!
//! Only what the broker holds survives a crash. A message is acknowledged after the commit, so a message that
//! was written may be redelivered, and the batches of several workers arrive in any order. Neither matters,
//! because everything that is written merges (see [`webhook::journal`]). Any number of recorders may run.
//!
//! Invariants:
//! - A message is acknowledged only after its content has been committed.
//! - While the database is unavailable, nothing is acknowledged and nothing is dropped: the queues hold it.
//! - A message that cannot be decoded is stored as a rejected message, with the reason. So is a single record
//!   that the database refuses, with its content, so that it can be redriven. The rest of its batch is
//!   written.
//! - Nothing is deleted while a clock is in doubt. Retention counts from the earlier of two times: this
//!   host's clock, and the latest time known from the newest record and the last clock check of a recorder.
//!   It stops while clocks disagree.
//! - No relay is ended because the database was away: see `relays`.
//! - Memory is bounded by the prefetch of the three queues.
//!
//! Deliberately absent: any influence on deliveries. If no recorder runs for a day, the only consequence is a
//! journal that lags behind.

mod config;
mod entry;
mod meters;
mod depths;
mod part;
mod lag;
mod readiness;
mod write;
mod relays;
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

use entry::Inbox;
use readiness::{Readiness, Writing};

/// The dependencies of a recorder.
#[derive(Debug)]
pub struct Deps {
    /// The broker to consume from.
    pub broker: broker::Config,
    /// The queues and exchanges that have to exist on the broker.
    pub topology: Topology,
    /// The store that holds the journal. Its schema must be up to date.
    pub store: Store,
    /// The name of this host, under which the recorder reports that its clock is in doubt.
    pub host: String,
    /// Why this process last failed to write its row in the table `roles`, which it does every second; `None`
    /// if it succeeded.
    pub database: watch::Receiver<Option<String>>,
    /// Receives what the recorder is waiting for; `None` while it records.
    pub readiness: watch::Sender<Option<String>>,
    /// Receives why the recorder runs in a degraded state; `None` while nothing is wrong.
    pub degraded: watch::Sender<Option<String>>,
}

/// An error that stops the recorder. Temporary faults, such as an unavailable broker or database, do not: the
/// recorder waits.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part of the recorder ended unexpectedly, which is a bug. No record is lost: the broker redelivers
    /// the unacknowledged messages.
    #[error("the recorder's {0} ended unexpectedly, see the panic above; restart the recorder")]
    Ended(&'static str),
}

const INBOXES: [Inbox; 3] = [Inbox::Journal, Inbox::Dead, Inbox::Rejected];

/// Runs the recorder until `stop` is cancelled. Then commits the messages that it has taken, requeues the
/// others, and returns.
///
/// While the database or the broker is unavailable, the recorder logs that and waits.
///
/// # Errors
/// Returns an error only if waiting cannot resolve the problem: see [`Error`].
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
    // Bounded by the prefetches, or twice that after a lost connection: the writer discards messages that the
    // broker redelivers.
    let (arrived, arrivals) = mpsc::unbounded_channel();
    let (consumes, consumed) = watch::channel([false; INBOXES.len()]);
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

/// Starts a task that ends with `stop`. A panic of the task ends the process.
fn run_until<T: Send + 'static>(
    stop: &CancellationToken,
    name: &'static str,
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<Option<T>> {
    tokio::spawn(vital(name, stop.clone().run_until_cancelled_owned(task)))
}

/// Starts consuming each of [`INBOXES`]. `arrived` receives the messages, and `consumes` which inboxes are
/// being consumed.
fn consume_all(
    link: &Link,
    topology: &Topology,
    arrived: mpsc::UnboundedSender<(Inbox, Incoming)>,
    consumes: watch::Sender<[bool; INBOXES.len()]>,
    stop: &CancellationToken,
) -> [JoinHandle<Unsettled>; INBOXES.len()] {
    let consumes = Arc::new(consumes);
    let consumers = [0, 1, 2].map(|index| {
        let consumes = Arc::clone(&consumes);
        let told = move |is_consumed| consumes.send_modify(|all| all[index] = is_consumed);
        consume(link, topology, INBOXES[index], arrived.clone(), stop, told)
    });
    // From now on only the consumers hold a sender, so the writer ends after the last of them.
    drop(arrived);
    consumers
}

/// Waits for the consumers, then for the writer, which ends when no consumer can send it a message. A panic
/// of one of them was logged, and the broker still has the unacknowledged messages.
async fn shut_down(consumers: [JoinHandle<Unsettled>; INBOXES.len()], writing: JoinHandle<()>) {
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
    source: Inbox,
    arrived: mpsc::UnboundedSender<(Inbox, Incoming)>,
    stop: &CancellationToken,
    told: impl Fn(bool) + Send + 'static,
) -> JoinHandle<Unsettled> {
    let (link, topology, stop) = (link.clone(), topology.clone(), stop.clone());
    tokio::spawn(async move {
        let queue = source.queue(&topology);
        let take = |incoming| {
            // An error means that the writer has ended with a panic. In that case nothing is acknowledged any
            // more.
            let _ = arrived.send((source, incoming));
        };
        broker::consume(&link, &topology, &queue, source.prefetch(), &stop, told, take).await
    })
}
