//! Publishing of events. Events of requests that contain a single one are published to the broker in groups.
//!
//! ```text
//! request -> queue -> group (all that wait, 256 at most) -> producer: published, confirmed -> request
//! ```
//!
//! A confirm waits for the broker's disk, so waiting for one event at a time would be slow. Therefore the
//! next group gathers while earlier groups are being confirmed. There are no timers: an event that arrives
//! alone is published at once. A request waits only for the confirm of its own event.

use std::{sync::Arc, time::Duration};

use producer::{EventId, NotReady, Producer, Serialized};
use runtime::vital;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// The maximum number of events in a group, which is one window of the producer.
const GROUP_MAX: usize = 256;
/// The maximum number of groups that are being confirmed. More groups would be smaller, and no faster.
const GROUPS_MAX: usize = 4;
/// The maximum number of events that wait for a group, equal to the maximum number of requests in progress.
/// Further requests wait until there is room.
const WAITING_MAX: usize = 1024;
/// How long to wait for a broker that is unavailable or blocks the connection, before the request is answered
/// with an error. A connection that was just lost is often restored within this time.
const PATIENCE: Duration = Duration::from_secs(1);
/// The maximum time for a publish. A client waits for it.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

struct Waiting {
    event: Serialized,
    answer: oneshot::Sender<Result<EventId, producer::Error>>,
}

/// The reason why events are not known to be published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker does not accept messages. Nothing was published.
    #[error("the broker does not accept messages")]
    NotReady(#[source] NotReady),
    /// At least one event is not known to be published.
    #[error("not every event is confirmed as published")]
    Unconfirmed(#[source] producer::Error),
    /// The task of the event's group has panicked, which is logged.
    #[error("it is unknown whether the event was published: the task that publishes it panicked")]
    Abandoned,
}

impl Error {
    /// Returns how long to wait before trying again.
    pub fn retry_after(&self) -> Duration {
        use producer::Error as E;
        let after_s = match self {
            Self::NotReady(NotReady::Blocked { .. })
            | Self::Unconfirmed(E::Blocked { .. } | E::Nacked { .. } | E::Unroutable { .. }) => 30,
            Self::NotReady(_) | Self::Unconfirmed(_) => 5,
            Self::Abandoned => 2,
        };
        Duration::from_secs(after_s)
    }
}

/// Publishes events for all requests. Cheap to clone.
#[derive(Clone)]
pub struct Publishing {
    producer: Producer,
    queue: mpsc::Sender<Waiting>,
}

impl Publishing {
    /// Starts the task that gathers events. It ends when the last clone is dropped.
    pub fn start(producer: Producer) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(vital("publishing", gather(producer.clone(), waiting)));
        Self { producer, queue }
    }

    /// Publishes an event that has been checked, together with those of concurrent requests.
    ///
    /// # Errors
    /// Returns an error if the event is not known to be published.
    pub async fn publish(&self, event: Serialized) -> Result<EventId, Error> {
        self.ready().await?;
        let (answer, answered) = oneshot::channel();
        let sent = self.queue.send(Waiting { event, answer }).await;
        let answer = match sent {
            Ok(()) => answered.await.ok(),
            Err(_) => None,
        };
        answer.ok_or(Error::Abandoned)?.map_err(Error::Unconfirmed)
    }

    /// Publishes events that have been checked, in their order. If there is an error, some of them may have
    /// been published; they have the same ids when they are published again.
    ///
    /// # Errors
    /// Returns the first error if any event is not known to be published.
    pub async fn publish_batch(&self, events: &[Serialized]) -> Result<Vec<EventId>, Error> {
        self.ready().await?;
        let results = self.producer.publish_json_batch(events).await;
        let ids: Result<_, producer::Error> = results.into_iter().collect();
        ids.map_err(Error::Unconfirmed)
    }

    async fn ready(&self) -> Result<(), Error> {
        self.producer.ready(PATIENCE).await.map_err(Error::NotReady)
    }

    /// Waits for publishes in flight, and closes the connection.
    pub async fn shutdown(&self) {
        self.producer.clone().shutdown().await;
    }
}

async fn gather(producer: Producer, mut waiting: mpsc::Receiver<Waiting>) {
    let places = Arc::new(Semaphore::new(GROUPS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let mut group = Vec::new();
        if waiting.recv_many(&mut group, GROUP_MAX).await == 0 {
            return;
        }
        let producer = producer.clone();
        tokio::spawn(async move {
            publish(&producer, group).await;
            drop(place);
        });
    }
}

async fn publish(producer: &Producer, group: Vec<Waiting>) {
    let (events, answers): (Vec<_>, Vec<_>) = group
        .into_iter()
        .map(|waiting| (waiting.event, waiting.answer))
        .unzip();
    let results = producer.publish_json_batch(&events).await;
    for (answer, result) in answers.into_iter().zip(results) {
        // An error means that the request has been abandoned.
        let _ = answer.send(result);
    }
}
