//! The delivery worker: consumes published events and due deliveries, makes the attempts, and settles the
//! messages.
//!
//! ```text
//! [events] -> intake -> fanout -> admission -> attempt -> outcome -> committer -> recording -> ack
//! [due]    -> intake -> due    -> admission -> attempt -> outcome -> committer -> recording -> ack
//! [held]   -> intake:                          attempt, already in progress
//!                                 registry (endpoints in memory)            recall (processed messages)
//!                                 presence (announces the registry version) pulse (detects stalls)
//! ```
//!
//! An event message is one unit of work: `fanout` finds the endpoints that match the event, makes the first
//! attempts inline, and publishes a separate message for each delivery that has to wait. A due message is one
//! delivery whose next attempt is due; `due` looks up its endpoint and makes that attempt. Both end as a
//! `work::Processed`: the messages to publish before the ack, and the records to write. `committer` publishes
//! the messages in groups and waits for every confirm. The result is a `work::Settled`: `recording` publishes
//! its records in batches, waits for their confirm for a limited time, and acknowledges the message.
//!
//! An attempt that lasts longer than a second gives its slot back, and its delivery moves to a separate
//! message, a *held message*: the worker publishes it to a queue that only this worker consumes, and receives
//! it back. While the held message is unacknowledged, the attempt continues in this worker. If the worker
//! dies, the message becomes due and any other worker can take it. The worker acknowledges the original event
//! or due message without waiting for the slow attempt.
//!
//! Only what the broker holds survives a crash. The broker redelivers every unacknowledged message to any
//! worker. A worker's memory is only an optimization: `recall` remembers messages that were settled when the
//! connection was lost before the ack arrived, so that the same worker does not send to the endpoint twice.
//!
//! Invariants:
//! - A message is acknowledged only after every publish that it caused has been confirmed.
//! - A settled message is recorded before its ack, or counted in a gap that is recorded later. The journal
//!   never delays deliveries.
//! - No step between a message and its attempt waits for the database, with two exceptions: a due delivery
//!   whose endpoint is not in memory, and a wait of at most two seconds after this process was stalled.
//! - An attempt begins with the endpoint as it is known when its slot is granted, and `presence` announces
//!   that version. A process that changes an endpoint can therefore wait until no later attempt begins with
//!   an older version.
//! - Faults on our side (no file descriptor, no name server, no database, a shutdown, a stalled process)
//!   defer the delivery and do not count as an attempt.
//! - A panic while processing one message quarantines that message and affects no other.
//! - No organization, and no number of failing or hanging endpoints, can hold all slots: see `admission`.
//! - Memory is bounded by the prefetch of the three queues, the registry's limit and `recall`'s capacity.
//!
//! The requests of a relay, an endpoint without a URL, are passed on by `relay`.
//!
//! In the background, `expiry` warns about certificates that expire soon, as seen in TLS handshakes, and
//! `bindings` restores bindings that were removed.
//!
//! Deliberately absent: reading state back from a database to retry (a delivery carries its own state),
//! timers for retries (the delay queues are the only clock), and any knowledge of other workers.

mod config;
mod signing;
mod registry;
mod tally;
mod presence;
mod readiness;
mod pulse;
mod work;
mod recall;
mod refusal;
mod job;
mod intake;
mod fanout;
mod due;
mod admission;
mod relay;
mod attempt;
mod outcome;
mod committer;
mod recording;
mod tails;
mod gone;
mod bindings;
mod expiry;
mod meters;
mod context;

use std::{sync::Arc, time::Duration};

use broker::{Link, Publisher, Source, Topology, Unsettled};
use bytes::Bytes;
use runtime::{Lasting, display_chain, now_ms, vital};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use config::Config;
pub use meters::METRICS;

use crate::{
    admission::Admission, committer::Committer, context::Context, gone::Gone, job::Tasks, meters::Meters,
    presence::Presence, pulse::Pulse, readiness::Readiness, recall::Recall, recording::Recording,
    registry::Registry, relay::Relay, tails::Tails,
};

