//! Consuming a queue, and resuming after every loss of the connection.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::{
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use runtime::Lasting;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    AckHandle, DeclareError, Link, Message, Topology, ack::ChannelAcks, channel::ChannelError,
    held::ClaimError, link::backoff, watched::Watched,
};

/// A message received from a queue. (AMQP calls it a delivery, which means something else in this system.)
#[derive(Debug)]
pub struct Incoming {
    /// The message that was published.
    pub message: Message,
    /// Whether RabbitMQ delivered the message before, to this consumer or to another one.
    pub redelivered: bool,
    /// The handle that settles the message.
    pub ack: AckHandle,
}

/// Consumes `queue` until `stop` is cancelled, with at most `prefetch` unsettled messages, and passes each
/// message to `take`, which must not block. [`Topology::held_pool`] stands for the worker's own queue of held
/// deliveries.
///
/// Declares the topology before it consumes, so that the queues exist again on a broker that has lost
/// everything.
///
/// After any fault (a lost connection, a closed channel, a deleted queue) it starts again with backoff,
/// without a limit on the number of attempts. Calls `consuming` with `true` when messages begin to arrive,
/// and with `false` when they no longer can.
///
/// When `stop` is cancelled, it cancels the consumer, requeues the messages that arrived and were not passed
/// to `take`, and returns. Handles of earlier messages stay valid, and the returned [`Unsettled`] waits for
/// them.
pub async fn consume(
    link: &Link,
    topology: &Topology,
    queue: &str,
    prefetch: u16,
    stop: &CancellationToken,
    consuming: impl Fn(bool),
    mut take: impl FnMut(Incoming),
) -> Unsettled {
    let (mut failures, refused) = (0, Lasting::new());
    let mut watched = Watched::new(topology, queue);
    while !stop.is_cancelled() {
        let opening = async {
            link.connection().await.map_err(ChannelError::from)?;
            timeout(OPEN_MAX, open(link, topology, queue, prefetch))
                .await
                .map_err(|_| OpenError::TimedOut)?
        };
        let error = match stop.run_until_cancelled(opening).await {
            None | Some(Err(OpenError::Channel(ChannelError::Closed(_)))) => break,
            Some(Ok(Opened {
                acks,
                mut consumer,
                writing,
            })) => {
                if failures == 0 || refused.end().is_some() {
                    tracing::info!(queue, prefetch, "consuming");
                }
                failures = 0;
                link.noted().consumes(queue, None);
                consuming(true);
                let ended = read(&acks, &mut consumer, stop, &watched, &mut take).await;
                consuming(false);
                match ended {
                    Ended::Stopped => {
                        hand_back(&acks, consumer).await;
                        return Unsettled(Some(writing));
                    }
                    Ended::Lost(error) => error,
                }
            }
            Some(Err(error)) => error.to_string(),
        };
        failures += 1;
        watched.restarts(&error);
        link.noted().consumes(queue, Some(&error));
        if stop
            .run_until_cancelled(tokio::time::sleep(backoff(failures)))
            .await
            .is_none()
        {
            break;
        }
        let report = refused.again();
        // The link logs a lost connection, once for all of its consumers.
        if report.is_some() && link.is_up() {
            tracing::warn!(queue, error, failures, "cannot consume the queue; trying again");
        }
    }
    Unsettled(None)
}

/// The messages that a consumer had passed on when it stopped.
#[derive(Debug)]
#[must_use = "acks that are not written yet are lost when the link is closed"]
pub struct Unsettled(Option<JoinHandle<()>>);

impl Unsettled {
    /// Waits until every handle is settled or dropped and the acks of all settled messages are written.
    pub async fn settled(self) {
        if let Some(writing) = self.0 {
            // An error means that the writer panicked, and then there is nothing left to write.
            let _ = writing.await;
        }
    }
}

/// The timeout for declaring the topology and starting to consume, which normally takes milliseconds.
const OPEN_MAX: Duration = Duration::from_secs(30);

enum Ended {
    Stopped,
    Lost(String),
}

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("{0}: {detail}", detail = .0.detail())]
    Declare(#[from] DeclareError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("the broker did not answer within {OPEN_MAX:?}")]
    TimedOut,
}

struct Opened {
    acks: Arc<ChannelAcks>,
    consumer: lapin::Consumer,
    /// The task that writes acks. It ends when `acks` and its last handle are dropped.
    writing: JoinHandle<()>,
}

async fn open(link: &Link, topology: &Topology, queue: &str, prefetch: u16) -> Result<Opened, OpenError> {
    let connection = link.connection().await.map_err(ChannelError::from)?;
    let is_held = queue == topology.held_pool();
    if is_held {
        topology.claim_held(&connection).await?;
    }
    let held = topology.held();
    let (named, queue) = (queue, if is_held { held.as_str() } else { queue });
    topology.declare_on(&link.declaring().await?).await?;
    let channel = connection.create_channel().await.map_err(ChannelError::from)?;
    channel
        .basic_qos(prefetch, BasicQosOptions::default())
        .await
        .map_err(ChannelError::from)?;
    let consumer = channel
        .basic_consume(
            queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .map_err(ChannelError::from)?;
    let (acks, writing) = ChannelAcks::open(channel, topology.own_name(named), prefetch);
    Ok(Opened {
        acks,
        consumer,
        writing,
    })
}

async fn read(
    acks: &Arc<ChannelAcks>,
    consumer: &mut lapin::Consumer,
    stop: &CancellationToken,
    watched: &Watched,
    take: &mut impl FnMut(Incoming),
) -> Ended {
    loop {
        let Some(next) = stop.run_until_cancelled(consumer.next()).await else {
            return Ended::Stopped;
        };
        match next {
            // lapin still yields messages that arrived before the loss, but the broker has redelivered them
            // by now.
            Some(Ok(_)) if !acks.is_live() => {}
            Some(Ok(delivery)) => {
                let incoming = incoming(acks, delivery);
                watched.arrives(&incoming.message);
                if incoming.message.is_canary() {
                    incoming.ack.ack();
                } else {
                    take(incoming);
                }
            }
            Some(Err(error)) => return Ended::Lost(error.to_string()),
            // A basic.cancel from the server also ends the stream. It is a fault, not a regular end.
            None => return Ended::Lost("the broker ended the consumer".to_owned()),
        }
    }
}

/// Cancels the consumer, after which no new messages arrive, and requeues the messages that did arrive.
async fn hand_back(acks: &Arc<ChannelAcks>, mut consumer: lapin::Consumer) {
    let tag = consumer.tag();
    if acks
        .channel()
        .basic_cancel(tag, BasicCancelOptions::default())
        .await
        .is_err()
    {
        return;
    }
    while let Some(Ok(delivery)) = consumer.next().await {
        acks.hand_out(delivery.delivery_tag).requeue();
    }
}

fn incoming(acks: &Arc<ChannelAcks>, delivery: lapin::message::Delivery) -> Incoming {
    Incoming {
        message: Message {
            body: Bytes::from(delivery.data),
            properties: delivery.properties,
        },
        redelivered: delivery.redelivered,
        ack: acks.hand_out(delivery.delivery_tag),
    }
}
