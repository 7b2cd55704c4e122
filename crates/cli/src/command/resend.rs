//! What `delivery resend` and `endpoint recover` share: [sending again](service::resend) at a rate, with
//! progress, until a signal comes.

mod pace;
mod progress;

use std::{collections::BTreeSet, time::Duration};

use anyhow::bail;
use broker::Publisher;
use service::resend::{self, CLAIM, Which, Window};
use store::Store;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use webhook::DeliveryId;

use crate::{broker_link::BrokerLink, configuration::Configuration, signals};

use pace::Pace;
use progress::Progress;

/// How often a window that another process holds is looked at.
const HELD_POLL: Duration = Duration::from_secs(1);

/// Sends what was requested.
pub(super) struct Sender {
    through: resend::Sender,
    broker: BrokerLink,
    pace: Pace,
    progress: Progress,
    stop: CancellationToken,
    sent: u64,
    /// Those whose event is not in the journal any more.
    unsendable: BTreeSet<DeliveryId>,
}

impl Sender {
    /// Connects to the broker, and listens for signals from here on. `rate` is in deliveries a second.
    pub(super) async fn start(
        store: &Store,
        configuration: &Configuration,
        rate: f64,
    ) -> anyhow::Result<Self> {
        let config = configuration.broker.config();
        let broker = BrokerLink::open(&config).await?;
        let publisher = Publisher::new(broker.link.clone(), &config);
        Ok(Self {
            through: resend::Sender::new(store.clone(), publisher, configuration.topology()),
            broker,
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

    /// Sends all of it, oldest first, at the rate; or as much as goes until a signal comes. What another
    /// process has claimed is waited for.
    pub(super) async fn send(&mut self, which: Which<'_>) -> anyhow::Result<()> {
        let mut is_told = false;
        while self.may_begin().await {
            if self.window(which).await? > 0 {
                continue;
            }
            let unsent = self.through.unsent(which).await?;
            let held = unsent.saturating_sub(self.unsendable.len() as u64);
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

    /// Sends a window, and returns how many it claimed. Once claimed, it is finished, whatever signal comes.
    async fn window(&mut self, which: Which<'_>) -> anyhow::Result<u64> {
        let began = Instant::now();
        let Window {
            claimed,
            sent,
            unsendable,
            failed,
        } = self.through.window(which, self.pace.window()).await?;
        let published = claimed as usize - unsendable.len();
        self.unsendable.extend(unsendable);
        self.sent += sent;
        self.progress.advance(sent);
        self.pace.spend(published, began);
        match failed {
            None => Ok(claimed),
            Some(source) => Err(resend::Error::Publish {
                sent: self.sent,
                source,
            }
            .into()),
        }
    }
}
