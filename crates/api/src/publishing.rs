//! Events on their way to the broker: one at a time from clients, many at a time to the broker.
//!
//! ```text
//! request -> queue -> group (all that wait, 256 at most) -> producer: published, confirmed -> request
//! ```
//!
//! A confirm is a wait for the broker's disk, and one for each event would be slow. So while some groups are
//! being confirmed the next one gathers; there are no timers: an event that comes alone goes at once. A
//! request hears of its own event's confirm and of no other's.

use std::{sync::Arc, time::Duration};

use producer::{Error, EventId, NotReady, Producer, Serialized};
use runtime::vital;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::problem::{Kind, Problem};

/// The most events in a group: a window of the producer's.
const GROUP_MAX: usize = 256;
/// The most groups that are being confirmed. More would be smaller, and no faster.
const GROUPS_MAX: usize = 4;
/// The most events that wait for a group; further requests wait to be let in. As many as requests that are
/// worked on.
const WAITING_MAX: usize = 1024;
/// How long a broker that is away or blocks is waited for before a request is told. A connection that was
/// just lost is often back.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a publish may take. A client waits for it.
pub(crate) const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

struct Waiting {
    event: Serialized,
    answer: oneshot::Sender<Result<EventId, Error>>,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Publishing {
    producer: Producer,
    queue: mpsc::Sender<Waiting>,
}

impl Publishing {
    /// Starts to gather. That ends with the last clone.
    pub(crate) fn start(producer: Producer) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(vital("publishing", gather(producer.clone(), waiting)));
        Self { producer, queue }
    }

    /// Publishes an event that was checked, together with what other requests publish now.
    ///
    /// # Errors
    /// When it is not known to be published.
    pub(crate) async fn publish(&self, event: Serialized) -> Result<EventId, Problem> {
        self.ready().await?;
        let (answer, answered) = oneshot::channel();
        let sent = self.queue.send(Waiting { event, answer }).await;
        let answer = match sent {
            Ok(()) => answered.await.ok(),
            Err(_) => None,
        };
        // Without an answer the group's task has panicked, which the log has.
        let answer = answer.ok_or_else(|| unavailable(2))?;
        answer.map_err(|error| unconfirmed(&error))
    }

    /// Publishes events that were checked, in their order. Those that came before an error may be published;
    /// they have the same ids when they are published again.
    ///
    /// # Errors
    /// When one of them is not known to be published: the first one's error.
    pub(crate) async fn publish_batch(&self, events: &[Serialized]) -> Result<Vec<EventId>, Problem> {
        self.ready().await?;
        let results = self.producer.publish_json_batch(events).await;
        let ids: Result<_, Error> = results.into_iter().collect();
        ids.map_err(|error| unconfirmed(&error))
    }

    async fn ready(&self) -> Result<(), Problem> {
        self.producer.ready(PATIENCE).await.map_err(|error| {
            let after_s = if matches!(error, NotReady::Blocked { .. }) {
                30
            } else {
                5
            };
            unavailable(after_s).because(&error)
        })
    }

    /// Waits for what is under way, and closes the connection.
    pub(crate) async fn shutdown(&self) {
        self.producer.clone().shutdown().await;
    }
}

fn unavailable(after_s: u64) -> Problem {
    Problem::new(
        Kind::BrokerUnavailable,
        "Not everything is confirmed to be published. Send the request again: what was published has the same id then, and counts once.",
    )
    .retry_after(after_s)
}

fn unconfirmed(error: &Error) -> Problem {
    let after_s = match error {
        Error::Blocked { .. } | Error::Nacked { .. } | Error::Unroutable { .. } => 30,
        _ => 5,
    };
    unavailable(after_s).because(error)
}

async fn gather(producer: Producer, mut waiting: mpsc::Receiver<Waiting>) {
    let places = Arc::new(Semaphore::new(GROUPS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let place = place.expect("nobody closes the semaphore");
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
        // An error says that the request was given up.
        let _ = answer.send(result);
    }
}
