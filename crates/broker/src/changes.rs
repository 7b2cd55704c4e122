//! Telling workers that an endpoint was changed, so that they look at once instead of when their interval is over.
//!
//! A message says that something changed and nothing else: workers read from the database what it was. No message is confirmed, because
//! none is needed: a worker that misses one finds the change at its next look, a quarter of a second later.

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
    options::{
        BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Closed, Config, Exchange, Link, Topology,
    link::{ChannelError, backoff},
};

/// How long telling may take. The caller waits for the workers in any case; after this time being told makes them no faster.
const TELL_MAX: Duration = Duration::from_secs(1);
/// How long declaring and binding a queue may take.
const OPEN_MAX: Duration = Duration::from_secs(30);
/// Of messages that all say the same, one is enough.
const QUEUE_LENGTH_MAX: i64 = 1;

impl Topology {
    /// The fanout exchange by which workers are told that an endpoint was changed. Each of them has a queue there that goes with its
    /// connection; a message says nothing but that there is something to look for in the database.
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

    /// Tells every connected worker to look for changes now. Returns after a second at most, whether or not a worker was told.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn tell(&self) {
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
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "workers could not be told of a change"),
            Err(_) => tracing::debug!("workers could not be told of a change in time"),
        }
    }

    /// Whether the worker of this name consumes now: it has a queue of its own, and a consumer of it for as long as it is connected.
    /// `None` when the broker does not answer within a second.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn is_consuming(&self, worker: &str) -> Option<bool> {
        let held = self.topology.clone().of_worker(worker).held();
        let asking = async {
            let channel = self.link().ok()?.channel().await.ok()?;
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
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

/// Calls `changed` for each change that is [told](Changes::tell), and whenever one may have been missed, until `stop`. The topology is a
/// worker's.
pub async fn follow_changes(link: &Link, topology: &Topology, stop: &CancellationToken, changed: impl Fn()) {
    let mut failures = 0;
    let following = async {
        loop {
            let error = match follow(link, topology, &changed, &mut failures).await {
                Ok(()) => "the broker ended the consumer".to_owned(),
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

/// Returns when the broker ends the consumer.
async fn follow(
    link: &Link,
    topology: &Topology,
    changed: &impl Fn(),
    failures: &mut u32,
) -> Result<(), ChannelError> {
    link.connection().await?;
    let Ok(opened) = timeout(OPEN_MAX, open(link, topology)).await else {
        return Ok(());
    };
    let mut consumer = opened?;
    if *failures > 1 {
        tracing::info!("told of changed endpoints by the broker again");
    }
    *failures = 0;
    // What was told before it was bound is found by looking.
    changed();
    while let Some(Ok(_)) = consumer.next().await {
        changed();
    }
    Ok(())
}

/// A queue that goes with its connection. Its name is used once: the broker may not have noticed yet that an earlier connection is lost,
/// and keeps that one's queue for it alone.
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
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(QUEUE_LENGTH_MAX));
    channel
        .queue_declare(queue.as_str().into(), options, arguments)
        .await?;
    channel
        .queue_bind(
            queue.as_str().into(),
            exchange.as_str().into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let options = BasicConsumeOptions {
        no_ack: true,
        exclusive: true,
        ..BasicConsumeOptions::default()
    };
    let consumer = channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default());
    Ok(consumer.await?)
}