/// The dependencies of a worker.
#[derive(Debug)]
pub struct Deps {
    /// The worker's name, unique among all running workers on any host. It is part of a queue's name.
    pub name: String,
    /// The host that the worker runs on, shown to operators.
    pub host: String,
    /// The broker to consume from and publish to.
    pub broker: broker::Config,
    /// The store that holds the endpoints. Its schema must be up to date.
    pub store: store::Store,
    /// The HTTP client for requests to endpoints.
    pub egress: egress::Egress,
    /// Receives what the worker is waiting for; `None` once it consumes.
    pub readiness: watch::Sender<Option<String>>,
    /// Receives why the worker runs in a degraded state; `None` while nothing is wrong.
    pub degraded: watch::Sender<Option<String>>,
}

/// An error that stops the worker. Temporary faults, such as an unavailable broker or database, do not: the
/// worker waits.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoints cannot be read, and waiting would not help.
    #[error("cannot load the endpoints")]
    Registry(#[source] store::Error),
    /// A part of the worker ended unexpectedly, which is a bug. No event is lost: the broker redelivers the
    /// unacknowledged messages.
    #[error("the worker's {0} ended unexpectedly, see the panic above; restart the worker")]
    Ended(&'static str),
}

/// How long the worker waits before it tries again to announce itself to the database.
const LOAD_RETRY: Duration = Duration::from_secs(1);
/// The maximum time that attempts wait, after this process was stalled, for the worker to check for changed
/// endpoints.
///
/// If the database does not answer within this time, the worker continues with the endpoints in memory.
const CATCH_UP_MAX: Duration = Duration::from_secs(2);

const SOURCES: [Source; 3] = [Source::Events, Source::Due, Source::Held];

/// The minimum time that the worker allows for committing the remaining messages after the shutdown deadline.
/// At the deadline, attempts in flight are aborted.
const LAST_COMMIT: Duration = Duration::from_millis(800);
/// How long the channels stay open after the last ack was written.
///
/// RabbitMQ holds acks back while more than 32 commands of a channel to a quorum queue are pending, and
/// discards the held acks when the channel is closed. A busy channel was seen to redeliver hundreds of
/// acknowledged messages; with 200 ms, about a hundred were redelivered in 3 of 72 drains while a compiler
/// was running. RabbitMQ does not report when it has processed all acks. A redelivered message is delivered
/// once more, not lost.
const ACKS_TAKEN: Duration = Duration::from_millis(500);

/// Runs the worker until `stop` is cancelled, then shuts down.
///
/// During shutdown the worker takes no new messages, requeues messages that it has not started, lets attempts
/// in flight finish until [`Config::shutdown_deadline`], defers the remaining ones without charging an
/// attempt, commits, and returns.
///
/// While the database or the broker is unavailable, the worker logs that and waits.
///
/// # Errors
/// Returns an error only if waiting cannot resolve the problem: see [`Error`].
pub async fn run(config: Config, deps: Deps, stop: CancellationToken) -> Result<(), Error> {
    let (ready, name) = (deps.readiness, deps.name);
    ready.send_replace(Some("loading the endpoints from the database".to_owned()));
    let presence = Presence::new(name.clone(), deps.host, deps.degraded);
    let loading = load(&deps.store, &presence, config.schedule.tiers());
    let registry = match stop.run_until_cancelled(loading).await {
        None => {
            presence.close(&deps.store).await;
            return Ok(());
        }
        Some(loaded) => loaded.map_err(Error::Registry)?,
    };
    let links = CancellationToken::new();
    let broker = deps.broker;
    let publishing = Link::publishing(&broker, "magnetite worker, publishing", links.clone());
    let consuming = Link::open(&broker, "magnetite worker, consuming", links.clone());
    let publisher = Publisher::new(publishing.clone(), &broker);
    let topology = Topology::new(&broker.prefix, config.schedule.tiers()).of_worker(&*name);
    let (tails, copies) = Tails::new(topology.clone());
    let context = Arc::new(Context {
        relay: Relay::new(&broker, topology.clone(), links.clone()),
        topology,
        registry,
        presence,
        pulse: Pulse::new(),
        admission: Admission::new(config.in_flight_max),
        store: deps.store,
        egress: deps.egress,
        publishing: publishing.clone(),
        gone: Gone::default(),
        look_ups: Lasting::new(),
        faults: Lasting::new(),
        meters: Meters::new(),
        tails: Arc::new(tails),
        stop: stop.clone(),
        abort: CancellationToken::new(),
        config,
    });
    let mut following = tokio::spawn(vital("registry", refresh(Arc::clone(&context), links.clone())));
    let background = in_background(&context, &consuming, &publisher, &links);
    let (consumed, consumes) = watch::channel([false; SOURCES.len()]);
    let readiness = Readiness {
        ready,
        publishing: publishing.clone(),
        consuming: consuming.clone(),
        consumes,
    };
    let watching = readiness.watch(Arc::clone(&context), links.clone());
    background.spawn(vital("readiness", watching));
    let copying = pass_on_copies(Arc::clone(&context), copies, links.clone());
    background.spawn(vital("copies", copying));

    let (tasks, [mut committer, mut recording]) = settling(&context, &broker, publisher, name);
    let mut consumers = consume_all(&context, &consuming, &tasks, consumed, &stop);
    let [events, due, held] = &mut consumers;
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        Ok(Some(error)) = &mut following => return Err(Error::Registry(error)),
        _ = &mut committer => return Err(Error::Ended("committer")),
        _ = &mut recording => return Err(Error::Ended("journal")),
        _ = events => return Err(Error::Ended("consumer of events")),
        _ = due => return Err(Error::Ended("consumer of due deliveries")),
        _ = held => return Err(Error::Ended("consumer of held deliveries")),
    }
    shut_down(&context, tasks, [committer, recording], consumers).await;
    links.cancel();
    let _ = following.await;
    end(&context, &background).await;
    Ok(())
}

