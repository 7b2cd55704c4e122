//! Confirmed, mandatory publishing.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use deadpool::managed::{self, Metrics, Object, Pool, RecycleError, RecycleResult, Timeouts};
use futures_util::future::join_all;
use lapin::{
    Channel, Confirmation, ErrorKind,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::time::{Instant, timeout_at};

use crate::{Config, Link, Outgoing, link::ChannelError};

/// The most messages published before their confirms are awaited. A confirm of many scans all that are pending, so
/// windows stay in the hundreds.
pub const WINDOW_MAX: usize = 256;

/// Publishes over one link, on channels from a pool. Clones share the pool.
#[derive(Clone)]
pub struct Publisher {
    pool: Pool<Channels>,
    link: Link,
    publish_timeout: Duration,
}

/// Why a message is not known to be in a queue. It may be there all the same, unless it was returned or nacked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// There was no connection, or none with a free channel, within the time.
    #[error("the broker was not connected within {after:?}; is it running, and is broker.url right?")]
    NotConnected {
        /// How long was waited.
        after: Duration,
    },
    /// The broker is under a memory or disk alarm and takes no publishes.
    #[error(
        "the broker blocks publishing (memory or disk alarm) and did not stop within {after:?}; free its memory or disk"
    )]
    Blocked {
        /// How long was waited.
        after: Duration,
    },
    /// No queue is bound for it.
    #[error(
        "no queue takes messages for {target} ({reply}); start a worker or run `magnetite topology declare`"
    )]
    Unroutable {
        /// The exchange, or the queue when the default exchange was used.
        target: String,
        /// The broker's words.
        reply: String,
    },
    /// The broker refused it: a queue is full, or an internal fault.
    #[error("the broker refused the message for {target}: its queue is full or failed; see the broker's log")]
    Nacked {
        /// The exchange or queue.
        target: String,
    },
    /// Neither a confirm nor a refusal came.
    #[error(
        "no confirm from the broker for {target} within {after:?}; whether it has the message is not known"
    )]
    Unconfirmed {
        /// The exchange or queue.
        target: String,
        /// How long was waited.
        after: Duration,
    },
    /// The channel or connection broke.
    #[error("the channel to the broker broke while publishing to {target}")]
    Broken {
        /// The exchange or queue.
        target: String,
        /// lapin's words.
        #[source]
        source: lapin::Error,
    },
    /// The link was stopped.
    #[error(transparent)]
    Closed(#[from] crate::Closed),
}

impl PublishError {
    /// Whether the channel broke because an exchange that was published to does not exist.
    pub fn is_missing_exchange(&self) -> bool {
        const NOT_FOUND: u16 = 404;
        let Self::Broken { source, .. } = self else {
            return false;
        };
        matches!(source.kind(), ErrorKind::ProtocolError(error) if error.get_id() == NOT_FOUND)
    }
}

impl Publisher {
    /// Publishes over `link`, with `config`'s bounds on time and channels.
    pub fn new(link: Link, config: &Config) -> Self {
        let timeouts = Timeouts {
            wait: Some(config.publish_timeout),
            create: Some(config.publish_timeout),
            recycle: Some(config.publish_timeout),
        };
        let pool = Pool::builder(Channels { link: link.clone() })
            .max_size(config.channels_max)
            .timeouts(timeouts)
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .expect("a pool with timeouts has a runtime");
        Self {
            pool,
            link,
            publish_timeout: config.publish_timeout,
        }
    }

    /// Whether the link is up and the broker takes publishes.
    pub fn is_ready(&self) -> bool {
        self.link.is_up() && !self.link.is_blocked()
    }

    /// Publishes one message and waits for its confirm.
    ///
    /// # Errors
    /// When the message is not known to be in a queue; publishing it again may then make a second copy.
    ///
    /// # Cancel safety
    /// Safe to drop, but whether the message was published is then not known.
    pub async fn publish(&self, message: &Outgoing) -> Result<(), PublishError> {
        let mut results = self.publish_all(std::slice::from_ref(message)).await;
        results.pop().expect("one message has one result")
    }

    /// Publishes messages in order, in windows of [`WINDOW_MAX`], and waits for the confirms of each window before the
    /// next. Returns one result for each message, in order. Each window has the publish timeout to itself.
    ///
    /// # Cancel safety
    /// Safe to drop, but which messages were published is then not known.
    pub async fn publish_all(&self, messages: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        let mut results = Vec::with_capacity(messages.len());
        for window in messages.chunks(WINDOW_MAX) {
            match self.publish_window(window).await {
                Ok(confirmed) => results.extend(confirmed),
                Err(error) => results.extend(window.iter().map(|_| Err(error.clone()))),
            }
        }
        results
    }

