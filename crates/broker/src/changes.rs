//! Telling workers that an endpoint was changed, so that they look at once instead of when their interval is
//! over.
//!
//! A message says that something changed and nothing else: workers read from the database what it was. No
//! message is confirmed, because none is needed: a worker that misses one finds the change at its next look,
//! a quarter of a second later.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use lapin::{
    Channel, ExchangeKind,
    options::{BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Closed, Config, Exchange, Link, Topology, channel::ChannelError, held::is_locked, link::backoff, meters,
    private, tail::WATCH,
};

/// How long telling may take. The caller waits for the workers in any case; after this time being told makes
/// them no faster.
const TELL_MAX: Duration = Duration::from_secs(1);
/// When nothing came for this long, it is found out whether something would.
const SILENCE_MAX: Duration = Duration::from_mins(1);
/// How long being told may take.
const TOLD_MAX: Duration = Duration::from_secs(5);
/// How long declaring and binding a queue may take.
const OPEN_MAX: Duration = Duration::from_secs(30);
/// Room for one message of each command that watches, and a few changes. All changes say the same, so a
/// worker needs only one of them.
const QUEUE_LENGTH_MAX: i64 = 16;

impl Topology {
    /// The fanout exchange by which workers are told that an endpoint was changed. Each of them has a queue
    /// there that goes with its connection; a message says nothing but that there is something to look
    /// for in the database.
    pub fn changes_exchange(&self) -> String {
        self.named("changes")
    }

    /// The queue of changes of this worker's connection with this number.
    fn changes_queue(&self, connection: u64) -> String {
        self.named(&format!("changes.{}.{connection}", self.worker()))
    }

    pub(crate) fn changes(&self) -> Exchange {
        Exchange {
            name: self.changes_exchange(),
            kind: "fanout",
        }
    }
}

/// A way to tell every worker that something changed.
pub struct Changes {
    link: OnceLock<Link>,
    /// Where a link is opened to when there is none.
    config: Option<Config>,
    topology: Topology,
    /// Cancelled when a link that was opened for this is not needed any more.
    stop: CancellationToken,
    channel: Mutex<Option<Channel>>,
}

impl Changes {
    /// Uses an open link.
    pub fn over(link: Link, topology: Topology) -> Self {
        Self {
            link: link.into(),
            config: None,
            topology,
            stop: CancellationToken::new(),
            channel: Mutex::default(),
        }
    }

    /// Uses a link of its own, opened when it is needed and closed by [`close`](Self::close).
    pub fn lazily(config: &Config, topology: Topology) -> Self {
        Self {
            link: OnceLock::new(),
            config: Some(config.clone()),
            topology,
            stop: CancellationToken::new(),
            channel: Mutex::default(),
        }
    }

    fn link(&self) -> Result<&Link, Closed> {
        match (&self.config, self.link.get()) {
            (_, Some(link)) => Ok(link),
            (Some(config), None) => Ok(self
                .link
                .get_or_init(|| Link::open(config, "magnetite command", self.stop.clone()))),
            (None, None) => Err(Closed),
        }
    }

    fn is_writable(&self) -> bool {
        self.link().is_ok_and(Link::is_writable)
    }

    /// Tells every connected worker to look for changes now. Returns after a second at most, whether or not a
    /// worker was told.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn tell(&self) {
        self.try_to_tell().await;
    }

    /// Whether the message was sent.
    async fn try_to_tell(&self) -> bool {
        let telling = async {
            let mut open = self.channel.lock().await;
            let channel = match open.take() {
                Some(channel) if channel.status().connected() => channel,
                _ => self.link()?.channel().await?,
            };
            let (exchange, options) = (self.topology.changes_exchange(), BasicPublishOptions::default());
            let published =
                channel.basic_publish(exchange.as_str().into(), "".into(), options, &[], <_>::default());
            published.await?;
            *open = Some(channel);
            Ok::<_, ChannelError>(())
        };
        match timeout(TELL_MAX, telling).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::debug!(%error, "workers could not be told of a change"),
            Err(_) => tracing::debug!("workers could not be told of a change in time"),
        }
        false
    }

    /// Whether the worker of this name is connected now: it has an exclusive queue then or, up to an earlier
    /// version, a consumer of a queue of its own.
    /// `None` when the broker does not answer within a second.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn is_consuming(&self, worker: &str) -> Option<bool> {
        let (alive, held) = (self.topology.alive(worker), self.topology.held_of(worker));
        let asking = async {
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let channel = self.link().ok()?.channel().await.ok()?;
            let found = channel.queue_declare(alive.as_str().into(), options, FieldTable::default());
            if found.await.is_err_and(|error| is_locked(&error)) {
                return Some(true);
            }
            let channel = self.link().ok()?.channel().await.ok()?;
            let found = channel.queue_declare(held.as_str().into(), options, FieldTable::default());
            let consumers = match found.await {
                Ok(queue) => queue.consumer_count(),
                // Most likely the queue does not exist, so nothing consumes it.
                Err(_) if self.link().is_ok_and(Link::is_up) => 0,
                Err(_) => return None,
            };
            let _ = channel.close(200, "OK".into()).await;
            Some(consumers > 0)
        };
        timeout(TELL_MAX, asking).await.ok().flatten()
    }

    /// Closes the link, if it was opened for this.
    pub async fn close(self) {
        if let (Some(_), Some(link)) = (self.config, self.link.get()) {
            self.stop.cancel();
            link.closed().await;
        }
    }
}

