//! The connection, and publishing over it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use broker::{Config, Link, Outgoing, Publisher, Topology, WINDOW_MAX};
use tokio::time::timeout;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use webhook::{EventId, MESSAGE_ID_CHARS_MAX};

use crate::{Error, Event, NotReady, Serialized, timestamps::unix_ms};

/// Publishes events over one connection that comes back by itself. Clones share the connection; it is closed
/// by [`shutdown`](Self::shutdown), or when the last clone is dropped.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    link: Link,
    publisher: Publisher,
    topology: Topology,
    config: Config,
    /// Every call that publishes holds a token of it; closed by a shutdown.
    calls: TaskTracker,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

impl Producer {
    /// Starts to connect and returns at once. Whenever the connection is lost it is made anew, for ever.
    ///
    /// Must be called in a tokio runtime.
    pub fn connect(config: Config) -> Self {
        let stop = CancellationToken::new();
        let link = Link::open(&config, "magnetite producer", stop.clone());
        Self {
            shared: Arc::new(Shared {
                publisher: Publisher::new(link.clone(), &config),
                link,
                topology: Topology::new(config.prefix.clone(), &[]),
                config,
                calls: TaskTracker::new(),
                _stop_when_dropped: stop.clone().drop_guard(),
                stop,
            }),
        }
    }

    /// Waits until events can be published: for a start-up check, publishing itself waits too.
    ///
    /// # Errors
    /// When there is no connection, or a blocked one, `within` the time.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ready(&self, within: Duration) -> Result<(), NotReady> {
        let Shared { link, config, .. } = &*self.shared;
        let (address, after) = (config.address(), within);
        match timeout(within, link.writable()).await {
            Ok(writable) => writable.map_err(|_| NotReady::Closed),
            Err(_) if link.is_up() => Err(NotReady::Blocked { address, after }),
            Err(_) => Err(NotReady::NotConnected { address, after }),
        }
    }

    /// Returns the connection, for a process that reports its state.
    #[doc(hidden)]
    pub fn link(&self) -> &Link {
        &self.shared.link
    }

    /// Publishes an event and waits for the broker's confirm, at most the configuration's `publish_timeout`.
    /// Returns the event's id.
    ///
    /// # Errors
    /// When the event is not known to be published; see [`Error`].
    ///
    /// # Cancel safety
    /// Safe to drop, but whether the event was published is then not known: publish it again.
    pub async fn publish(&self, event: &Event) -> Result<EventId, Error> {
        self.publish_json(&event.serialize()).await
    }

    /// Publishes events in order and returns one result for each, in order. Much faster than one by one:
    /// confirms are awaited for each window of 256, each of which has the publish timeout to itself.
    ///
    /// A window in which the broker was not there, blocked or silent ends the batch: the rest is
    /// [`Error::Skipped`], so that an outage costs one timeout whatever the batch's length.
    ///
    /// # Cancel safety
    /// As for [`publish`](Self::publish).
    pub async fn publish_batch(&self, events: &[Event]) -> Vec<Result<EventId, Error>> {
        self.publish_windows(events, Event::serialize).await
    }

    /// Publishes an event that is already JSON, unchanged, after checking that it is one.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish); an event that workers would quarantine is [`Error::Invalid`].
    ///
    /// # Cancel safety
    /// As for [`publish`](Self::publish).
    pub async fn publish_json(&self, event: &Serialized) -> Result<EventId, Error> {
        let mut results = self.publish_json_batch(std::slice::from_ref(event)).await;
        results.pop().expect("one event has one result")
    }

    /// Publishes events that are already JSON, as [`publish_batch`](Self::publish_batch) does.
    ///
    /// # Cancel safety
    /// As for [`publish`](Self::publish).
    pub async fn publish_json_batch(&self, events: &[Serialized]) -> Vec<Result<EventId, Error>> {
        self.publish_windows(events, Serialized::clone).await
    }

    /// Waits for the publishes that are under way, also those of clones, and closes the connection. No new
    /// ones are taken, and batches end with their present window. Takes at most one publish timeout and a
    /// second.
    pub async fn shutdown(self) {
        /// A publish also encodes and checks.
        const GRACE: Duration = Duration::from_secs(1);
        let Shared { calls, config, .. } = &*self.shared;
        calls.close();
        // Whatever is still under way is told by its own error.
        let _ = timeout(config.publish_timeout.saturating_add(GRACE), calls.wait()).await;
        self.shared.stop.cancel();
        self.shared.link.closed().await;
    }

    async fn publish_windows<T>(
        &self,
        events: &[T],
        serialize: impl Fn(&T) -> Serialized,
    ) -> Vec<Result<EventId, Error>> {
        let _call = self.shared.calls.token();
        let mut results = Vec::with_capacity(events.len());
        let mut given_up = false;
        for window in events.chunks(WINDOW_MAX) {
            let checked = window.iter().map(|event| check(serialize(event)));
            if self.shared.calls.is_closed() {
                results.extend(checked.map(|event| Err(Error::Closed { id: event?.id })));
            } else if given_up {
                results.extend(checked.map(|event| Err(Error::Skipped { id: event?.id })));
            } else {
                let published = self.publish_window(checked.collect()).await;
                given_up = published
                    .iter()
                    .any(|result| result.as_ref().is_err_and(Error::ends_a_batch));
                results.extend(published);
            }
        }
        results
    }

    async fn publish_window(
        &self,
        events: Vec<Result<webhook::Event, Error>>,
    ) -> Vec<Result<EventId, Error>> {
        let messages: Vec<_> = events.iter().flatten().map(|event| self.message(event)).collect();
        let mut answers = self.shared.publisher.publish_all(&messages).await.into_iter();
        let answered = |event: Result<webhook::Event, Error>| {
            let id = event?.id;
            let answer = answers.next().expect("every message has a result");
            answer
                .map(|()| id.clone())
                .map_err(|error| Error::publish(id, error))
        };
        events.into_iter().map(answered).collect()
    }

    fn message(&self, event: &webhook::Event) -> Outgoing {
        let message = Outgoing::event(
            &self.shared.topology,
            &event.id,
            event.event_type,
            event.body.clone(),
        );
        match &event.traceparent {
            Some(traceparent) => message.with_traceparent(traceparent),
            None => message,
        }
    }
}

/// By the parser that workers read it with, and by the clock.
fn check(event: Serialized) -> Result<webhook::Event, Error> {
    let Serialized {
        body,
        message_id,
        traceparent,
    } = event;
    let now_ms = unix_ms(SystemTime::now());
    let entering = webhook::Event::entering(message_id.as_deref(), traceparent, body.clone(), now_ms);
    entering.map_err(|source| {
        let id = match message_id {
            Some(id) => EventId::new(id.chars().take(MESSAGE_ID_CHARS_MAX).collect::<String>()),
            None => EventId::from_body(&body),
        };
        Error::Invalid { id, source }
    })
}
