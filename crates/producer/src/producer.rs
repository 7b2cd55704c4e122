//! The producer: its connection, and publishing over it.

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

/// Publishes events over one connection, which is reestablished automatically.
///
/// Clones share the connection. It is closed by [`shutdown`](Self::shutdown), or when the last clone is
/// dropped.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    link: Link,
    publisher: Publisher,
    topology: Topology,
    config: Config,
    /// Each publish holds a token of this tracker. A shutdown closes it.
    calls: TaskTracker,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

impl Producer {
    /// Starts to connect and returns immediately. Whenever the connection is lost, the producer reconnects,
    /// without a limit on the number of attempts.
    ///
    /// Must be called within a tokio runtime.
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

    /// Waits until events can be published. This is meant for a check at startup; publishing itself also
    /// waits.
    ///
    /// # Errors
    /// Returns an error if for the whole time `within` there is no connection or the broker blocks it, or if
    /// the producer was shut down.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn ready(&self, within: Duration) -> Result<(), NotReady> {
        let Shared { link, config, .. } = &*self.shared;
        let (address, after) = (config.address(), within);
        match timeout(within, link.writable()).await {
            Ok(writable) => writable.map_err(|_| NotReady::Closed),
            Err(_) if link.is_up() => Err(NotReady::Blocked { address, after }),
            Err(_) => Err(NotReady::NotConnected { address, after }),
        }
    }

    /// Returns the connection, for processes that report its state.
    #[doc(hidden)]
    pub fn link(&self) -> &Link {
        &self.shared.link
    }

    /// Publishes an event, waits for the broker's confirm for up to the configured `publish_timeout`, and
    /// returns the event's id.
    ///
    /// # Errors
    /// Returns an [`Error`] if the event is not known to be published.
    ///
    /// # Cancel safety
    /// The future can be dropped, but it is then unknown whether the event was published: publish it again.
    pub async fn publish(&self, event: &Event) -> Result<EventId, Error> {
        self.publish_json(&event.serialize()).await
    }

    /// Publishes events in order, and returns one result for each, in the same order.
    ///
    /// This is much faster than publishing one by one, because confirms are awaited for each window of 256
    /// events. Each window has its own publish timeout.
    ///
    /// If the broker is not connected, blocks publishing or does not answer during a window, the batch ends
    /// after that window, and the remaining events return [`Error::Skipped`]. An outage thus costs one
    /// timeout, however long the batch is.
    ///
    /// # Cancel safety
    /// Same as [`publish`](Self::publish).
    pub async fn publish_batch(&self, events: &[Event]) -> Vec<Result<EventId, Error>> {
        self.publish_windows(events, Event::serialize).await
    }

    /// Validates an event that is already JSON, and publishes it unchanged.
    ///
    /// # Errors
    /// Returns the same errors as [`publish`](Self::publish), and [`Error::Invalid`] for an event that
    /// workers would quarantine.
    ///
    /// # Cancel safety
    /// Same as [`publish`](Self::publish).
    pub async fn publish_json(&self, event: &Serialized) -> Result<EventId, Error> {
        let mut results = self.publish_json_batch(std::slice::from_ref(event)).await;
        results.pop().expect("one event has one result")
    }

    /// Publishes events that are already JSON, in the same way as [`publish_batch`](Self::publish_batch).
    ///
    /// # Cancel safety
    /// Same as [`publish`](Self::publish).
    pub async fn publish_json_batch(&self, events: &[Serialized]) -> Vec<Result<EventId, Error>> {
        self.publish_windows(events, Serialized::clone).await
    }

    /// Waits for pending publishes, including those of clones, and closes the connection.
    ///
    /// New publishes are rejected with [`Error::Closed`], and batches end after their current window. The
    /// wait takes at most one publish timeout plus one second.
    pub async fn shutdown(self) {
        /// Additional time beyond the publish timeout, because a publish also encodes and validates its
        /// events.
        const GRACE: Duration = Duration::from_secs(1);
        let Shared { calls, config, .. } = &*self.shared;
        calls.close();
        // A publish that is still pending after this time returns its own error.
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

/// Validates an event with the parser that workers use, and its timestamp against the clock.
fn check(event: Serialized) -> Result<webhook::Event, Error> {
    let Serialized {
        body,
        message_id,
        traceparent,
    } = event;
    #[expect(
        clippy::disallowed_methods,
        reason = "this crate is linked into other programs, and does not depend on `runtime`"
    )]
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
