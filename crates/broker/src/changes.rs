//! Notifications to workers that an endpoint was changed, so that they check the database immediately instead
//! of at the end of their polling interval.
//!
//! A notification says only that something has changed; workers read the change itself from the database.
//! Notifications are published without confirms: a worker that misses one finds the change at its next poll,
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
    Closed, Config, Exchange, Link, Topology,
    channel::ChannelError,
    held::is_locked,
    link::backoff,
    meters,
    private::{self, WhenFull},
    tail::WATCH,
};

/// How long a notification may take. The caller waits afterwards until the workers have seen the change, and
/// a notification that takes longer than this does not make the workers faster.
const TELL_MAX: Duration = Duration::from_secs(1);
/// How long a queue may receive nothing before the worker checks whether it would receive a notification.
const SILENCE_MAX: Duration = Duration::from_mins(1);
/// How long the worker waits for its own notification.
const TOLD_MAX: Duration = Duration::from_secs(5);
/// How long declaring and binding a queue may take.
const OPEN_MAX: Duration = Duration::from_secs(30);
/// The maximum length of a queue of changes: one message of each command that tails the journal, and a few
/// changes. All notifications of changes are equal, so a worker needs only one of them.
const QUEUE_LENGTH_MAX: i64 = 16;

impl Topology {
    /// Returns the name of the fanout exchange that notifies workers of changed endpoints. Each worker has a
    /// queue bound to it that is deleted with its connection. A notification says only that there is a change
    /// to look for in the database.
    pub fn changes_exchange(&self) -> String {
        self.named("changes")
    }

    /// Returns the name of the queue of changes of this worker's connection with this number.
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

/// A sender of notifications to all workers.
pub struct Changes {
    link: OnceLock<Link>,
    /// The configuration to open a link with when there is none.
    config: Option<Config>,
    topology: Topology,
    /// Cancelled when the link that was opened for this value is no longer needed.
    stop: CancellationToken,
    channel: Mutex<Option<Channel>>,
}

impl Changes {
    /// Creates a sender that uses an open link.
    pub fn over(link: Link, topology: Topology) -> Self {
        Self {
            link: link.into(),
            config: None,
            topology,
            stop: CancellationToken::new(),
            channel: Mutex::default(),
        }
    }

    /// Creates a sender that opens its own link when it needs one. [`close`](Self::close) closes the link.
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

    /// Notifies every connected worker to look for changes now. Returns after at most one second, whether or
    /// not a worker was notified.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn tell(&self) {
        self.try_to_tell().await;
    }

    /// Returns whether the message was sent.
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
            Ok(Err(error)) => tracing::debug!(%error, "could not notify workers of a change"),
            Err(_) => tracing::debug!("could not notify workers of a change in time"),
        }
        false
    }

    /// Returns whether the worker of this name is connected; `None` if the broker does not answer within a
    /// second.
    ///
    /// A connected worker has an exclusive queue. Workers of earlier versions have a consumer on a queue with
    /// their name instead.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
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
                // The queue most likely does not exist, so it has no consumer.
                Err(_) if self.link().is_ok_and(Link::is_up) => 0,
                Err(_) => return None,
            };
            let _ = channel.close(200, "OK".into()).await;
            Some(consumers > 0)
        };
        timeout(TELL_MAX, asking).await.ok().flatten()
    }

    /// Closes the link if this value opened it.
    pub async fn close(self) {
        if let (Some(_), Some(link)) = (self.config, self.link.get()) {
            self.stop.cancel();
            link.closed().await;
        }
    }
}

/// Calls `changed` for every [notification](Changes::tell), and whenever one may have been missed, until
/// `stop` is cancelled. Calls `watched` with the queue name of each command that [tails](crate::tail()) the
/// journal. The topology must be that of a worker.
///
/// After a minute without a notification, it sends one over `publishing`, which all workers receive. If its
/// own queue does not receive it, the queue is no longer bound, and it creates a new queue.
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
                        "the binding of this worker's queue of changes was missing; creating a new queue; find out who removed the binding"
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
                    "cannot receive notifications of endpoint changes from the broker; polling the database, and trying again"
                );
            }
            sleep(backoff(failures)).await;
        }
    };
    stop.run_until_cancelled(following).await;
}

/// Why a queue of changes cannot be used any more.
enum Ended {
    ByBroker,
    /// The queue receives no notifications because it is no longer bound.
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
        tracing::info!("receiving notifications of endpoint changes from the broker again");
    }
    *failures = 0;
    // Changes that were announced before the queue was bound are found by looking for them now.
    changed();
    loop {
        let next = match timeout(SILENCE_MAX, consumer.next()).await {
            Ok(next) => next,
            Err(_) if !own.is_writable() || !own.try_to_tell().await => continue,
            Err(_) => match timeout(TOLD_MAX, consumer.next()).await {
                Ok(next) => next,
                // An alarm that was raised in between may have blocked the notification.
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

/// Declares and consumes a queue that is deleted with its connection.
///
/// Every call uses a new queue name: the broker may not have noticed yet that an earlier connection is lost,
/// and then reserves the queue for that connection.
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
    let limits = [("x-max-length", QUEUE_LENGTH_MAX)];
    private::declare(&channel, &queue, &limits, WhenFull::DropOldest).await?;
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
