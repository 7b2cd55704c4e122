//! Sending deliveries again, for commands that reach the broker: [sending](service::resend) at a limited rate, with
//! progress, until a signal arrives.

mod pace;
mod progress;

use std::{collections::BTreeSet, mem, time::Duration};

use anyhow::bail;
use broker::Publisher;
use service::resend::{self, CLAIM, Round, Which};
use store::Store;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use webhook::DeliveryId;

use crate::{broker_link::BrokerLink, configuration::Configuration, signals};

pub(crate) use pace::Pace;
pub(crate) use progress::Progress;

/// The interval at which to retry a window that another process has claimed.
const HELD_POLL: Duration = Duration::from_secs(1);
/// A wait for the next window that is at least this long begins only if something is left to send.
const WAIT_LONG: Duration = Duration::from_secs(1);

/// Sends the requested runs.
pub(crate) struct Sender {
    through: resend::Sender,
    broker: BrokerLink,
    pace: Pace,
    progress: Progress,
    stop: CancellationToken,
    sent: u64,
    /// Runs whose event is no longer in the journal.
    unsendable: BTreeSet<DeliveryId>,
}

impl Sender {
    /// Connects to the broker, and stops on signals from here on. `rate` is in deliveries per second.
    pub(crate) async fn start(
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

    /// Returns the number of runs that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Returns whether a signal has arrived.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Adds to the expected number of runs, for the progress.
    pub(crate) fn expect(&self, more: u64) {
        self.progress.expect(more);
    }

    /// Sends all runs at the rate, oldest first, until a signal arrives. Waits for runs that another process
    /// has claimed.
    pub(crate) async fn send(&mut self, which: Which<'_>) -> anyhow::Result<()> {
        let mut is_told = false;
        while self.may_begin().await {
            let claimed = self.window(which).await?;
            // At a low rate, the wait for the next window is long, and there may be nothing left to send.
            if claimed > 0 && self.pace.next() < Instant::now() + WAIT_LONG {
                continue;
            }
            let held = self.unsent(which).await?;
            if held == 0 {
                break;
            }
            if claimed > 0 {
                continue;
            }
            if !is_told {
                self.progress.note(&format!(
                    "another run of this command is sending {held} of these deliveries; waiting for it, at most {CLAIM:?} \
                     if it has ended"
                ));
                is_told = true;
            }
            self.stop.run_until_cancelled(sleep(HELD_POLL)).await;
        }
        Ok(())
    }

    /// Returns the number of requested runs that were not sent yet and can be.
    async fn unsent(&self, which: Which<'_>) -> anyhow::Result<u64> {
        let unsent = self.through.unsent(which).await?;
        let unsendable = match which {
            Which::Endpoint(_) => self.unsendable.len(),
            Which::These(runs) => runs.iter().filter(|run| self.is_unsendable(run)).count(),
        };
        Ok(unsent.saturating_sub(unsendable as u64))
    }

    /// Returns which of these runs were requested and not sent yet.
    pub(crate) async fn unsent_of(&self, runs: &[DeliveryId]) -> anyhow::Result<Vec<DeliveryId>> {
        Ok(self.through.unsent_of(runs).await?)
    }

    /// Returns whether a run was found that can never be sent because its event is gone.
    pub(crate) fn is_unsendable(&self, run: &DeliveryId) -> bool {
        self.unsendable.contains(run)
    }

    /// Closes the connection.
    pub(crate) async fn close(self) {
        self.progress.finish();
        self.broker.close().await;
    }

    /// Closes the connection. Returns an error if any runs can never be sent because their event is gone.
    pub(crate) async fn finish(mut self) -> anyhow::Result<()> {
        let unsendable = mem::take(&mut self.unsendable);
        self.close().await;
        all_have_events(unsendable.iter().map(DeliveryId::as_str))
    }

    /// Waits until the next window may begin. Returns false if a signal arrived.
    async fn may_begin(&self) -> bool {
        let turn = self.stop.run_until_cancelled(sleep_until(self.pace.next())).await;
        turn.is_some() && !self.stop.is_cancelled()
    }

    /// Sends a window and returns the number of claimed runs. A claimed window is always finished, even if a
    /// signal arrives.
    async fn window(&mut self, which: Which<'_>) -> anyhow::Result<u64> {
        let began = Instant::now();
        let Round {
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

/// Returns an error if there are deliveries that can never be sent because their event is gone.
pub(crate) fn all_have_events<'a>(without: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
    let ids: Vec<_> = without.collect();
    if ids.is_empty() {
        return Ok(());
    }
    bail!(
        "the journal no longer contains the events of these deliveries: {}; publish the events again (`magnetite publish`)",
        ids.join(", ")
    )
}