    /// The outer error means that nothing was published.
    async fn publish_window(
        &self,
        window: &[Outgoing],
    ) -> Result<Vec<Result<(), PublishError>>, PublishError> {
        let deadline = Instant::now() + self.publish_timeout;
        match timeout_at(deadline, self.link.writable()).await {
            Ok(writable) => writable?,
            Err(_) => return Err(self.not_writable()),
        }
        let Ok(Ok(mut channel)) = timeout_at(deadline, self.pool.get()).await else {
            return Err(PublishError::NotConnected {
                after: self.publish_timeout,
            });
        };
        // Until everything is answered the channel is not for anyone else, even if this future is dropped.
        channel.answered = false;
        let sent = join_all(window.iter().map(|message| channel.send(message, deadline))).await;
        let returned: HashSet<&str> = sent
            .iter()
            .filter_map(|(_, confirmation)| returned_id(confirmation.as_ref().ok()?))
            .collect();
        let results: Vec<_> = window
            .iter()
            .zip(&sent)
            .map(|(message, (id, confirmation))| self.result(message, id, confirmation, &returned))
            .collect();
        channel.answered = sent.iter().all(|(_, confirmation)| confirmation.is_ok());
        if !channel.answered {
            drop(Object::take(channel));
        }
        Ok(results)
    }

    fn not_writable(&self) -> PublishError {
        let after = self.publish_timeout;
        if self.link.is_up() {
            PublishError::Blocked { after }
        } else {
            PublishError::NotConnected { after }
        }
    }

    fn result(
        &self,
        message: &Outgoing,
        id: &str,
        confirmation: &Result<Confirmation, SendError>,
        returned: &HashSet<&str>,
    ) -> Result<(), PublishError> {
        let target = message.target().to_owned();
        match confirmation {
            Ok(Confirmation::Ack(_)) if !returned.contains(id) => Ok(()),
            Ok(Confirmation::Ack(_)) => Err(PublishError::Unroutable {
                target,
                reply: "NO_ROUTE".to_owned(),
            }),
            Ok(Confirmation::Nack(_)) => Err(PublishError::Nacked { target }),
            Ok(Confirmation::NotRequested) => unreachable!("the pool's channels are in confirm mode"),
            // The alarm came while it was under way.
            Err(SendError::TimedOut) if self.link.is_blocked() => Err(PublishError::Blocked {
                after: self.publish_timeout,
            }),
            Err(SendError::TimedOut) => Err(PublishError::Unconfirmed {
                target,
                after: self.publish_timeout,
            }),
            Err(SendError::Broken(source)) => Err(PublishError::Broken {
                target,
                source: source.clone(),
            }),
        }
    }
}

/// The `correlation_id` of the message that came back with this confirmation, which may be the confirmation of another.
fn returned_id(confirmation: &Confirmation) -> Option<&str> {
    let (Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message))) = confirmation else {
        return None;
    };
    message
        .delivery
        .properties
        .correlation_id()
        .as_ref()
        .map(ShortString::as_str)
}

enum SendError {
    TimedOut,
    Broken(lapin::Error),
}

/// A channel in confirm mode, owned by one window at a time.
struct ConfirmChannel {
    channel: Channel,
    next_id: AtomicU64,
    /// Every publish on it was answered: nothing that still comes can be taken for another publish's answer.
    answered: bool,
}

impl ConfirmChannel {
    async fn send(&self, message: &Outgoing, deadline: Instant) -> (String, Result<Confirmation, SendError>) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed).to_string();
        let options = BasicPublishOptions {
            mandatory: true,
            immediate: false,
        };
        let properties = message.properties.clone().with_correlation_id(id.as_str().into());
        let confirmed = async {
            let confirm = self
                .channel
                .basic_publish(
                    message.exchange.as_str().into(),
                    message.routing_key.as_str().into(),
                    options,
                    &message.body,
                    properties,
                )
                .await?;
            confirm.await
        };
        let result = match timeout_at(deadline, confirmed).await {
            Ok(answer) => answer.map_err(SendError::Broken),
            Err(_) => Err(SendError::TimedOut),
        };
        (id, result)
    }
}

struct Channels {
    link: Link,
}

impl managed::Manager for Channels {
    type Type = ConfirmChannel;
    type Error = ChannelError;

    async fn create(&self) -> Result<ConfirmChannel, ChannelError> {
        let channel = self.link.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(ConfirmChannel {
            channel,
            next_id: AtomicU64::new(0),
            answered: true,
        })
    }

    async fn recycle(&self, channel: &mut ConfirmChannel, _: &Metrics) -> RecycleResult<ChannelError> {
        if channel.answered && channel.channel.status().connected() {
            Ok(())
        } else {
            Err(RecycleError::message(
                "a publish on the channel was never answered, or the channel is closed",
            ))
        }
    }
}
