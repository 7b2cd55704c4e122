//! Copies of what workers record, for processes that tail the journal: commands, and the API for its streams.
//!
//! Such a process declares a queue, which is deleted when it stops, at the latest with its connection. Every few
//! seconds it sends the queue's name to all workers over the exchange of changes
//! ([`Topology::changes_exchange`]). A worker that received the name within the last [`WATCHED`] sends a copy of
//! each batch of its journal to that queue, without a confirm. Workers send no copies while no process tails the
//! journal.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel,
    options::{BasicPublishOptions, QueueDeleteOptions},
};
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Link, Topology,
    channel::ChannelError,
    link::backoff,
    private::{self, WhenFull},
};

/// How long a worker sends copies to a queue after it last received the queue's name.
pub const WATCHED: Duration = Duration::from_secs(15);
/// How often a process sends its queue's name to the workers: a third of [`WATCHED`].
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How long to wait for the broker to delete the queue. It deletes the queue with the connection anyway.
const DELETE_WITHIN: Duration = Duration::from_secs(1);
/// The maximum size of a queue of copies for a slow reader, in bytes. Beyond it, the broker drops the oldest
/// copies.
const BYTES_MAX: i64 = 16 * 1024 * 1024;
/// The type of messages on the exchange of changes whose body is the name of a queue of copies.
pub(crate) const WATCH: &str = "watch";

/// An item that a process receives while it tails the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tailed {
    /// The connection is open, for the first time or again. Copies of earlier records are not received.
    Connected,
    /// There is no connection. What workers record until it is open again is not received. Passed after each
    /// attempt to connect that fails.
    Lost,
    /// A batch of a worker's journal.
    Batch(Bytes),
}

impl Topology {
    fn copies_queue(&self, number: u64) -> String {
        self.named(&format!("copies.{}.{number}", std::process::id()))
    }

    /// Returns whether a queue of this name is one for copies.
    pub fn is_for_copies(&self, queue: &str) -> bool {
        queue
            .strip_prefix(&self.named("copies."))
            .is_some_and(|rest| !rest.is_empty())
    }
}

/// Passes everything that workers record from now on to `take`, until `stop` is cancelled. Reconnects
/// whenever the connection is lost.
pub async fn tail(link: &Link, topology: &Topology, stop: &CancellationToken, mut take: impl FnMut(Tailed)) {
    let mut failures = 0;
    loop {
        let error = match follow(link, topology, stop, &mut failures, &mut take).await {
            Err(ChannelError::Closed(_)) => return,
            _ if stop.is_cancelled() => return,
            Ok(()) => "the broker ended the consumer".to_owned(),
            Err(error) => error.to_string(),
        };
        failures += 1;
        take(Tailed::Lost);
        tracing::warn!(
            error,
            "cannot receive records from the broker; trying again; what workers record in the meantime is not shown"
        );
        stop.run_until_cancelled(sleep(backoff(failures))).await;
    }
}

/// Passes copies to `take` until `stop` is cancelled, or until this fails.
async fn follow(
    link: &Link,
    topology: &Topology,
    stop: &CancellationToken,
    failures: &mut u32,
    take: &mut impl FnMut(Tailed),
) -> Result<(), ChannelError> {
    static OPENED: AtomicU64 = AtomicU64::new(0);
    let Some(channel) = stop.run_until_cancelled(link.channel()).await else {
        return Ok(());
    };
    let channel = channel?;
    let random = u64::from(rand::random::<u32>()) << 32;
    let queue = topology.copies_queue(random | OPENED.fetch_add(1, Ordering::Relaxed));
    let limits = [("x-max-length-bytes", BYTES_MAX)];
    private::declare(&channel, &queue, &limits, WhenFull::DropOldest).await?;
    let receiving = receive(&channel, topology, &queue, failures, take);
    let received = stop.run_until_cancelled(receiving).await;
    // A queue that never had a consumer would exist as long as the connection. An error means that the channel has
    // failed.
    let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
    let _ = timeout(DELETE_WITHIN, deleted).await;
    received.unwrap_or(Ok(()))
}

async fn receive(
    channel: &Channel,
    topology: &Topology,
    queue: &str,
    failures: &mut u32,
    take: &mut impl FnMut(Tailed),
) -> Result<(), ChannelError> {
    let (mut consumer, mut ticks) = (private::consume(channel, queue).await?, interval(TELL_EVERY));
    let mut is_told = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                tell(channel, topology, queue).await?;
                if !is_told {
                    (is_told, *failures) = (true, 0);
                    take(Tailed::Connected);
                }
            }
            next = consumer.next() => match next {
                Some(Ok(delivery)) => take(Tailed::Batch(delivery.data.into())),
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
        }
    }
}

async fn tell(channel: &Channel, topology: &Topology, queue: &str) -> Result<(), ChannelError> {
    let properties = BasicProperties::default().with_type(WATCH.into());
    let (exchange, options) = (topology.changes_exchange(), BasicPublishOptions::default());
    let published = channel.basic_publish(
        exchange.as_str().into(),
        "".into(),
        options,
        queue.as_bytes(),
        properties,
    );
    published.await?;
    Ok(())
}

/// A sender of copies, with its own channel.
pub struct Copies {
    link: Link,
    channel: Option<Channel>,
}

impl Copies {
    /// Creates a sender over this link.
    pub fn over(link: Link) -> Self {
        Self { link, channel: None }
    }

    /// Sends a copy to a queue, unless there is no connection or the broker accepts no publishes. There is no
    /// confirm, and the broker drops a copy whose queue does not exist any more.
    pub async fn send(&mut self, queue: &str, batch: &[u8]) {
        if !self.link.is_writable() {
            return;
        }
        let channel = match self.channel.take() {
            Some(channel) if channel.status().connected() => channel,
            _ => match self.link.channel().await {
                Ok(channel) => channel,
                Err(_) => return,
            },
        };
        let options = BasicPublishOptions::default();
        let published = channel.basic_publish(
            "".into(),
            queue.into(),
            options,
            batch,
            BasicProperties::default(),
        );
        if published.await.is_ok() {
            self.channel = Some(channel);
        }
    }
}
