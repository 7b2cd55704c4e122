//! Relays: requests to programs that are connected to the API, and their answers.
//!
//! The API process to which such a program is connected consumes the relay's queue, [`Topology::relay`], which is
//! exclusive to its connection. A worker publishes a request to this queue, with the number of its own queue of
//! answers, [`Topology::answers`], to which the API process publishes the answer. Both queues are deleted with their
//! connections. A request to a relay whose queue does not exist is returned: the program is not connected.
//!
//! Requests and answers may be lost. A worker that gets no answer in time makes the attempt again later, as with
//! every other endpoint.

use std::{fmt, time::Duration};

use futures_util::StreamExt as _;
use lapin::{
    Channel, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeleteOptions},
    types::FieldTable,
};
use runtime::Lasting;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use webhook::EndpointId;

use crate::{
    Closed, Link, Message, RelayedAnswer, RelayedRequest, Topology,
    channel::ChannelError,
    link::backoff,
    private::{self, WhenFull},
    reply::{self, reply_code},
};

/// The maximum number of requests that wait in the queue of a relay. Further ones are refused, so that a program
/// that does not keep up delays only its own deliveries.
const REQUESTS_MAX: i64 = 256;
/// The maximum size of the requests that wait in the queue of a relay, in bytes.
const REQUESTS_BYTES_MAX: i64 = 8 * 1024 * 1024;
/// The maximum number of requests that the broker has sent and the program's connection has not taken. They are in the
/// memory of the API process.
const PREFETCH: u16 = 1;
/// The maximum size of the answers that wait for a worker, in bytes. Further ones are refused.
const ANSWERS_BYTES_MAX: i64 = 64 * 1024 * 1024;
/// How long declaring and consuming a queue may take.
const OPEN_MAX: Duration = Duration::from_secs(5);
/// How long closing a channel, deleting a queue, or acknowledging a request may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);

impl Topology {
    /// Returns the name of the queue of a relay's requests. It exists while the relay's program is connected.
    pub fn relay(&self, endpoint_id: &EndpointId) -> String {
        self.named(&format!("relay.{endpoint_id}"))
    }

    /// Returns the name of the queue of answers with this number, which exists while its worker is connected.
    pub fn answers(&self, number: u128) -> String {
        self.named(&format!("answers.{number:032x}"))
    }
}

