//! Publishing with the `mandatory` flag and publisher confirms.

use std::{
    borrow::Borrow,
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{self, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::time::sleep;

use crate::{
    Config, Link, Outgoing, PublishError, PublishResult, channel::ChannelError, link::close,
    patience::Patience,
};

/// The maximum number of messages that are published before their confirms are awaited. lapin scans all
/// pending confirms when the broker confirms many at once, so windows have at most hundreds of messages.
pub const WINDOW_MAX: usize = 256;

/// A publisher over one link, on channels from a pool. Clones share the pool.
#[derive(Clone)]
pub struct Publisher {
    pool: Pool<Channels>,
    link: Link,
    publish_timeout: Duration,
    confirm_age_max: Duration,
}

impl Publisher {
    /// Creates a publisher over `link`, with the timeouts and the maximum number of channels from `config`.
    pub fn new(link: Link, config: &Config) -> Self {
        let pool = Pool::builder(Channels { link: link.clone() })
            .max_size(config.channels_max)
            .build()
            .expect("a pool without timeouts of its own needs no runtime");
        Self {
            pool,
            link,
            publish_timeout: config.publish_timeout,
            confirm_age_max: config.confirm_age_max,
        }
    }

    /// Publishes one message and waits for its confirm.
    ///
    /// # Errors
    /// Returns an error if the message is not known to be in a queue. Publishing it again may then create a
    /// duplicate.
    ///
    /// # Cancel safety
    /// The future can be dropped, but then it is unknown whether the message was published.
    pub async fn publish(&self, message: &Outgoing) -> Result<(), PublishError> {
        let mut results = self.publish_all(std::slice::from_ref(message)).await;
        results.pop().expect("one message has one result")
    }

    /// Publishes messages in order, in windows of [`WINDOW_MAX`], and waits for the confirms of each window
    /// before the next. Returns one result for each message, in order. The publish timeout applies to each
    /// window separately.
    ///
    /// # Cancel safety
    /// The future can be dropped, but then it is unknown which messages were published.
    pub async fn publish_all(&self, messages: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        let mut results = Vec::with_capacity(messages.len());
        for window in messages.chunks(WINDOW_MAX) {
            match self.publish_window(window).await {
                Ok(sent) => {
                    let answers: Vec<_> = self.final_results(&sent).collect();
                    self.link.noted().note_window(window, answers.iter().map(Some));
                    results.extend(answers);
                }
                Err(error) => results.extend(window.iter().map(|_| Err(error.clone()))),
            }
        }
        results
    }

    /// Publishes at most [`WINDOW_MAX`] messages to queues that may not exist, such as those of
    /// [relays](crate::Requests), and waits for their confirms. Returns one result for each message, in order.
    /// Unlike [`publish_all`](Self::publish_all), it does not report a missing queue as a fault of the broker.
    ///
    /// # Cancel safety
    /// The future can be dropped, but then it is unknown which messages were published.
    pub async fn offer(&self, window: &[Outgoing]) -> Vec<PublishResult> {
        match self.publish_window(window).await {
            Ok(sent) => self.final_results(&sent).collect(),
            Err(error) => window.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Publishes at most [`WINDOW_MAX`] messages in order and waits for their confirms, up to the publish
    /// timeout.
    ///
    /// The broker may still confirm a message that is unanswered by then, so the message must not be
    /// published again. Its result is `None`, and [`Late`] waits for it.
    ///
    /// # Cancel safety
    /// The future can be dropped, but then it is unknown which messages were published.
    pub async fn publish_once(&self, window: &[&Outgoing]) -> (Vec<Option<PublishResult>>, Option<Late>) {
        assert!(
            window.len() <= WINDOW_MAX,
            "{} messages exceed the window",
            window.len()
        );
        match self.publish_window(window).await {
            Err(error) => (window.iter().map(|_| Some(Err(error.clone()))).collect(), None),
            Ok(mut sent) => {
                let results = sent.results();
                self.link
                    .noted()
                    .note_window(window, results.iter().map(Option::as_ref));
                let late = results.iter().any(Option::is_none).then(|| {
                    sent.leave_pool();
                    Late {
                        sent,
                        link: self.link.clone(),
                        age_max: self.confirm_age_max,
                    }
                });
                (results, late)
            }
        }
    }

    /// Publishes a window and waits for its answers, up to the publish timeout. An error means that nothing
    /// was published.
    async fn publish_window(&self, window: &[impl Borrow<Outgoing>]) -> Result<Sent, PublishError> {
        let mut patience = Patience::new(self.publish_timeout);
        match patience.wait(self.link.writable()).await {
            Some(writable) => writable?,
            None => return Err(self.not_writable()),
        }
        let channel = match patience.wait(self.pool.get()).await {
            Some(Ok(channel)) => channel,
            // The connection was lost after it was found to be up.
            Some(Err(PoolError::Backend(ChannelError::Refused(source)))) => {
                let target = window
                    .first()
                    .map_or("", |first| first.borrow().target())
                    .to_owned();
                return Err(PublishError::Broken { target, source });
            }
            Some(Err(PoolError::Backend(ChannelError::Closed(closed)))) => return Err(closed.into()),
            Some(Err(_)) | None => {
                return Err(PublishError::NotConnected {
                    after: self.publish_timeout,
                });
            }
        };
        let mut sent = Sent::new(channel, window, self.publish_timeout);
        // `sent` records which messages are unanswered when the time is up.
        let _ = patience.wait(sent.answered()).await;
        Ok(sent)
    }

    /// Returns the results of a window, with every message that is still unanswered as failed.
    fn final_results(&self, sent: &Sent) -> impl Iterator<Item = PublishResult> {
        let is_blocked = self.link.is_blocked();
        let results = sent.results().into_iter().enumerate();
        results.map(move |(index, result)| match result {
            Some(result) => result,
            // The alarm was raised while the message was in flight.
            None if is_blocked => Err(PublishError::Blocked { after: sent.after }),
            None => Err(sent.unconfirmed(index)),
        })
    }

    fn not_writable(&self) -> PublishError {
        let after = self.publish_timeout;
        if self.link.is_up() {
            PublishError::Blocked { after }
        } else {
            PublishError::NotConnected { after }
        }
    }
}

/// Publishes that were not answered within the publish timeout. Until they are answered or their connection
/// ends, the broker may still accept them.
pub struct Late {
    sent: Sent,
    link: Link,
    age_max: Duration,
}

/// The interval of checks whether a connection has ended: lapin does not always report that to pending
/// publishes.
const CONNECTION_POLL: Duration = Duration::from_secs(1);

impl Late {
    /// Waits until each message is answered or the connection has ended, and returns their results in order.
    ///
    /// Replaces the connection if it stays open longer than the configuration's `confirm_age_max` without
    /// answering all messages. Time during a memory or disk alarm does not count.
    ///
    /// # Cancel safety
    /// The future can be dropped, but then it is unknown which messages were published.
    pub async fn results(mut self) -> Vec<PublishResult> {
        let unanswered = self.sent.unanswered();
        let ended = self.link.clone();
        let connection_ends = Self::connection_ends(ended, Arc::clone(&self.sent.connection), self.age_max);
        tokio::select! {
            biased;
            () = self.sent.answered() => {}
            () = connection_ends => {}
        }
        let results = self.sent.results();
        let result = |index: usize| {
            let answered = results[index].clone();
            answered.unwrap_or_else(|| Err(self.sent.unconfirmed(index)))
        };
        unanswered.into_iter().map(result).collect()
    }

    async fn connection_ends(link: Link, connection: Arc<Connection>, age_max: Duration) {
        let mut age = Duration::ZERO;
        let mut replaced = false;
        while connection.status().connected() {
            sleep(CONNECTION_POLL).await;
            if !link.is_blocked() {
                age += CONNECTION_POLL;
            }
            if age >= age_max && !replaced {
                tracing::warn!(
                    ?age_max,
                    "publishes were not confirmed in time; replacing the connection to the broker"
                );
                replaced = true;
                close(&connection).await;
            }
        }
        // The last answers may still be on their way.
        sleep(CONNECTION_POLL).await;
    }
}

/// Messages that were sent on one channel, and the answers received so far.
///
/// lapin attaches a return to whichever confirm comes next, even to one whose publisher has given up.
/// Therefore this waits for all messages together, and not for each one separately.
struct Sent {
    /// The channel. It goes back to the pool if everything was answered, and otherwise leaves the pool, even
    /// if this value is dropped.
    channel: Option<Object<Channels>>,
    connection: Arc<Connection>,
    messages: Vec<SentMessage>,
    answers: FuturesUnordered<BoxFuture<'static, (usize, Result<Confirmation, lapin::Error>)>>,
    after: Duration,
}

/// A message, the `correlation_id` that it was sent with, and its answer so far.
struct SentMessage {
    id: String,
    target: String,
    answer: Option<Result<Confirmation, lapin::Error>>,
}

impl Sent {
    fn new(mut channel: Object<Channels>, window: &[impl Borrow<Outgoing>], after: Duration) -> Self {
        channel.answered = false;
        let messages: Vec<_> = window
            .iter()
            .map(|message| SentMessage {
                id: channel.next_id(),
                target: message.borrow().target().to_owned(),
                answer: None,
            })
            .collect();
        let answers = window.iter().zip(&messages).enumerate();
        let answers = answers.map(|(index, (message, sent))| {
            let sending = channel.send(message.borrow().clone(), sent.id.clone());
            async move { (index, sending.await) }.boxed()
        });
        Self {
            answers: answers.collect(),
            connection: Arc::clone(&channel.connection),
            channel: Some(channel),
            messages,
            after,
        }
    }

    /// Waits until every message is answered.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    async fn answered(&mut self) {
        while let Some((index, answer)) = self.answers.next().await {
            self.messages[index].answer = Some(answer);
        }
        if let Some(channel) = &mut self.channel {
            let is_answered = |sent: &SentMessage| matches!(sent.answer, Some(Ok(_)));
            channel.answered = self.messages.iter().all(is_answered);
        }
    }

    /// Frees the channel's place in the pool. The pending answers keep the channel itself open.
    fn leave_pool(&mut self) {
        self.channel.take().map(Object::take);
    }

    fn unanswered(&self) -> Vec<usize> {
        let unanswered = |index: &usize| self.messages[*index].answer.is_none();
        (0..self.messages.len()).filter(unanswered).collect()
    }

    /// Returns one result for each message, in order; `None` for messages that are not answered yet.
    fn results(&self) -> Vec<Option<PublishResult>> {
        let answers = self
            .messages
            .iter()
            .filter_map(|sent| sent.answer.as_ref()?.as_ref().ok());
        let returned: HashSet<&str> = answers.filter_map(returned_id).collect();
        let result = |sent: &SentMessage| Some(sent.result(sent.answer.as_ref()?, &returned, self.after));
        self.messages.iter().map(result).collect()
    }

    fn unconfirmed(&self, index: usize) -> PublishError {
        PublishError::Unconfirmed {
            target: self.messages[index].target.clone(),
            after: self.after,
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if self.channel.as_ref().is_some_and(|channel| !channel.answered) {
            self.leave_pool();
        }
    }
}

impl SentMessage {
    fn result(
        &self,
        answer: &Result<Confirmation, lapin::Error>,
        returned: &HashSet<&str>,
        after: Duration,
    ) -> PublishResult {
        let target = self.target.clone();
        match answer {
            Ok(Confirmation::Ack(_)) if !returned.contains(self.id.as_str()) => Ok(()),
            Ok(Confirmation::Ack(_)) => Err(PublishError::Unroutable {
                target,
                reply: "NO_ROUTE".to_owned(),
            }),
            Ok(Confirmation::Nack(_)) => Err(PublishError::Nacked { target }),
            // A channel that is not in confirm mode confirms nothing.
            Ok(Confirmation::NotRequested) => Err(PublishError::Unconfirmed { target, after }),
            Err(source) => Err(PublishError::Broken {
                target,
                source: source.clone(),
            }),
        }
    }
}

/// Returns the `correlation_id` of the returned message that lapin attached to this confirm. The confirm may
/// belong to another message.
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

/// A channel in confirm mode, used by one window at a time.
struct ConfirmChannel {
    /// The connection of the channel.
    connection: Arc<Connection>,
    channel: Channel,
    next_id: AtomicU64,
    /// Whether every publish on the channel was answered, so that no late answer can be mistaken for the
    /// answer to another publish.
    answered: bool,
}

impl ConfirmChannel {
    fn next_id(&self) -> String {
        self.next_id.fetch_add(1, Ordering::Relaxed).to_string()
    }

    fn send(
        &self,
        message: Outgoing,
        id: String,
    ) -> impl Future<Output = Result<Confirmation, lapin::Error>> + Send + use<> {
        let channel = self.channel.clone();
        async move {
            let options = BasicPublishOptions {
                mandatory: true,
                immediate: false,
            };
            let Outgoing {
                exchange,
                routing_key,
                properties,
                body,
            } = message;
            let properties = properties.with_correlation_id(id.into());
            channel
                .basic_publish(exchange.into(), routing_key.into(), options, &body, properties)
                .await?
                .await
        }
    }
}

struct Channels {
    link: Link,
}

impl managed::Manager for Channels {
    type Type = ConfirmChannel;
    type Error = ChannelError;

    async fn create(&self) -> Result<ConfirmChannel, ChannelError> {
        let connection = self.link.connection().await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(ConfirmChannel {
            connection,
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
