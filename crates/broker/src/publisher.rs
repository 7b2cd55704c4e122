//! Confirmed, mandatory publishing.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use deadpool::managed::{self, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
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
    waits_out_alarms: bool,
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
        let pool = Pool::builder(Channels { link: link.clone() })
            .max_size(config.channels_max)
            .build()
            .expect("a pool without timeouts of its own needs no runtime");
        Self {
            pool,
            link,
            publish_timeout: config.publish_timeout,
            waits_out_alarms: config.waits_out_alarms,
        }
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

    /// `window` is not empty. The outer error means that nothing was published.
    async fn publish_window(
        &self,
        window: &[Outgoing],
    ) -> Result<Vec<Result<(), PublishError>>, PublishError> {
        let deadline = Instant::now() + self.publish_timeout;
        match timeout_at(deadline, self.link.writable()).await {
            Ok(writable) => writable?,
            Err(_) => return Err(self.not_writable()),
        }
        let mut channel = match timeout_at(deadline, self.pool.get()).await {
            Ok(Ok(channel)) => channel,
            // The connection was there a moment ago.
            Ok(Err(PoolError::Backend(ChannelError::Refused(source)))) => {
                let target = window[0].target().to_owned();
                return Err(PublishError::Broken { target, source });
            }
            Ok(Err(PoolError::Backend(ChannelError::Closed(closed)))) => return Err(closed.into()),
            Ok(Err(_)) | Err(_) => {
                return Err(PublishError::NotConnected {
                    after: self.publish_timeout,
                });
            }
        };
        // Until everything is answered the channel is not for anyone else, even if this future is dropped.
        channel.answered = false;
        let sent = self.send_window(&channel, window, deadline).await;
        let returned: HashSet<&str> = sent
            .iter()
            .filter_map(|sent| returned_id(sent.answer.as_ref()?.as_ref().ok()?))
            .collect();
        let results: Vec<_> = window
            .iter()
            .zip(&sent)
            .map(|(message, sent)| self.result(message, sent, &returned))
            .collect();
        channel.answered = sent.iter().all(|sent| matches!(sent.answer, Some(Ok(_))));
        if !channel.answered {
            drop(Object::take(channel));
        }
        Ok(results)
    }

    /// Sends the whole window and collects answers until all are there or time is up. No answer is waited for by itself: lapin
    /// gives a return to whichever confirm comes next, also to one that nobody waits for any more.
    async fn send_window(
        &self,
        channel: &ConfirmChannel,
        window: &[Outgoing],
        mut deadline: Instant,
    ) -> Vec<Sent> {
        let mut sent: Vec<_> = window
            .iter()
            .map(|_| Sent {
                id: channel.next_id(),
                answer: None,
            })
            .collect();
        let mut answers: FuturesUnordered<_> = window
            .iter()
            .zip(&sent)
            .enumerate()
            .map(|(index, (message, sent))| {
                let sending = channel.send(message, sent.id.clone());
                async move { (index, sending.await) }
            })
            .collect();
        let mut answered = Vec::with_capacity(window.len());
        while !answers.is_empty() {
            match timeout_at(deadline, answers.next()).await {
                Ok(Some(answer)) => answered.push(answer),
                // What is written is published when the alarm ends; to publish it again then would double it.
                Err(_) if self.waits_out_alarms && self.link.is_blocked() => {
                    let _ = self.link.writable().await;
                    deadline = Instant::now() + self.publish_timeout;
                }
                Ok(None) | Err(_) => break,
            }
        }
        drop(answers);
        for (index, answer) in answered {
            sent[index].answer = Some(answer);
        }
        sent
    }

    fn not_writable(&self) -> PublishError {
        let after = self.publish_timeout;
        if self.link.is_up() {
            PublishError::Blocked { after }
        } else {
            PublishError::NotConnected { after }
        }
    }

    fn result(&self, message: &Outgoing, sent: &Sent, returned: &HashSet<&str>) -> Result<(), PublishError> {
        let (target, after) = (message.target().to_owned(), self.publish_timeout);
        match &sent.answer {
            Some(Ok(Confirmation::Ack(_))) if !returned.contains(sent.id.as_str()) => Ok(()),
            Some(Ok(Confirmation::Ack(_))) => Err(PublishError::Unroutable {
                target,
                reply: "NO_ROUTE".to_owned(),
            }),
            Some(Ok(Confirmation::Nack(_))) => Err(PublishError::Nacked { target }),
            // The alarm came while it was under way.
            None if self.link.is_blocked() => Err(PublishError::Blocked { after }),
            // A channel that is not in confirm mode confirms nothing.
            None | Some(Ok(Confirmation::NotRequested)) => Err(PublishError::Unconfirmed { target, after }),
            Some(Err(source)) => Err(PublishError::Broken {
                target,
                source: source.clone(),
            }),
        }
    }
}

/// A message that was sent under this `correlation_id`, and what became of it in time.
struct Sent {
    id: String,
    answer: Option<Result<Confirmation, lapin::Error>>,
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

/// A channel in confirm mode, owned by one window at a time.
struct ConfirmChannel {
    channel: Channel,
    next_id: AtomicU64,
    /// Every publish on it was answered: nothing that still comes can be taken for another publish's answer.
    answered: bool,
}

impl ConfirmChannel {
    fn next_id(&self) -> String {
        self.next_id.fetch_add(1, Ordering::Relaxed).to_string()
    }

    async fn send(&self, message: &Outgoing, id: String) -> Result<Confirmation, lapin::Error> {
        let options = BasicPublishOptions {
            mandatory: true,
            immediate: false,
        };
        let properties = message.properties.clone().with_correlation_id(id.into());
        let (exchange, key) = (
            message.exchange.as_str().into(),
            message.routing_key.as_str().into(),
        );
        self.channel
            .basic_publish(exchange, key, options, &message.body, properties)
            .await?
            .await
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