/// The reason why the requests of a relay cannot be received.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Another connection receives them, or did until a moment ago.
    #[error("another connection receives the requests of the relay")]
    Taken,
    /// The user of the broker lacks a permission.
    #[error(
        "the broker refuses the queue {queue} (ACCESS_REFUSED): give the user of broker.url the permissions configure, \
         write and read for queues with this name"
    )]
    Forbidden {
        /// The queue, with `*` in place of what differs.
        queue: String,
        /// The broker's error.
        source: lapin::Error,
    },
    /// The broker refuses it, or the connection was lost.
    #[error("cannot receive the requests of the relay from the broker")]
    Refused(#[source] lapin::Error),
    /// There is no connection to the broker, or the broker does not answer.
    #[error("the broker has not answered within {OPEN_MAX:?}")]
    TimedOut,
    /// The link was stopped.
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl RelayError {
    fn of(error: lapin::Error, topology: &Topology) -> Self {
        let queue = topology.named("relay.*");
        match reply_code(&error) {
            Some(reply::ACCESS_REFUSED) if !is_in_use(&error) => Self::Forbidden { queue, source: error },
            // A queue of another connection is locked, and a second consumer on the same connection is refused. A queue
            // whose consumer has just ended may be deleted between its declaration and the next consumer.
            Some(reply::RESOURCE_LOCKED | reply::ACCESS_REFUSED | reply::NOT_FOUND) => Self::Taken,
            _ => Self::Refused(error),
        }
    }
}

/// Returns whether access was refused because the queue has an exclusive consumer. The reply code is that of a missing
/// permission.
fn is_in_use(error: &impl fmt::Display) -> bool {
    error.to_string().contains("in exclusive use")
}

/// The requests of one relay. When this is dropped, the queue is deleted.
pub struct Requests {
    channel: Channel,
    consumer: Consumer,
}

impl Requests {
    /// Declares the relay's queue and consumes it. Waits at most a few seconds, also for a connection. If it fails,
    /// no queue is left behind without a consumer, once the broker has answered.
    ///
    /// # Errors
    /// Returns an error if another connection receives the requests, or the broker does not allow it.
    ///
    /// # Cancel safety
    /// The future must not be dropped: a queue that was declared would exist as long as the link's connection, and
    /// take requests that nothing receives.
    pub async fn receive(
        link: &Link,
        topology: &Topology,
        endpoint_id: &EndpointId,
    ) -> Result<Self, RelayError> {
        let channel = match timeout(OPEN_MAX, link.channel()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(ChannelError::Closed(closed))) => return Err(closed.into()),
            Ok(Err(ChannelError::Refused(error))) => return Err(RelayError::Refused(error)),
            Err(_) => return Err(RelayError::TimedOut),
        };
        let queue = topology.relay(endpoint_id);
        let mut opening = {
            let (channel, queue) = (channel.clone(), queue.clone());
            Box::pin(async move { open(&channel, &queue).await })
        };
        let opened = timeout(OPEN_MAX, &mut opening).await;
        let error = match opened {
            Ok(Ok(consumer)) => return Ok(Self { channel, consumer }),
            Ok(Err(error)) => RelayError::of(error, topology),
            Err(_) => {
                let link = link.clone();
                // The broker may still declare the queue. It is deleted as soon as the broker has answered.
                tokio::spawn(async move {
                    let opened = opening.await;
                    close(&channel).await;
                    if opened.is_err() {
                        // An error means that the queue is used or does not exist.
                        let _ = timeout(ANSWER_MAX, delete_unused(&link, &queue)).await;
                    }
                });
                return Err(RelayError::TimedOut);
            }
        };
        close(&channel).await;
        if !matches!(error, RelayError::Taken) {
            // An error means that the queue is used or does not exist.
            let _ = timeout(ANSWER_MAX, delete_unused(link, &queue)).await;
        }
        Err(error)
    }

    /// Returns the next request, and the number with which it is [taken](Self::taken); `None` if the queue can no
    /// longer be consumed.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn next(&mut self) -> Option<(u64, RelayedRequest)> {
        loop {
            let delivery = self.consumer.next().await?.ok()?;
            let tag = delivery.delivery_tag;
            let message = Message {
                body: delivery.data.into(),
                properties: delivery.properties,
            };
            match message.relayed_request() {
                Some(request) => return Some((tag, request)),
                // Only workers publish to the queue, and what they publish is a request.
                None => self.taken(tag).await,
            }
        }
    }

    /// Acknowledges a request, so that the broker sends a further one. If this fails, [`next`](Self::next) returns
    /// `None`.
    pub async fn taken(&mut self, number: u64) {
        let acked = self.channel.basic_ack(number, BasicAckOptions::default());
        match timeout(ANSWER_MAX, acked).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cannot acknowledge a request of a relay"),
            Err(_) => close(&self.channel).await,
        }
    }

    /// Returns whether the channel to the broker is open. Without it, no request arrives any more.
    pub fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    /// Deletes the queue. Waits for the broker for at most a few seconds.
    pub async fn close(self) {
        close(&self.channel).await;
    }
}

/// Declares and consumes the queue of a relay.
async fn open(channel: &Channel, queue: &str) -> lapin::Result<Consumer> {
    let limits = [
        ("x-max-length", REQUESTS_MAX),
        ("x-max-length-bytes", REQUESTS_BYTES_MAX),
    ];
    private::declare(channel, queue, &limits, WhenFull::Refuse).await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions {
        exclusive: true,
        ..BasicConsumeOptions::default()
    };
    channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
}

