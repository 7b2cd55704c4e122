//! Sends deliveries again.
//!
//! ```text
//! request (a unique open run) -> claim a window -> publish, confirmed -> mark as sent
//! ```
//!
//! Only runs that were requested and not sent are claimed. Therefore an interrupted operation continues where
//! it stopped when it is repeated, and two at once do not send anything twice. A process that dies between a
//! confirm and the mark leaves a claim. When that claim expires, at most one window is sent a second time,
//! with the same event ids.

mod connection;

use std::{panic, sync::Arc, time::Duration};

use broker::{Outgoing, PublishError, Publisher, Topology};
use runtime::now_ms;
use store::{Claimed, Requested, Store};
use tokio::time::{Instant, sleep};
use webhook::{Delivery, DeliveryId, EndpointId};

pub use connection::{NotReady, Resending};

/// How long other processes leave a claimed window alone. This is longer than a publish and two statements
/// take, each at its own timeout.
pub const CLAIM: Duration = Duration::from_mins(1);
/// How long after it was due a delivery may still be in progress on a worker. Every attempt is recorded
/// within this time, which covers its timeout of 30 s, the commit, and the recorder's own work.
pub const IN_HAND: Duration = Duration::from_secs(90);

/// The number of deliveries in one window of a request. Each has an event of up to 256 KiB.
const WINDOW: u64 = 64;
/// How long a request waits for deliveries that another one has claimed. These are sent within milliseconds,
/// or when the claim expires.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

/// Which of the requested runs are sent.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// Those to this endpoint.
    Endpoint(&'a EndpointId),
    /// These runs.
    These(&'a [DeliveryId]),
}

/// Sends requested runs. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    store: Store,
    publisher: Publisher,
    topology: Arc<Topology>,
}

/// The result of sending one window.
#[derive(Debug, Default)]
pub struct Round {
    /// How many runs were claimed; 0 if there were none that no other process has claimed.
    pub claimed: u64,
    /// How many runs were published and marked as sent.
    pub sent: u64,
    /// Runs whose event is no longer in the journal, or cannot be read.
    pub unsendable: Vec<DeliveryId>,
    /// Why the other runs were not published. They can be claimed again when the claim expires.
    pub failed: Option<PublishError>,
}

/// The result of sending all windows.
#[derive(Debug, Default)]
pub struct Totals {
    /// How many runs were published and marked as sent.
    pub sent: u64,
    /// How many requested runs were not sent: beyond the limit, or claimed by another process.
    pub left: u64,
    /// Runs whose event is no longer in the journal, or cannot be read.
    pub unsendable: Vec<DeliveryId>,
}

/// The reason why sending ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database operation failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The broker does not accept the messages. The remaining runs stay requested.
    #[error("stopped with {sent} sent; the others stay requested: repeat the operation to continue")]
    Publish {
        /// How many runs were sent before.
        sent: u64,
        /// The first failure.
        #[source]
        source: PublishError,
    },
    /// The messages were published, but the database failed before they were marked as sent.
    #[error(
        "stopped with {published} published but not marked as sent: repeating the operation before their attempts are recorded \
         may send them a second time"
    )]
    Unmarked {
        /// How many messages were published.
        published: usize,
        /// Why they were not marked.
        #[source]
        source: store::Error,
    },
}

/// Requests a new run of each of the deliveries, and returns the results in the same order.
///
/// A delivery that has been pending for longer than `late`, and that no worker can still have in hand, is
/// first declared lost.
///
/// # Errors
/// Returns an error if the database operation fails.
pub async fn request(
    store: &Store,
    ids: &[DeliveryId],
    late: Duration,
    now_ms: u64,
) -> Result<Vec<Requested>, store::Error> {
    let before = |duration: Duration| now_ms.saturating_sub(duration.as_millis() as u64);
    for id in ids {
        store
            .declare_lost(id, before(late), before(IN_HAND), now_ms)
            .await?;
    }
    store.request_resends(ids, now_ms).await
}

impl Sender {
    /// Creates a sender that publishes with `publisher` to the queues of `topology`.
    pub fn new(store: Store, publisher: Publisher, topology: Topology) -> Self {
        Self {
            store,
            publisher,
            topology: Arc::new(topology),
        }
    }

    /// Returns the publisher and the topology.
    pub fn way(&self) -> (&Publisher, &Topology) {
        (&self.publisher, &self.topology)
    }

