//! Consuming a queue, through every loss of the connection.

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
    AckHandle, DeclareError, Link, Message, Topology, ack::Lane, channel::ChannelError, held::ClaimError,
    link::backoff, watched::Watched,
};

/// A message from a queue. (In AMQP's words a delivery; in ours that is something else.)
#[derive(Debug)]
pub struct Incoming {
    /// What was published.
    pub message: Message,
    /// RabbitMQ handed it out before, to us or to someone else.
    pub redelivered: bool,
    /// The duty to settle it.
    pub ack: AckHandle,
}

/// Consumes `queue`, or the worker's own for [`Topology::held_pool`], until `stop`, with at most `prefetch`
/// unsettled messages, handing each to `take`, which must not block. Declares the topology before it
/// consumes, so that a broker that lost everything is set up again.
///
/// After any fault (lost connection, closed channel, the queue deleted under us) it begins again with
/// backoff, for ever. `consuming` is told when messages begin to arrive and when they cannot any more.
///
/// On `stop` it cancels the consumer, hands back what arrived and was not taken, and returns; handles that
/// were given out stay good, and the returned [`Unsettled`] waits for them.
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
                lane,
                mut consumer,
                writing,
            })) => {
                if failures == 0 || refused.end().is_some() {
                    tracing::info!(queue, prefetch, "consuming");
                }
                failures = 0;
                link.noted().consumes(queue, None);
                consuming(true);
                let ended = read(&lane, &mut consumer, stop, &watched, &mut take).await;
                consuming(false);
                match ended {
                    Ended::Stopped => {
                        hand_back(&lane, consumer).await;
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
        // Of a connection that is lost the link tells, once for all of its consumers.
        if report.is_some() && link.is_up() {
            tracing::warn!(queue, error, failures, "not consuming; trying again");
        }
    }
    Unsettled(None)
}

/// What a consumer that stopped had handed out.
#[derive(Debug)]
#[must_use = "acks that are not written yet are lost when the link is closed"]
pub struct Unsettled(Option<JoinHandle<()>>);

impl Unsettled {
    /// Waits until every handle is settled or dropped and what was settled is written.
    pub async fn settled(self) {
        if let Some(writing) = self.0 {
            // An error would be a panic of the writer, which has nothing left to write then.
            let _ = writing.await;
        }
    }
}

/// Declaring the topology and beginning to consume takes milliseconds.
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
    lane: Arc<Lane>,
    consumer: lapin::Consumer,
    /// Ends when the lane's last handle is gone.
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
    let (lane, writing) = Lane::open(channel, topology.own_name(named), prefetch);
    Ok(Opened {
        lane,
        consumer,
        writing,
    })
}

async fn read(
    lane: &Arc<Lane>,
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
            // lapin still yields what had arrived before the loss; the broker has handed it to others by now.
            Some(Ok(_)) if !lane.is_live() => {}
            Some(Ok(delivery)) => {
                let incoming = incoming(lane, delivery);
                watched.arrives(&incoming.message);
                if incoming.message.is_canary() {
                    incoming.ack.ack();
                } else {
                    take(incoming);
                }
            }
            Some(Err(error)) => return Ended::Lost(error.to_string()),
            // Also what a server-sent basic.cancel looks like: a fault, not an end.
            None => return Ended::Lost("the broker ended the consumer".to_owned()),
        }
    }
}

/// After the consumer is cancelled nothing new arrives; what did arrive goes back to the queue.
async fn hand_back(lane: &Arc<Lane>, mut consumer: lapin::Consumer) {
    let tag = consumer.tag();
    if lane
        .channel()
        .basic_cancel(tag, BasicCancelOptions::default())
        .await
        .is_err()
    {
        return;
    }
    while let Some(Ok(delivery)) = consumer.next().await {
        lane.hand_out(delivery.delivery_tag).requeue();
    }
}

fn incoming(lane: &Arc<Lane>, delivery: lapin::message::Delivery) -> Incoming {
    Incoming {
        message: Message {
            body: Bytes::from(delivery.data),
            properties: delivery.properties,
        },
        redelivered: delivery.redelivered,
        ack: lane.hand_out(delivery.delivery_tag),
    }
}