/// Closes a channel, with which its consumer ends, and the queue of an ended consumer is deleted.
async fn close(channel: &Channel) {
    if channel.status().connected() {
        // An error means that the channel has ended in another way.
        let _ = timeout(ANSWER_MAX, channel.close(200, "OK".into())).await;
    }
}

/// Deletes a queue of this link's connection, unless it has a consumer.
async fn delete_unused(link: &Link, queue: &str) -> Result<(), ChannelError> {
    let options = QueueDeleteOptions {
        if_unused: true,
        ..QueueDeleteOptions::default()
    };
    let channel = link.channel().await?;
    channel.queue_delete(queue.into(), options).await?;
    close(&channel).await;
    Ok(())
}

/// Passes every answer to `answered`, until `stop` is cancelled. Reconnects whenever the connection is lost. Calls
/// `opened` with the number of the queue of answers, and with `None` when answers can no longer arrive in it.
pub async fn follow_answers(
    link: &Link,
    topology: &Topology,
    stop: &CancellationToken,
    opened: impl Fn(Option<u128>),
    answered: impl Fn(RelayedAnswer),
) {
    let (mut failures, refused) = (0, Lasting::new());
    let following = async {
        loop {
            let followed = follow(link, topology, (&mut failures, &refused), &opened, &answered).await;
            opened(None);
            let error = match followed {
                Ok(()) => "the broker has not answered in time, or has ended the consumer".to_owned(),
                Err(ChannelError::Closed(_)) => return,
                Err(error) => error.to_string(),
            };
            failures += 1;
            // The link logs a lost connection.
            if link.is_up()
                && let Some(report) = refused.again()
            {
                tracing::warn!(
                    queue = topology.named("answers.*"),
                    error,
                    failures = report.times,
                    "cannot receive the answers of relays from the broker; trying again, and deferring their deliveries; if \
                     access is refused, give the user of broker.url the permissions configure, write and read for the queue"
                );
            }
            sleep(backoff(failures)).await;
        }
    };
    stop.run_until_cancelled(following).await;
}

/// Every call uses a new queue: the broker may not have noticed yet that an earlier connection is lost, and then
/// reserves its queue for that connection.
async fn follow(
    link: &Link,
    topology: &Topology,
    (failures, refused): (&mut u32, &Lasting),
    opened: &impl Fn(Option<u128>),
    answered: &impl Fn(RelayedAnswer),
) -> Result<(), ChannelError> {
    let (number, channel) = (rand::random::<u128>(), link.channel().await?);
    let queue = topology.answers(number);
    let opening = async {
        let limits = [("x-max-length-bytes", ANSWERS_BYTES_MAX)];
        private::declare(&channel, &queue, &limits, WhenFull::Refuse).await?;
        private::consume(&channel, &queue).await
    };
    let opened_in_time = timeout(OPEN_MAX, opening).await;
    if !matches!(opened_in_time, Ok(Ok(_))) {
        close(&channel).await;
        // Without a consumer, the queue would exist for as long as the connection.
        let _ = timeout(ANSWER_MAX, delete_unused(link, &queue)).await;
    }
    let Ok(consumer) = opened_in_time else {
        return Ok(());
    };
    let mut consumer = consumer?;
    *failures = 0;
    refused.end();
    opened(Some(number));
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        let message = Message {
            body: delivery.data.into(),
            properties: delivery.properties,
        };
        if let Some(answer) = message.relayed_answer() {
            answered(answer);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_another_consumer_uses_differs_from_a_missing_permission() {
        let in_use = "ACCESS_REFUSED - queue 'm.relay.ep_1' in vhost '/' in exclusive use";
        assert!(is_in_use(&in_use));
        for missing in [
            "ACCESS_REFUSED - access to queue 'm.relay.ep_1' in vhost '/' refused for user 'u'",
            "ACCESS_REFUSED - configure access to queue 'm.relay.ep_1' in vhost '/' refused for user 'u'",
        ] {
            assert!(!is_in_use(&missing), "{missing}");
        }
    }
}
