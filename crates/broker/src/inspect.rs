//! What `topology` and `doctor` ask the broker.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::{
    AsyncReadExt, AsyncWriteExt, StreamExt as _, TryStreamExt as _, future::join_all, stream,
};
use lapin::{
    BasicProperties, Channel,
    options::QueueDeleteOptions,
    protocol::{AMQPClass, connection::AMQPMethod, parse_class},
};
use tokio::time::timeout;

use crate::{
    Argument, Config, DeclareError, Link, Outgoing, PublishError, Publisher, Queue, Topology,
    channel::ChannelError, config::Node, connect::open, screen::Screened, tls::Connector,
};

/// How many exchanges or queues are looked at together. Each takes a channel, and a connection may have few.
const CHECKED_AT_ONCE: usize = 6;

/// What the broker says of itself before anyone has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Such as `RabbitMQ`.
    pub product: String,
    /// Such as `4.0.5`.
    pub version: String,
}

/// How a queue stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// The queue's full name.
    pub name: String,
    /// Messages that wait for a consumer; those in a consumer's hands are not counted.
    pub ready: u32,
    /// How many consumers read it.
    pub consumers: u32,
}

/// An exchange or queue that is missing, or not as this version declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyFault {
    /// The exchange or queue.
    pub name: String,
    /// The broker's words.
    pub detail: String,
}

/// A question that could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// No TCP or TLS connection, or it ended.
    #[error("cannot connect to the broker at {address}")]
    Connect {
        /// `host:port/vhost`.
        address: String,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// What answers there does not speak AMQP 0-9-1.
    #[error("what listens at {address} does not answer as an AMQP 0-9-1 broker does")]
    NotAmqp {
        /// `host:port/vhost`.
        address: String,
    },
    /// No channel.
    #[error("cannot open a channel on the broker")]
    Channel(#[source] lapin::Error),
    /// The connection was closed by us.
    #[error(transparent)]
    Closed(#[from] crate::Closed),
    /// A queue for the question could not be declared.
    #[error(transparent)]
    Declare(#[from] DeclareError),
    /// A message for the question could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl From<ChannelError> for InspectError {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Closed(closed) => Self::Closed(closed),
            ChannelError::Refused(source) => Self::Channel(source),
        }
    }
}

impl Server {
    /// Asks the broker for its product and version by beginning a handshake, which needs no credentials. Of
    /// several nodes the first that answers speaks.
    ///
    /// # Errors
    /// When no node answers as something that speaks AMQP does, each within its URL's connection timeout:
    /// what was wrong with the last.
    pub async fn of(config: &Config) -> Result<Self, InspectError> {
        let (first, others) = config.nodes().split_first().expect("there is at least one");
        let mut found = Self::of_node(first, config.tls()).await;
        for node in others {
            if found.is_err() {
                found = Self::of_node(node, config.tls()).await;
            }
        }
        found
    }

    /// Asks every node, all at once: what each answers, in order, with its `host:port/vhost`.
    pub async fn of_each(config: &Config) -> Vec<(String, Result<Self, InspectError>)> {
        let asking = config
            .nodes()
            .iter()
            .map(async |node| (node.address(), Self::of_node(node, config.tls()).await));
        join_all(asking).await
    }

    async fn of_node(node: &Node, tls: &Connector) -> Result<Self, InspectError> {
        let address = node.address();
        let start = match timeout(node.connect_timeout(), read_start(node, tls)).await {
            Ok(Ok(start)) => start,
            Ok(Err(source)) => return Err(InspectError::Connect { address, source }),
            Err(_) => {
                let source = io::ErrorKind::TimedOut.into();
                return Err(InspectError::Connect { address, source });
            }
        };
        let Ok((_, AMQPClass::Connection(AMQPMethod::Start(start)))) = parse_class(start.as_slice()) else {
            return Err(InspectError::NotAmqp { address });
        };
        let property = |name| match start.server_properties.inner().get(name) {
            Some(lapin::types::AMQPValue::LongString(text)) => text.to_string(),
            _ => "unknown".to_owned(),
        };
        Ok(Self {
            product: property("product"),
            version: property("version"),
        })
    }

    /// The major version, when there is one.
    pub fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }
}

/// The payload of the broker's first frame.
async fn read_start(node: &Node, tls: &Connector) -> io::Result<Vec<u8>> {
    /// A server's properties take a few hundred bytes.
    const FRAME_BYTES_MAX: usize = 64 * 1024;
    let mut stream = Screened::new(open(node, tls).await?, 0).secured(node.is_secured());
    stream.write_all(b"AMQP\0\0\x09\x01").await?;
    stream.flush().await?;
    // Type (1 byte), channel (2), size (4).
    let mut header = [0; 7];
    stream.read_exact(&mut header).await?;
    let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
    let mut payload = vec![0; size.min(FRAME_BYTES_MAX)];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}

