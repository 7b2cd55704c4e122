//! Checks of the broker for the commands `topology` and `doctor`.

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

/// The number of exchanges or queues that are checked at the same time. Each needs a channel, and a
/// connection may have few.
const CHECKED_AT_ONCE: usize = 6;

/// The broker's description of itself, which it sends before a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The product, such as `RabbitMQ`.
    pub product: String,
    /// The version, such as `4.0.5`.
    pub version: String,
}

/// The state of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// The queue's full name.
    pub name: String,
    /// The number of messages that wait for a consumer; unacknowledged messages are not included.
    pub ready: u32,
    /// The number of consumers.
    pub consumers: u32,
}

/// An exchange or queue that is missing, or that differs from the declaration of this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyFault {
    /// The full name of the exchange or queue.
    pub name: String,
    /// The broker's error text.
    pub detail: String,
}

/// An error of a check that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// There is no TCP or TLS connection, or it was closed.
    #[error("cannot connect to the broker at {address}")]
    Connect {
        /// `host:port/vhost`.
        address: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The server at the address does not speak AMQP 0-9-1.
    #[error("the server at {address} is not an AMQP 0-9-1 broker")]
    NotAmqp {
        /// `host:port/vhost`.
        address: String,
    },
    /// No channel could be opened.
    #[error("cannot open a channel on the broker")]
    Channel(#[source] lapin::Error),
    /// This process has closed the connection.
    #[error(transparent)]
    Closed(#[from] crate::Closed),
    /// A queue that the check needs could not be declared.
    #[error(transparent)]
    Declare(#[from] DeclareError),
    /// A message that the check needs could not be published.
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
    /// Asks the broker for its product and version by beginning a handshake, which needs no credentials. If
    /// there are several nodes, returns the answer of the first one that answers.
    ///
    /// # Errors
    /// Returns the error of the last node if no node answers as an AMQP server does, each within the
    /// connection timeout of its URL.
    pub async fn of(config: &Config) -> Result<Self, InspectError> {
        let (first, others) = config.nodes().split_first().expect("there is at least one node");
        let mut found = Self::of_node(first, config.tls()).await;
        for node in others {
            if found.is_err() {
                found = Self::of_node(node, config.tls()).await;
            }
        }
        found
    }

    /// Asks every node at the same time, and returns their answers in order, each with the node's
    /// `host:port/vhost`.
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

    /// Returns the major version; `None` if the version does not begin with a number.
    pub fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }
}

/// Returns the payload of the broker's first frame.
async fn read_start(node: &Node, tls: &Connector) -> io::Result<Vec<u8>> {
    /// The properties of a server take a few hundred bytes.
    const FRAME_BYTES_MAX: usize = 64 * 1024;
    let mut stream = Screened::new(open(node, tls).await?, 0).secured(node.is_secured());
    stream.write_all(b"AMQP\0\0\x09\x01").await?;
    stream.flush().await?;
    // Type (1 byte), channel (2 bytes), size (4 bytes).
    let mut header = [0; 7];
    stream.read_exact(&mut header).await?;
    let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
    let mut payload = vec![0; size.min(FRAME_BYTES_MAX)];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}

impl Topology {
    /// Declares all exchanges, queues and bindings over `link`. Existing ones with the same arguments stay
    /// unchanged.
    ///
    /// # Errors
    /// Returns an error if no channel can be opened, or if the broker refuses a declaration. Earlier
    /// declarations stay in effect.
    pub async fn declare(&self, link: &Link) -> Result<(), InspectError> {
        Ok(self.declare_on(&link.declaring().await?).await?)
    }

    /// Compares all exchanges and queues with those on the broker, without changing anything. Returns the
    /// state of each queue, or what is wrong.
    ///
    /// Bindings and policies are not compared, because AMQP has no method for that.
    /// [`Management`](crate::Management) compares them.
    ///
    /// # Errors
    /// Returns an error if no channel can be opened.
    pub async fn check(&self, link: &Link) -> Result<Vec<Result<QueueState, TopologyFault>>, InspectError> {
        // The broker closes the channel on every mismatch, so each check uses a new one.
        let exchanges = stream::iter(self.exchanges()).map(async |exchange| {
            let channel = link.channel().await?;
            // Declare passively first: an active declaration would create a missing exchange, but only an
            // active one compares the type.
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

    /// Checks whether this broker dead-letters at least once, which the delay queues need.
    ///
    /// RabbitMQ 3.10 without the feature flag `stream_queue` silently falls back to its default strategy,
    /// which can lose messages. The check takes about a second.
    ///
    /// # Errors
    /// Returns an error if the queue for the check cannot be declared or published to.
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

    /// Returns a delay queue of 1 ms whose dead-letter target does not exist and that can hold one message.
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

/// Returns whether the queue keeps expired messages.
///
/// With dead-lettering at least once, expired messages that cannot be routed stay in the queue and count
/// towards its length, so the queue is full and refuses further messages. Otherwise the broker drops them.
/// (The message count of the queue does not include messages that are kept this way.)
async fn keeps_expired(queue: &str, publisher: &Publisher) -> Result<bool, PublishError> {
    /// The number of messages to fill the queue with. The limit is soft: the queue accepts a few more.
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
        // Declare passively first: an active declaration would create a missing queue, but only an active one
        // compares the arguments.
        self.declare(channel, true).await.map_err(problem)?;
        let (ready, consumers) = self.declare(channel, false).await.map_err(problem)?;
        Ok(QueueState {
            name: self.name.clone(),
            ready,
            consumers,
        })
    }
}
