//! Queues of held deliveries: a pool of them, of which each running worker has one.
//!
//! A queue of a worker's own name would outlive the worker by an hour, and with it every start of a worker
//! that crashes over and over. So the queues are numbered, and a worker takes the lowest number that no other
//! has. What tells is a second queue of the same number, exclusive to the connection that consumes the first:
//! RabbitMQ refuses it to every other connection, and deletes it with this one. (It lets two consumers that
//! call themselves exclusive share a quorum queue.)
//!
//! What a worker that died had in its queue comes due, one after the other, within seconds. A worker that
//! took the queue before would begin with all of it at once, so it takes one that is empty.

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

/// More workers than a broker takes connections of.
const NUMBERS_MAX: u32 = 10_000;
/// How long the consumer of a worker that is not connected any more may take to be gone.
const CONSUMER_GONE_MAX: Duration = Duration::from_secs(1);
const CONSUMER_GONE_POLL: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error(transparent)]
    Refused(#[from] lapin::Error),
    #[error("{0}: {detail}", detail = .0.detail())]
    Declare(#[from] DeclareError),
    #[error("all {NUMBERS_MAX} queues of held deliveries are taken; are there so many workers?")]
    AllTaken,
}

impl Topology {
    /// Stands for the queue of held deliveries that the worker has, or will have, in
    /// [`consume`](crate::consume).
    pub fn held_pool(&self) -> String {
        self.named("held")
    }

    /// The queue by which the worker of this name shows that it is connected.
    pub(crate) fn alive(&self, worker: &str) -> String {
        self.named(&format!("worker.{worker}"))
    }

    fn holder(&self, number: u32) -> String {
        self.named(&format!("holder.{number}"))
    }

    /// Waits until the worker has a queue of held deliveries.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn has_held_queue(&self) {
        let mut number = self.number().subscribe();
        // An error says that no topology is left.
        let _ = number.wait_for(|number| *number > 0).await;
    }

    /// Takes a queue of held deliveries for as long as the connection lives: the one that the worker had
    /// before, or the first that no other worker has, nor has left anything in.
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

/// Whether nothing is left in the queue, which is declared. A consumer that died has its messages until it is
/// gone, which may be a moment later.
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

/// False when another connection has it.
async fn declare_exclusive(connection: &Connection, name: &str) -> Result<bool, lapin::Error> {
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    // The broker closes the channel if it refuses.
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
