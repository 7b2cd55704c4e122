//! Confirmed, mandatory publishing.

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

/// The most messages published before their confirms are awaited. A confirm of many scans all that are
/// pending, so windows stay in the hundreds.
pub const WINDOW_MAX: usize = 256;

/// Publishes over one link, on channels from a pool. Clones share the pool.
#[derive(Clone)]
pub struct Publisher {
    pool: Pool<Channels>,
    link: Link,
    publish_timeout: Duration,
    confirm_age_max: Duration,
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
            confirm_age_max: config.confirm_age_max,
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

    /// Publishes messages in order, in windows of [`WINDOW_MAX`], and waits for the confirms of each window
    /// before the next. Returns one result for each message, in order. Each window has the publish
    /// timeout to itself.
    ///
    /// # Cancel safety
    /// Safe to drop, but which messages were published is then not known.
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

    /// Publishes at most [`WINDOW_MAX`] messages in order and waits for their confirms, for the publish
    /// timeout. What is not answered by then may still be confirmed, so it must not be published again:
    /// it is `None` among the results, and [`Late`] waits for it.
    ///
    /// # Cancel safety
    /// Safe to drop, but which messages were published is then not known.
    pub async fn publish_once(&self, window: &[&Outgoing]) -> (Vec<Option<PublishResult>>, Option<Late>) {
        assert!(
            window.len() <= WINDOW_MAX,
            "{} messages are no window",
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

    /// Publishes a window and waits for its answers, for the publish timeout. The error means that nothing
    /// was published.
    async fn publish_window(&self, window: &[impl Borrow<Outgoing>]) -> Result<Sent, PublishError> {
        let mut patience = Patience::new(self.publish_timeout);
        match patience.wait(self.link.writable()).await {
            Some(writable) => writable?,
            None => return Err(self.not_writable()),
        }
        let channel = match patience.wait(self.pool.get()).await {
            Some(Ok(channel)) => channel,
            // The connection was there a moment ago.
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
        // What is unanswered when time is up, `sent` knows.
        let _ = patience.wait(sent.answered()).await;
        Ok(sent)
    }

    /// What is not answered by now has failed.
    fn final_results(&self, sent: &Sent) -> impl Iterator<Item = PublishResult> {
        let is_blocked = self.link.is_blocked();
        let results = sent.results().into_iter().enumerate();
        results.map(move |(index, result)| match result {
            Some(result) => result,
            // The alarm came while it was under way.
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

/// Publishes that were not answered within the publish timeout. Until they are, or their connection ends, the
/// broker may still have them.
pub struct Late {
    sent: Sent,
    link: Link,
    age_max: Duration,
}

/// How often a connection is asked whether it has ended: lapin does not always tell the publishes that wait
/// for it.
const CONNECTION_POLL: Duration = Duration::from_secs(1);

impl Late {
    /// Waits until each is answered or the connection has ended, and returns their results in order. Replaces
    /// a connection that answers for longer than the configuration's `confirm_age_max`; a memory or disk
    /// alarm does not count.
    ///
    /// # Cancel safety
    /// Safe to drop, but which messages were published is then not known.
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
                    "publishes were not confirmed in time; the connection to the broker is replaced"
                );
                replaced = true;
                close(&connection).await;
            }
        }
        // What was answered last is on its way.
        sleep(CONNECTION_POLL).await;
    }
}

/// Messages that were sent on one channel, and their answers so far. lapin gives a return to whichever
/// confirm comes next, also to one whose publisher has given up; so none is waited for by itself.
struct Sent {
    /// Goes back to the pool when everything is answered, and leaves it otherwise, even if this is dropped.
    channel: Option<Object<Channels>>,
    connection: Arc<Connection>,
    messages: Vec<SentMessage>,
    answers: FuturesUnordered<BoxFuture<'static, (usize, Result<Confirmation, lapin::Error>)>>,
    after: Duration,
}

/// A message that was sent under this `correlation_id`, and what became of it so far.
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

    /// Waits until everything is answered.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn answered(&mut self) {
        while let Some((index, answer)) = self.answers.next().await {
            self.messages[index].answer = Some(answer);
        }
        if let Some(channel) = &mut self.channel {
            let is_answered = |sent: &SentMessage| matches!(sent.answer, Some(Ok(_)));
            channel.answered = self.messages.iter().all(is_answered);
        }
    }

    /// Leaves the channel's place in the pool to another. What waits for an answer keeps the channel open.
    fn leave_pool(&mut self) {
        self.channel.take().map(Object::take);
    }

    fn unanswered(&self) -> Vec<usize> {
        let unanswered = |index: &usize| self.messages[*index].answer.is_none();
        (0..self.messages.len()).filter(unanswered).collect()
    }

    /// Those that were answered, in order.
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

/// The `correlation_id` of the message that came back with this confirmation, which may be the confirmation
/// of another.
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
    /// What the channel belongs to.
    connection: Arc<Connection>,
    channel: Channel,
    next_id: AtomicU64,
    /// Every publish on it was answered: nothing that still comes can be taken for another publish's answer.
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