/// Waits for the background tasks to end, then announces to the database that the worker has ended.
async fn end(context: &Context, background: &TaskTracker) {
    background.close();
    background.wait().await;
    context.relay.closed().await;
    context.presence.end(&context.store, &context.registry).await;
}

/// Starts the committer and the recording. Returns the [`Tasks`] that submit messages to them, and their
/// handles. Both end once all clones of these tasks are dropped.
fn settling(
    context: &Arc<Context>,
    broker: &broker::Config,
    publisher: Publisher,
    name: String,
) -> (Arc<Tasks>, [JoinHandle<()>; 2]) {
    let in_hand = Arc::clone(&context.presence.tally.in_hand);
    let recall = Arc::new(Recall::new(context.config.recall_max(), in_hand));
    let (to_recording, settled) = recording::channel(&context.config);
    let recording = Recording::new(Arc::clone(context), broker, Arc::clone(&recall), name);
    let recording = tokio::spawn(recording.run(settled));
    let (to_committer, processed) = committer::channel(&context.config);
    let committer = Committer::new(
        publisher,
        context.publishing.clone(),
        context.topology.clone(),
        Arc::clone(&recall),
        to_recording.clone(),
    );
    let committer = tokio::spawn(committer.run(processed));
    let tasks = Tasks::new(Arc::clone(context), recall, to_committer, to_recording);
    (Arc::new(tasks), [committer, recording])
}

/// Sends copies of the journal's batches to the commands that watch, until `stop` is cancelled.
async fn pass_on_copies(context: Arc<Context>, copies: mpsc::Receiver<Bytes>, stop: CancellationToken) {
    context.tails.run(context.publishing.clone(), copies, stop).await;
}