    /// Claims, publishes and marks at most `limit` runs, those of the oldest events first.
    ///
    /// # Errors
    /// Returns an error if the database operation fails, or [`Error::Unmarked`].
    ///
    /// # Cancel safety
    /// This method is safe to drop. A separate task completes what it has started, so that no run stays
    /// claimed, or published but not marked, because the caller stopped waiting.
    pub async fn window(&self, which: Which<'_>, limit: u32) -> Result<Round, Error> {
        let (endpoint, ids) = which.parts();
        let (endpoint, ids) = (endpoint.cloned(), ids.map(<[_]>::to_vec));
        let sender = self.clone();
        let working = tokio::spawn(async move {
            let claimed = sender.claim(endpoint.as_ref(), ids.as_deref(), limit).await?;
            sender.finish(claimed).await
        });
        match working.await {
            Ok(window) => window,
            Err(error) => panic::resume_unwind(error.into_panic()),
        }
    }

    async fn claim(
        &self,
        endpoint: Option<&EndpointId>,
        ids: Option<&[DeliveryId]>,
        limit: u32,
    ) -> Result<Vec<Claimed>, store::Error> {
        let claim_ms = CLAIM.as_millis() as u64;
        self.store
            .claim_requested(endpoint, ids, now_ms(), claim_ms, limit)
            .await
    }

    async fn finish(&self, claimed: Vec<Claimed>) -> Result<Round, Error> {
        let mut window = Round {
            claimed: claimed.len() as u64,
            ..Round::default()
        };
        let mut deliveries = Vec::with_capacity(claimed.len());
        for Claimed { id, delivery } in claimed {
            match delivery {
                Some(delivery) => deliveries.push(delivery),
                None => window.unsendable.push(id),
            }
        }
        let messages: Vec<_> = deliveries
            .iter()
            .map(|delivery| Outgoing::due(&self.topology, delivery))
            .collect();
        let results = self.publisher.publish_all(&messages).await;
        let (confirmed, failed) = split(&deliveries, results);
        if !confirmed.is_empty() {
            let marked = self.store.mark_sent(&confirmed, now_ms()).await;
            marked.map_err(|source| Error::Unmarked {
                published: confirmed.len(),
                source,
            })?;
        }
        window.sent = confirmed.len() as u64;
        window.failed = failed;
        Ok(window)
    }

    /// Returns how many runs were requested and not sent, claimed or not.
    ///
    /// # Errors
    /// Returns an error if the database operation fails.
    pub async fn unsent(&self, which: Which<'_>) -> Result<u64, store::Error> {
        let (endpoint, ids) = which.parts();
        self.store.unsent(endpoint, ids).await
    }

    /// Returns which of these runs were requested and not sent, claimed or not, in any order.
    ///
    /// # Errors
    /// Returns an error if the database operation fails.
    pub async fn unsent_of(&self, runs: &[DeliveryId]) -> Result<Vec<DeliveryId>, store::Error> {
        self.store.unsent_of(runs).await
    }

    /// Sends at most `limit` runs as fast as the broker accepts them. Waits for runs that another process has
    /// claimed, for a few seconds at most.
    ///
    /// # Errors
    /// Returns an error if the database operation fails, or the broker does not accept the messages.
    pub async fn send(&self, which: Which<'_>, limit: u64) -> Result<Totals, Error> {
        let mut all = Totals::default();
        let until = Instant::now() + PATIENCE;
        loop {
            let place = WINDOW.min(limit - all.sent) as u32;
            let window = self.window(which, place).await?;
            all.sent += window.sent;
            all.unsendable.extend(window.unsendable);
            if let Some(source) = window.failed {
                let sent = all.sent;
                return Err(Error::Publish { sent, source });
            }
            if window.claimed > 0 && all.sent < limit {
                continue;
            }
            let unsent = self.unsent(which).await?;
            all.left = unsent.saturating_sub(all.unsendable.len() as u64);
            if all.left == 0 || all.sent == limit || Instant::now() >= until {
                return Ok(all);
            }
            sleep(POLL).await;
        }
    }
}

impl<'a> Which<'a> {
    fn parts(self) -> (Option<&'a EndpointId>, Option<&'a [DeliveryId]>) {
        match self {
            Self::Endpoint(id) => (Some(id), None),
            Self::These(ids) => (None, Some(ids)),
        }
    }
}

/// Returns the ids of the confirmed deliveries, and the first failure.
fn split(
    deliveries: &[Delivery],
    results: Vec<Result<(), PublishError>>,
) -> (Vec<DeliveryId>, Option<PublishError>) {
    let (mut confirmed, mut failed) = (Vec::new(), None);
    for (delivery, result) in deliveries.iter().zip(results) {
        match result {
            Ok(()) => confirmed.push(delivery.id()),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    (confirmed, failed)
}
