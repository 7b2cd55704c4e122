//! The delivery worker: from a published event to a settled message.
//!
//! ```text
//! [events] -> intake -> fanout -> admission -> attempt -> outcome -> settle -> journal -> ack
//! [due]    -> intake -> due    -> admission -> attempt -> outcome -> settle -> journal -> ack
//! [held]   -> intake:                          attempt, already under way
//!                                 registry (who wants what)   recall (what is already done)
//!                                 presence (what others are told of the registry)   pulse (whether this process ran all the time)
//! ```
//!
//! An event message is one unit of work: `fanout` finds the endpoints that want it, makes the first attempts
//! itself and publishes what has to wait. A due message is one delivery whose next attempt has come; `due`
//! looks its endpoint up and makes that attempt. Both end as a `settlement::Settlement`: the messages to
//! publish before the ack, and what there is to record. The committer in `settle` publishes the messages in
//! groups and waits for every confirm; `journal` publishes the records in batches, waits for their confirm,
//! but not for long, and acks.
//!
//! An attempt that takes over a second gives its slot to others and goes on as the work on a message of its
//! own, which this worker publishes into a queue of its own and takes out again: unacked there, it is in this
//! worker's hands, and comes due for any other should this one die. The worker then acks the event's or due
//! message without waiting for it.
//!
//! What survives a crash: what the broker holds. Every message that was not acked is handed out again, to
//! anyone. A worker's memory only spares work: `recall` remembers what was settled when the connection was
//! lost before the ack arrived, so that the endpoint is not asked twice by the same worker.
//!
//! Invariants:
//! - A message is acked after everything it caused is confirmed, never before.
//! - What was settled is recorded before the ack, or counted in a gap that is recorded later: the journal
//!   holds up nothing.
//! - No step between a message and its attempt waits for the database, except for a due delivery whose
//!   endpoint is not known here, and for two seconds at most after this process did not run for a while.
//! - An attempt begins with the endpoint as it is known when its slot is granted, and `presence` announces
//!   what is known: a process that changes an endpoint can wait until no later attempt begins with an older
//!   one.
//! - Our own faults (no descriptor, no name server, no database, shutdown, a process that did not run) put a
//!   delivery off and spend no attempt.
//! - A panic in the work on one message quarantines that message and nothing else.
//! - No organization, and no number of endpoints that fail or hang, holds all slots: see `admission`.
//! - Memory is bounded by the prefetch of the two queues, the registry's bound and `recall`'s capacity.
//!
//! Beside it, `expiry` warns of certificates that handshakes have shown to expire soon, and `bindings`
//! restores bindings that were removed.
//!
//! Deliberately absent: reading state back from a database to retry (a delivery carries its own), timers
//! (delay queues are the only clock), any knowledge of other workers.

mod config;
mod signing;
mod registry;
mod tally;
mod presence;
mod readiness;
mod pulse;
mod recall;
mod refusal;
mod job;
mod intake;
mod fanout;
mod due;
mod admission;
mod attempt;
mod outcome;
mod settlement;
mod settle;
mod journal;
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
    admission::Admission, context::Context, gone::Gone, job::Tasks, journal::Journal, meters::Meters,
    presence::Presence, pulse::Pulse, readiness::Readiness, recall::Recall, registry::Registry, tails::Tails,
};

/// What a worker works with.
#[derive(Debug)]
pub struct Deps {
    /// Its name among all workers that run, on any host: part of a queue's name.
    pub name: String,
    /// The host that it runs on, for people.
    pub host: String,
    /// The broker to consume from and publish to.
    pub broker: broker::Config,
    /// Where endpoints are kept; its schema must be up to date.
    pub store: store::Store,
    /// The way to endpoints.
    pub egress: egress::Egress,
    /// Told what the worker waits for; `None` once it consumes.
    pub readiness: watch::Sender<Option<String>>,
    /// Told why the worker works on with less than it should have; `None` while nothing is wrong.
    pub degraded: watch::Sender<Option<String>>,
}