/// Starts the background tasks, which run until `stop` is cancelled.
fn in_background(
    context: &Arc<Context>,
    consuming: &Link,
    publisher: &Publisher,
    stop: &CancellationToken,
) -> TaskTracker {
    let background = TaskTracker::new();
    let shared = || (Arc::clone(context), stop.clone());
    let (beating, stopped) = shared();
    background.spawn(vital("pulse", beat(beating, stopped)));
    let (announcing, stopped) = shared();
    background.spawn(vital("presence", announce(announcing, stopped)));
    let (told, stopped) = shared();
    background.spawn(vital(
        "changes",
        hear_of_changes(told, consuming.clone(), stopped),
    ));
    let (gone, stopped) = shared();
    background.spawn(vital("gone endpoints", record_gone(gone, stopped)));
    let (expiring, stopped) = shared();
    background.spawn(vital("certificates", warn_of_expiry(expiring, stopped)));
    let (bound, stopped) = shared();
    background.spawn(vital(
        "bindings",
        watch_bindings(bound, publisher.clone(), stopped),
    ));
    background
}

/// Starts consuming each of [`SOURCES`]. `consumed` receives which of them are being consumed.
fn consume_all(
    context: &Arc<Context>,
    link: &Link,
    tasks: &Arc<Tasks>,
    consumed: watch::Sender<[bool; SOURCES.len()]>,
    stop: &CancellationToken,
) -> [JoinHandle<Unsettled>; SOURCES.len()] {
    let consumed = Arc::new(consumed);
    [0, 1, 2].map(|index| {
        let consumed = Arc::clone(&consumed);
        let told = move |is_consumed| consumed.send_modify(|all| all[index] = is_consumed);
        consume(context, link, tasks, SOURCES[index], stop, told)
    })
}

fn consume(
    context: &Arc<Context>,
    link: &Link,
    tasks: &Arc<Tasks>,
    source: Source,
    stop: &CancellationToken,
    told: impl Fn(bool) + Send + 'static,
) -> JoinHandle<Unsettled> {
    let (context, link, tasks, stop) = (Arc::clone(context), link.clone(), Arc::clone(tasks), stop.clone());
    tokio::spawn(async move {
        let (topology, prefetch) = (&context.topology, context.config.prefetch(source));
        let take = |incoming| intake::take(&tasks, source, incoming);
        let queue = source.queue(topology);
        broker::consume(&link, topology, &queue, prefetch, &stop, told, take).await
    })
}

/// Shuts the worker down: waits for the consumers, which stop by themselves, and for the messages in
/// progress, aborts the remaining attempts at the deadline, then commits everything.
async fn shut_down(
    context: &Context,
    tasks: Arc<Tasks>,
    committing: [JoinHandle<()>; 2],
    consumers: [JoinHandle<Unsettled>; 3],
) {
    let (began, deadline) = (Instant::now(), context.config.shutdown_deadline);
    tracing::info!(
        in_flight = tasks.in_flight(),
        ?deadline,
        "shutting down; no new messages are taken"
    );
    let mut unsettled = Vec::new();
    let ending = async {
        for consumer in consumers {
            unsettled.extend(consumer.await);
        }
        tasks.idle().await;
    };
    if timeout(deadline, ending).await.is_err() {
        let in_flight = tasks.in_flight();
        tracing::warn!(
            in_flight,
            "the shutdown deadline passed; attempts in flight are aborted and made again later, without being charged"
        );
        context.abort.cancel();
    }
    let committing = async {
        tasks.idle().await;
        // The committer ends once all senders to it are dropped; the recording ends after the committer.
        drop(tasks);
        for ending in committing {
            let _ = ending.await;
        }
        for handed_out in unsettled {
            handed_out.settled().await;
        }
        sleep(ACKS_TAKEN).await;
    };
    // A slow broker may use the rest of the deadline. The worker does not wait for a broker that is
    // unavailable.
    let left = if context.publishing.is_up() {
        deadline.saturating_sub(began.elapsed()).max(LAST_COMMIT)
    } else {
        LAST_COMMIT
    };
    if timeout(left, committing).await.is_err() {
        tracing::warn!(
            "not every message could be acknowledged before the shutdown deadline; the broker redelivers the others"
        );
    }
}

