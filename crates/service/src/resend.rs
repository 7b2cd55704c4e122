//! Sends deliveries again.
//!
//! ```text
//! request (a run that is open, unique) -> claim a window -> publish, confirmed -> mark sent
//! ```
//!
//! Only what was requested and not sent is claimed, so that whatever interrupts this, doing it again goes on
//! where it stopped, and two at once send nothing twice. A process that dies between a confirm and its mark
//! leaves a claim; when that has run out, at most one window is sent a second time, under the same event id.

use std::{panic, sync::Arc, time::Duration};

use broker::{Outgoing, PublishError, Publisher, Topology};
use runtime::now_ms;
use store::{Claimed, Requested, Store};
use tokio::time::{Instant, sleep};
use webhook::{Delivery, DeliveryId, EndpointId};

/// How long others leave a claimed window alone: longer than a publish and two statements take, each at its
/// own limit.
pub const CLAIM: Duration = Duration::from_mins(1);
/// Every attempt is recorded within its timeout of 30 s, the commit and the recorder's own work.
pub const IN_HAND: Duration = Duration::from_secs(90);

/// Deliveries in one window of a request, each with up to 256 KiB of an event.
const WINDOW: u64 = 64;
/// How long a request waits for what another one has claimed, which is done in milliseconds or when the claim
/// is over.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

/// What is sent of all that was requested.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// What is for this endpoint.
    Endpoint(&'a EndpointId),
    /// These runs.
    These(&'a [DeliveryId]),
}

/// Sends what was requested. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    store: Store,
    publisher: Publisher,
    topology: Arc<Topology>,
}

/// What became of a window.
#[derive(Debug, Default)]
pub struct Window {
    /// How many were claimed; 0 when there was nothing that nobody else has.
    pub claimed: u64,
    /// How many were published, and marked.
    pub sent: u64,
    /// Those whose event is not in the journal any more.
    pub unsendable: Vec<DeliveryId>,
    /// Why the others were not published. They can be claimed again when the claim is over.
    pub failed: Option<PublishError>,
}

/// What became of all that was to be sent.
#[derive(Debug, Default)]
pub struct Totals {
    /// How many were published, and marked.
    pub sent: u64,
    /// Requested and not sent: beyond the limit, or in somebody else's hands.
    pub left: u64,
    /// Those whose event is not in the journal any more.
    pub unsendable: Vec<DeliveryId>,
}

/// Why sending ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database's.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The broker does not take them. The rest stays requested.
    #[error("stopped after {sent} were sent; the rest stays requested: do the same again to go on")]
    Publish {
        /// How many were sent before.
        sent: u64,
        /// The first failure.
        #[source]
        source: PublishError,
    },
    /// The database was gone just then.
    #[error(
        "{published} deliveries were published and could not be marked as sent: doing this again within their attempts' time may send \
         them once more"
    )]
    Unmarked {
        /// How many.
        published: usize,
        /// Why not.
        #[source]
        source: store::Error,
    },
}

/// Asks for each of the deliveries to be made again; returns what became of each, in their order. One that
/// has been pending for longer than `late`, and that nobody can have in hand, is taken for lost first.
///
/// # Errors
/// Only the database's.
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
    /// Publishes with `publisher` to the queues of `topology`.
    pub fn new(store: Store, publisher: Publisher, topology: Topology) -> Self {
        Self {
            store,
            publisher,
            topology: Arc::new(topology),
        }
    }

    /// What it publishes with.
    pub fn way(&self) -> (&Publisher, &Topology) {
        (&self.publisher, &self.topology)
    }

    /// Claims, publishes and marks at most `limit`, those of the oldest events first.
    ///
    /// # Errors
    /// The database's, and [`Error::Unmarked`].
    ///
    /// # Cancel safety
    /// Safe to drop: a task of its own finishes what it has begun, so that nothing stays claimed, or
    /// published and not marked, because somebody waits no longer.
    pub async fn window(&self, which: Which<'_>, limit: u32) -> Result<Window, Error> {
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

    async fn finish(&self, claimed: Vec<Claimed>) -> Result<Window, Error> {
        let mut window = Window {
            claimed: claimed.len() as u64,
            ..Window::default()
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

    /// How many were requested and not sent, claimed or not.
    ///
    /// # Errors
    /// Only the database's.
    pub async fn unsent(&self, which: Which<'_>) -> Result<u64, store::Error> {
        let (endpoint, ids) = which.parts();
        self.store.unsent(endpoint, ids).await
    }

    /// Sends at most `limit` as fast as the broker takes them. What somebody else has claimed is waited for,
    /// but not for long.
    ///
    /// # Errors
    /// The database's, and the broker's.
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

/// The ids that a queue holds, and the first failure.
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
