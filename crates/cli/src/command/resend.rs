//! Sending again: what `delivery resend` and `endpoint recover` share.
//!
//! ```text
//! request (a run that is open, unique) -> claim a window -> publish, confirmed -> mark sent
//! ```
//!
//! Only what was requested and not sent is claimed, so that whatever interrupts this, running it again goes on where it
//! stopped, and two at once send nothing twice. A process that dies between a confirm and its mark leaves a claim; when
//! that has run out, at most one window is sent a second time, under the same event id.

mod pace;
mod progress;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use broker::{Outgoing, PublishError, Publisher, Topology};
use store::{Claimed, Store};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use webhook::{Delivery, DeliveryId, EndpointId};

use crate::{broker_link::BrokerLink, clock, configuration::Configuration, signals};

use super::topology;
use pace::Pace;
use progress::Progress;

/// Longer than a publish and two statements take, each at its own limit.
const CLAIM: Duration = Duration::from_mins(1);
/// How often a window that another process holds is looked at.
const HELD_POLL: Duration = Duration::from_secs(1);

/// What is sent of all that was requested.
#[derive(Clone, Copy)]
pub(super) enum Which<'a> {
    Endpoint(&'a EndpointId),
    These(&'a [DeliveryId]),
}

/// Sends what was requested.
pub(super) struct Sender<'a> {
    store: &'a Store,
    broker: BrokerLink,
    publisher: Publisher,
    topology: Topology,
    pace: Pace,
    progress: Progress,
    stop: CancellationToken,
    sent: u64,
    /// Those whose event is not in the journal any more.
    unsendable: BTreeSet<DeliveryId>,
}

impl<'a> Sender<'a> {
    /// Connects to the broker, and listens for signals from here on. `rate` is in deliveries a second.
    pub(super) async fn start(
        store: &'a Store,
        configuration: &Configuration,
        rate: f64,
    ) -> anyhow::Result<Self> {
        let config = configuration.broker.config();
        let broker = BrokerLink::open(&config).await?;
        Ok(Self {
            store,
            publisher: Publisher::new(broker.link.clone(), &config),
            broker,
            topology: topology::of(configuration),
            pace: Pace::new(rate, Instant::now()),
            progress: Progress::start(),
            stop: signals::stop_on_signal()?,
            sent: 0,
            unsendable: BTreeSet::new(),
        })
    }

    /// How many were sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether a signal asked to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// How many there will be, as far as that is known.
    pub(super) fn expect(&self, more: u64) {
        self.progress.expect(more);
    }

    /// Sends all of it, oldest first, at the rate; or as much as goes until a signal comes. What another process has claimed
    /// is waited for.
    pub(super) async fn send(&mut self, which: Which<'_>) -> anyhow::Result<()> {
        let mut is_told = false;
        while self.may_begin().await {
            let claimed = self.claim(which).await?;
            if !claimed.is_empty() {
                self.window(claimed).await?;
                continue;
            }
            let held = self
                .unsent(which)
                .await?
                .saturating_sub(self.unsendable.len() as u64);
            if held == 0 {
                break;
            }
            if !is_told {
                self.progress.note(&format!(
                    "waiting for {held} that another run of this command has in its hands, for {CLAIM:?} at most if it \
                     is there no more"
                ));
                is_told = true;
            }
            self.stop.run_until_cancelled(sleep(HELD_POLL)).await;
        }
        Ok(())
    }

    /// Ends the connection. Fails if anything could not be sent for good.
    pub(super) async fn finish(self) -> anyhow::Result<()> {
        self.progress.finish();
        self.broker.close().await;
        if self.unsendable.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = self.unsendable.iter().map(DeliveryId::as_str).collect();
        bail!(
            "the journal has no event any more for {}: publish it again (`magnetite publish`)",
            ids.join(", ")
        )
    }

    /// Waits for the window's turn; false when a signal came.
    async fn may_begin(&self) -> bool {
        let turn = self.stop.run_until_cancelled(sleep_until(self.pace.next())).await;
        turn.is_some() && !self.stop.is_cancelled()
    }

    async fn claim(&self, which: Which<'_>) -> anyhow::Result<Vec<Claimed>> {
        let (endpoint, ids) = which.parts();
        let (now_ms, claim_ms) = (clock::now_ms(), CLAIM.as_millis() as u64);
        let window = self.pace.window();
        Ok(self
            .store
            .claim_requested(endpoint, ids, now_ms, claim_ms, window)
            .await?)
    }

    async fn unsent(&self, which: Which<'_>) -> anyhow::Result<u64> {
        let (endpoint, ids) = which.parts();
        Ok(self.store.unsent(endpoint, ids).await?)
    }

    /// Once claimed, a window is finished, whatever signal comes.
    async fn window(&mut self, claimed: Vec<Claimed>) -> anyhow::Result<()> {
        let began = Instant::now();
        let deliveries: Vec<Delivery> = claimed
            .iter()
            .filter_map(|claimed| claimed.delivery.clone())
            .collect();
        let lost = claimed.into_iter().filter(|claimed| claimed.delivery.is_none());
        self.unsendable.extend(lost.map(|claimed| claimed.id));
        let messages: Vec<Outgoing> = deliveries
            .iter()
            .map(|delivery| Outgoing::due(&self.topology, delivery))
            .collect();
        let results = self.publisher.publish_all(&messages).await;
        let (confirmed, failed) = split(&deliveries, results);
        if !confirmed.is_empty() {
            self.store
                .mark_sent(&confirmed, clock::now_ms())
                .await
                .with_context(|| published_unmarked(&confirmed))?;
        }
        self.sent += confirmed.len() as u64;
        self.progress.advance(confirmed.len() as u64);
        self.pace.spend(messages.len(), began);
        match failed {
            None => Ok(()),
            Some(error) => Err(anyhow!(error).context(format!(
                "stopped after {} were sent; the rest stays requested: run the same command again to go on",
                self.sent
            ))),
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

fn published_unmarked(confirmed: &[DeliveryId]) -> String {
    format!(
        "{} deliveries were published and could not be marked as sent: running this again within their attempts' time \
         may send them once more",
        confirmed.len()
    )
}