/// Loads the endpoints, and announces this worker and the delays of its schedule.
///
/// Processes that change an endpoint after the announcement wait for this worker. Changes from before the
/// announcement are found by refreshing the registry once more, before anything is consumed.
async fn load(
    store: &store::Store,
    presence: &Presence,
    tiers: &[Duration],
) -> Result<Registry, store::Error> {
    let (registry, away) = (Registry::load(store).await?, Lasting::new());
    loop {
        let announced = presence.announce(store, &registry).await;
        let remembered = announced.and(store.remember_delays(tiers).await);
        match remembered.and(registry.refresh(store).await) {
            Ok(()) => break,
            Err(error) if error.is_unavailable() => {
                if away.again().is_some() {
                    tracing::warn!(
                        error = display_chain(&error),
                        "the database became unavailable while this worker was starting; trying again"
                    );
                }
            }
            Err(error) => return Err(error),
        }
        sleep(LOAD_RETRY).await;
    }
    if let Err(error) = store.forget_old_roles().await {
        tracing::debug!(
            error = display_chain(&error),
            "cannot delete roles that ended long ago from the database"
        );
    }
    Ok(registry)
}

async fn announce(context: Arc<Context>, stop: CancellationToken) {
    let announcing = context.presence.run(&context.store, &context.registry);
    stop.run_until_cancelled(announcing).await;
}

async fn hear_of_changes(context: Arc<Context>, link: Link, stop: CancellationToken) {
    let told = || context.registry.tell();
    let watched = |queue: &str| context.tails.watched(queue);
    broker::follow_changes(
        &link,
        &context.publishing,
        &context.topology,
        &stop,
        told,
        watched,
    )
    .await;
}

async fn beat(context: Arc<Context>, stop: CancellationToken) {
    let beating = context.pulse.run(
        || catch_up(Arc::clone(&context)),
        || context.presence.judge(&context.registry),
    );
    stop.run_until_cancelled(beating).await;
}

/// Checks for changed endpoints after this process was stalled.
///
/// Requests that changed an endpoint during the stall may not have waited for this worker. The worker
/// announces itself first, so that every later request waits for it again, and then reads the changes that
/// were written earlier.
async fn catch_up(context: Arc<Context>) {
    // This runs in its own task: dropping the future at the timeout would interrupt a query halfway.
    let catching_up = tokio::spawn(async move {
        let (store, registry) = (&context.store, &context.registry);
        let announced = context.presence.announce(store, registry).await;
        if let Err(error) = announced.and(registry.refresh(store).await) {
            tracing::warn!(
                error = display_chain(&error),
                "cannot check for changed endpoints; continuing with the endpoints in memory"
            );
        }
    });
    let _ = timeout(CATCH_UP_MAX, catching_up).await;
}

async fn refresh(context: Arc<Context>, stop: CancellationToken) -> Option<store::Error> {
    let every = context.config.registry_refresh;
    stop.run_until_cancelled(context.registry.follow(&context.store, every))
        .await
}

async fn record_gone(context: Arc<Context>, stop: CancellationToken) {
    stop.run_until_cancelled(context.gone.write_back(&context.store))
        .await;
    context.gone.flush(&context.store).await;
}

async fn warn_of_expiry(context: Arc<Context>, stop: CancellationToken) {
    let (certificates, registry, store) = (context.egress.certificates(), &context.registry, &context.store);
    stop.run_until_cancelled(expiry::watch(certificates, registry, store))
        .await;
}

async fn watch_bindings(context: Arc<Context>, publisher: Publisher, stop: CancellationToken) {
    let watching = bindings::watch(&publisher, &context.publishing, &context.topology);
    stop.run_until_cancelled(watching).await;
}