impl Topology {
    /// Declares everything over `link`; what is there already and equal stays as it is.
    ///
    /// # Errors
    /// When there is no channel, or the broker refuses a declaration; what came before it stays declared.
    pub async fn declare(&self, link: &Link) -> Result<(), InspectError> {
        Ok(self.declare_on(&link.declaring().await?).await?)
    }

    /// Compares everything with what is on the broker and changes nothing: each queue's state, or what is
    /// wrong.
    ///
    /// Bindings and policies are not compared: AMQP has no question for them, and
    /// [`Management`](crate::Management) has.
    ///
    /// # Errors
    /// When there is no channel.
    pub async fn check(&self, link: &Link) -> Result<Vec<Result<QueueState, TopologyFault>>, InspectError> {
        // The broker closes the channel on every mismatch, hence a new one each.
        let exchanges = stream::iter(self.exchanges()).map(async |exchange| {
            let channel = link.channel().await?;
            // Passive first: an active declaration would create what is missing, and only it compares the
            // type.
            let declared = match exchange.declare(&channel, true).await {
                Ok(()) => exchange.declare(&channel, false).await,
                missing => missing,
            };
            let problem = declared.err().map(|error| TopologyFault {
                name: exchange.name,
                detail: error.detail(),
            });
            Ok::<_, InspectError>(problem)
        });
        let problems: Vec<_> = exchanges.buffered(CHECKED_AT_ONCE).try_collect().await?;
        let queues = stream::iter(self.queues()).map(async |queue| {
            let channel = link.channel().await?;
            Ok::<_, InspectError>(queue.check(&channel).await)
        });
        let queues: Vec<_> = queues.buffered(CHECKED_AT_ONCE).try_collect().await?;
        let problems = problems.into_iter().flatten().map(Err);
        Ok(problems.chain(queues).collect())
    }

    /// Tests whether this broker dead-letters at least once, as the delay queues need. RabbitMQ 3.10 without
    /// the feature flag `stream_queue` falls back to its default in silence, and that one can lose
    /// messages. Takes about a second.
    ///
    /// # Errors
    /// When the queue for it cannot be declared or published to.
    pub async fn dead_letters_at_least_once(
        &self,
        link: &Link,
        publisher: &Publisher,
    ) -> Result<bool, InspectError> {
        let probe = self.expiring_to_nowhere();
        let channel = link.channel().await?;
        probe.declare(&channel, false).await?;
        let kept = keeps_expired(&probe.name, publisher).await;
        let deleted = channel
            .queue_delete(probe.name.as_str().into(), QueueDeleteOptions::default())
            .await;
        deleted.map_err(InspectError::Channel)?;
        Ok(kept?)
    }

    /// A delay queue of 1 ms whose target does not exist and that holds one message.
    fn expiring_to_nowhere(&self) -> Queue {
        let prefix = format!("{}.doctor.{}", self.prefix(), std::process::id());
        let mut queues = Self::new(prefix, &[Duration::from_millis(1)]).queues();
        let mut probe = queues
            .pop()
            .expect("a topology with a tier ends with its delay queue");
        for (key, value) in &mut probe.arguments {
            match *key {
                "x-dead-letter-exchange" => *value = Argument::Text(String::new()),
                "x-dead-letter-routing-key" => *value = Argument::Text(format!("{}.nowhere", probe.name)),
                _ => {}
            }
        }
        probe.arguments.push(("x-max-length", Argument::Number(1)));
        probe
    }
}

/// Expired messages that have nowhere to go stay and count towards the queue's length when dead-lettering is
/// at least once, so the queue is full and refuses more; otherwise they are gone. (What is kept shows in no
/// message count.)
async fn keeps_expired(queue: &str, publisher: &Publisher) -> Result<bool, PublishError> {
    /// The limit is soft: a few messages get in beyond it.
    const FILL: usize = 4;
    const EXPIRED: Duration = Duration::from_secs(1);
    let message = Outgoing {
        exchange: String::new(),
        routing_key: queue.to_owned(),
        properties: BasicProperties::default().with_delivery_mode(2),
        body: Bytes::new(),
    };
    for _ in 0..FILL {
        refused(publisher.publish(&message).await)?;
    }
    tokio::time::sleep(EXPIRED).await;
    refused(publisher.publish(&message).await)
}

fn refused(published: Result<(), PublishError>) -> Result<bool, PublishError> {
    match published {
        Err(PublishError::Nacked { .. }) => Ok(true),
        published => published.map(|()| false),
    }
}

impl Queue {
    async fn check(&self, channel: &Channel) -> Result<QueueState, TopologyFault> {
        let problem = |error: DeclareError| TopologyFault {
            name: self.name.clone(),
            detail: error.detail(),
        };
        // Passive first: an active declaration would create what is missing, and only it compares the
        // arguments.
        self.declare(channel, true).await.map_err(problem)?;
        let (ready, consumers) = self.declare(channel, false).await.map_err(problem)?;
        Ok(QueueState {
            name: self.name.clone(),
            ready,
            consumers,
        })
    }
}