/// Calls `changed` for each change that is [told](Changes::tell), and whenever one may have been missed,
/// until `stop`. Calls `watched` with the name of the queue of a command that [tails](crate::tail()) the
/// journal. The topology is a worker's.
///
/// A minute without a change is ended by a message of its own, over `publishing`, which is then what all
/// workers are told. If it does not come, the queue is not bound any more: a new one is made.
pub async fn follow_changes(
    link: &Link,
    publishing: &Link,
    topology: &Topology,
    stop: &CancellationToken,
    changed: impl Fn(),
    watched: impl Fn(&str),
) {
    let own = Changes::over(publishing.clone(), topology.clone());
    let missing = meters::bindings_missing(topology, &topology.changes_exchange());
    missing.increment(0);
    let mut failures = 0;
    let following = async {
        loop {
            let error = match follow(link, topology, &own, (&changed, &watched), &mut failures).await {
                Ok(Ended::ByBroker) => "the broker ended the consumer".to_owned(),
                Ok(Ended::Unbound) => {
                    missing.increment(1);
                    tracing::warn!(
                        exchange = topology.changes_exchange(),
                        "the binding of this worker's queue of changes was missing; there is a new queue; find out who removed it"
                    );
                    continue;
                }
                Err(ChannelError::Closed(_)) => return,
                Err(error) => error.to_string(),
            };
            failures += 1;
            if failures == 2 {
                tracing::warn!(
                    error,
                    "not told of changed endpoints by the broker; looking for them at intervals, and trying again"
                );
            }
            sleep(backoff(failures)).await;
        }
    };
    stop.run_until_cancelled(following).await;
}

/// Why a queue of changes is of no use any more.
enum Ended {
    ByBroker,
    /// Nothing comes to it.
    Unbound,
}

async fn follow(
    link: &Link,
    topology: &Topology,
    own: &Changes,
    (changed, watched): (&impl Fn(), &impl Fn(&str)),
    failures: &mut u32,
) -> Result<Ended, ChannelError> {
    link.connection().await?;
    let Ok(opened) = timeout(OPEN_MAX, open(link, topology)).await else {
        return Ok(Ended::ByBroker);
    };
    let mut consumer = opened?;
    if *failures > 1 {
        tracing::info!("told of changed endpoints by the broker again");
    }
    *failures = 0;
    // What was told before it was bound is found by looking.
    changed();
    loop {
        let next = match timeout(SILENCE_MAX, consumer.next()).await {
            Ok(next) => next,
            Err(_) if !own.is_writable() || !own.try_to_tell().await => continue,
            Err(_) => match timeout(TOLD_MAX, consumer.next()).await {
                Ok(next) => next,
                // An alarm that was raised in between takes it.
                Err(_) if own.is_writable() => return Ok(Ended::Unbound),
                Err(_) => continue,
            },
        };
        let Some(Ok(told)) = next else {
            return Ok(Ended::ByBroker);
        };
        match told.properties.kind() {
            Some(kind) if kind.as_str() == WATCH => {
                if let Ok(queue) = std::str::from_utf8(&told.data) {
                    watched(queue);
                }
            }
            _ => changed(),
        }
    }
}

/// A queue that goes with its connection. Its name is used once: the broker may not have noticed yet that an
/// earlier connection is lost, and keeps that one's queue for it alone.
async fn open(link: &Link, topology: &Topology) -> Result<lapin::Consumer, ChannelError> {
    static OPENED: AtomicU64 = AtomicU64::new(0);
    let queue = topology.changes_queue(OPENED.fetch_add(1, Ordering::Relaxed));
    let channel = link.channel().await?;
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let exchange = topology.changes_exchange();
    channel
        .exchange_declare(
            exchange.as_str().into(),
            ExchangeKind::Fanout,
            durable,
            FieldTable::default(),
        )
        .await?;
    private::declare(&channel, &queue, ("x-max-length", QUEUE_LENGTH_MAX)).await?;
    channel
        .queue_bind(
            queue.as_str().into(),
            exchange.as_str().into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    Ok(private::consume(&channel, &queue).await?)
}
