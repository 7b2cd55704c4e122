//! The pool of queues of held deliveries, one for each running worker.
//!
//! If the queues were named after workers, each would outlive its worker by an hour, and a worker that
//! crashes repeatedly would leave one for every start. Therefore the queues are numbered, and a worker claims
//! the lowest number that no other worker has claimed. The claim is a second queue with the same number,
//! exclusive to the connection that consumes the first one: RabbitMQ refuses access to it on any other
//! connection, and deletes it when this connection closes. (An exclusive consumer is not enough: RabbitMQ
//! lets two consumers that ask for exclusive access share a quorum queue.)
//!
//! The deliveries in the queue of a worker that died become due one after another, within seconds. A worker
//! that claimed the queue earlier would receive all of them at once, so workers claim only empty queues.

use std::time::Duration;

use lapin::{
    Connection,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use tokio::time::{Instant, sleep};

use crate::{
    DeclareError, Queue, Topology,
    reply::{self, reply_code},
};

/// The highest queue number. A broker does not accept that many connections of workers.
const NUMBERS_MAX: u32 = 10_000;
/// How long the broker may take to remove the consumer of a worker that has disconnected.
const CONSUMER_GONE_MAX: Duration = Duration::from_secs(1);
const CONSUMER_GONE_POLL: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error(transparent)]
    Refused(#[from] lapin::Error),
    #[error("{0}: {detail}", detail = .0.detail())]
    Declare(#[from] DeclareError),
    #[error(
        "all {NUMBERS_MAX} queues of held deliveries are in use or not empty; check how many workers are running"
    )]
    AllTaken,
}

impl Topology {
    /// Returns the name that stands for the worker's queue of held deliveries in [`consume`](crate::consume),
    /// whether or not the worker has claimed one yet.
    pub fn held_pool(&self) -> String {
        self.named("held")
    }

    /// Returns the name of the exclusive queue that exists while the worker of this name is connected.
    pub(crate) fn alive(&self, worker: &str) -> String {
        self.named(&format!("worker.{worker}"))
    }

    fn holder(&self, number: u32) -> String {
        self.named(&format!("holder.{number}"))
    }

    /// Waits until the worker has claimed a queue of held deliveries.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn has_held_queue(&self) {
        let mut number = self.number().subscribe();
        // An error means that all clones of the topology were dropped.
        let _ = number.wait_for(|number| *number > 0).await;
    }

    /// Claims a queue of held deliveries for the lifetime of the connection: the worker's previous queue if
    /// it is still free, otherwise the first empty one that no other worker has claimed.
    pub(crate) async fn claim_held(&self, connection: &Connection) -> Result<(), ClaimError> {
        declare_exclusive(connection, &self.alive(self.worker())).await?;
        let before = self.number().get();
        let had = (before > 0).then_some(before);
        for number in had.into_iter().chain(1..=NUMBERS_MAX) {
            let holder = self.holder(number);
            if !declare_exclusive(connection, &holder).await? {
                continue;
            }
            let held = self.held_queue(self.held_of(&number.to_string()));
            if number == before || is_empty(connection, &held).await? {
                self.number().set(number);
                return Ok(());
            }
            let channel = connection.create_channel().await?;
            channel
                .queue_delete(holder.into(), QueueDeleteOptions::default())
                .await?;
            channel.close(200, "OK".into()).await?;
        }
        Err(ClaimError::AllTaken)
    }
}

/// Declares the queue and returns whether it is empty and has no consumer.
///
/// The messages of a consumer that died return to the queue only when the broker has removed the consumer, so
/// this waits for up to [`CONSUMER_GONE_MAX`] for that.
async fn is_empty(connection: &Connection, queue: &Queue) -> Result<bool, ClaimError> {
    let deadline = Instant::now() + CONSUMER_GONE_MAX;
    let channel = connection.create_channel().await?;
    loop {
        let (ready, consumers) = queue.declare(&channel, false).await?;
        if consumers == 0 || Instant::now() >= deadline {
            channel.close(200, "OK".into()).await?;
            return Ok(ready == 0 && consumers == 0);
        }
        sleep(CONSUMER_GONE_POLL).await;
    }
}

/// Declares an exclusive queue. Returns `false` if another connection has declared it.
async fn declare_exclusive(connection: &Connection, name: &str) -> Result<bool, lapin::Error> {
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    // If the broker refuses the declaration, it closes the channel.
    let channel = connection.create_channel().await?;
    match channel
        .queue_declare(name.into(), options, FieldTable::default())
        .await
    {
        Ok(_) => {
            channel.close(200, "OK".into()).await?;
            Ok(true)
        }
        Err(error) if is_locked(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn is_locked(error: &lapin::Error) -> bool {
    reply_code(error) == Some(reply::RESOURCE_LOCKED)
}