/// Why a worker cannot work at all. Faults that can pass (broker or database away) are waited for instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoints cannot be read, and waiting will not help.
    #[error("cannot load the endpoints")]
    Registry(#[source] store::Error),
    /// A part of the worker ended by itself: a bug. Nothing is lost, the broker hands out again what was not
    /// acked.
    #[error("the worker's {0} ended unexpectedly, see the panic above; restart the worker")]
    Ended(&'static str),
}

/// The wait between two tries to become known to the database.
const LOAD_RETRY: Duration = Duration::from_secs(1);
/// How long attempts wait for the endpoints to be looked at after the process stood still. A database that
/// does not answer by then is away, and a worker that cannot reach it goes on with what it knows.
const CATCH_UP_MAX: Duration = Duration::from_secs(2);

const SOURCES: [Source; 3] = [Source::Events, Source::Due, Source::Held];

/// Cancelling `stop` ends with the attempts in flight given up at the deadline; this is how long the rest may
/// take then.
const LAST_COMMIT: Duration = Duration::from_millis(800);
/// How long the channels stay open after the last ack was written. RabbitMQ holds acks back while more than
/// 32 commands of a channel are under way to a quorum queue, and forgets what it holds when the channel is
/// closed; a busy one was seen to hand out hundreds of acked messages again, and with 200 ms about a hundred
/// in 3 of 72 drains beside a compiler. Nothing says when it is through. What is handed out again is
/// delivered once more, not lost.
const ACKS_TAKEN: Duration = Duration::from_millis(500);

/// Delivers until `stop` is cancelled, and then shuts down: takes nothing new, hands back what was not begun,
/// lets attempts in flight end until [`Config::shutdown_deadline`], puts the rest off uncharged, commits, and
/// returns.
///
/// Waits, with a line in the log, for a database or broker that is away.
///
/// # Errors
/// Only what waiting cannot mend.
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

    let (tasks, [mut committer, mut journal]) = settling(&context, &broker, publisher, name);
    let mut consumers = consume_all(&context, &consuming, &tasks, consumed, &stop);
    let [events, due, held] = &mut consumers;
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        Ok(Some(error)) = &mut following => return Err(Error::Registry(error)),
        _ = &mut committer => return Err(Error::Ended("committer")),
        _ = &mut journal => return Err(Error::Ended("journal")),
        _ = events => return Err(Error::Ended("consumer of events")),
        _ = due => return Err(Error::Ended("consumer of due deliveries")),
        _ = held => return Err(Error::Ended("consumer of held deliveries")),
    }
    shut_down(&context, tasks, [committer, journal], consumers).await;
    links.cancel();
    let _ = following.await;
    end(&context, &background).await;
    Ok(())
}

/// Waits for what ran beside the deliveries, and says the last word to the database.
async fn end(context: &Context, background: &TaskTracker) {
    background.close();
    background.wait().await;
    context.presence.end(&context.store, &context.registry).await;
}

/// Starts the committer and the recording, and returns the tasks, which hand messages to them. They end once
/// these are dropped.
fn settling(
    context: &Arc<Context>,
    broker: &broker::Config,
    publisher: Publisher,
    name: String,
) -> (Arc<Tasks>, [JoinHandle<()>; 2]) {
    let in_hand = Arc::clone(&context.presence.tally.in_hand);
    let recall = Arc::new(Recall::new(context.config.recall_max(), in_hand));
    let (closing, settled) = journal::channel(&context.config, Arc::clone(&recall));
    let journal = Journal::new(Arc::clone(context), broker, Arc::clone(&recall), name);
    let journal = tokio::spawn(journal.run(settled));
    let (submit, submitted) = settle::channel(&context.config);
    let committer = settle::Committer::new(
        publisher,
        context.publishing.clone(),
        context.topology.clone(),
        Arc::clone(&recall),
        closing.clone(),
    );
    let committer = tokio::spawn(committer.run(submitted));
    let tasks = Arc::new(Tasks::new(Arc::clone(context), recall, submit, closing));
    (tasks, [committer, journal])
}

/// Passes copies of what was settled on to the commands that watch.
async fn pass_on_copies(context: Arc<Context>, copies: mpsc::Receiver<Bytes>, stop: CancellationToken) {
    context.tails.run(context.publishing.clone(), copies, stop).await;
}

/// Starts what runs beside the deliveries, until `stop`.
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

/// Begins to consume each of [`SOURCES`]. `consumed` receives which of them are.
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

/// The consumers stop by themselves; what they handed out is waited for, then given up, then committed.
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
            "the deadline passed; attempts in flight are put off, uncharged"
        );
        context.abort.cancel();
    }
    let committing = async {
        tasks.idle().await;
        // The committer ends when nobody can submit to it any more, and after it the journal.
        drop(tasks);
        for ending in committing {
            let _ = ending.await;
        }
        for handed_out in unsettled {
            handed_out.settled().await;
        }
        sleep(ACKS_TAKEN).await;
    };
    // A slow broker may have what is left of the deadline; one that is away is not waited for.
    let left = if context.publishing.is_up() {
        deadline.saturating_sub(began.elapsed()).max(LAST_COMMIT)
    } else {
        LAST_COMMIT
    };
    if timeout(left, committing).await.is_err() {
        tracing::warn!("not everything could be committed; the broker hands those messages out again");
    }
}

/// Loads the endpoints and announces this worker and the delays of its schedule. What is written from then on
/// waits for it, and what was written before is looked for once more, before anything is consumed.
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
                        "the database is away again, and this worker has not announced itself; trying again"
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
            "cannot forget roles that are long gone"
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

/// Looks for changes after this process did not run for a while. Requests that changed an endpoint meanwhile
/// may not have waited for this worker. It announces itself first: every later request waits for it again,
/// and what was written earlier is found by looking.
async fn catch_up(context: Arc<Context>) {
    // In a task of its own: a query that is given up would be cut off in the middle.
    let catching_up = tokio::spawn(async move {
        let (store, registry) = (&context.store, &context.registry);
        let announced = context.presence.announce(store, registry).await;
        if let Err(error) = announced.and(registry.refresh(store).await) {
            tracing::warn!(
                error = display_chain(&error),
                "cannot look for changed endpoints; going on with those that are known"
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
