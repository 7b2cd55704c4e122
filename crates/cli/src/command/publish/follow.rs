//! The results of a published event's deliveries, read from the journal.

use std::{fmt, time::Duration};

use anyhow::bail;
use serde::Serialize;
use store::Store;
use tokio::time::{Instant, sleep_until};
use webhook::{
    EventId, OrganizationId,
    journal::{DeliveryState, EventEntry},
};

use crate::{Usage, configuration::Configuration, database};

use super::super::arguments;

/// The interval at which the journal is read.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Waits until the deliveries of events have ended, for a limited time per event.
pub(super) struct Follower {
    store: Store,
    limit: Duration,
}

/// The maximum time to wait for an event.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    /// As long as its deliveries may take.
    Schedule,
    /// This duration.
    Of(Duration),
}

/// The number of an event's deliveries in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Fate {
    delivered: u64,
    dead: u64,
    cancelled: u64,
    /// Deliveries that are pending, and matched endpoints whose delivery is not recorded yet.
    pending: u64,
    /// Whether the event is in the journal.
    recorded: bool,
}

impl Limit {
    /// Parses the value of `--wait`. An empty text means that no limit is given.
    pub(super) fn parse(text: &str) -> Result<Self, Usage> {
        if text.is_empty() {
            return Ok(Self::Schedule);
        }
        arguments::wait(text).map(Self::Of)
    }
}

impl Follower {
    pub(super) async fn open(configuration: &Configuration, limit: Limit) -> anyhow::Result<Self> {
        if !configuration.worker.journal {
            bail!("--wait needs the journal, but journal.enabled is false: publish without --wait");
        }
        Ok(Self {
            store: database::open(&configuration.database).await?,
            limit: match limit {
                Limit::Schedule => configuration.late(),
                Limit::Of(limit) => limit,
            },
        })
    }

    /// Waits until none of the event's deliveries is pending, or the limit has passed. An id is unique only
    /// within an organization; without an organization, counts the deliveries of all events with this id.
    pub(super) async fn fate(
        &self,
        id: &EventId,
        organization: Option<&OrganizationId>,
    ) -> anyhow::Result<Fate> {
        let deadline = Instant::now() + self.limit;
        loop {
            let mut fate = Fate::default();
            for event in self.store.event(id, organization).await? {
                self.add(&event, &mut fate).await?;
            }
            let now = Instant::now();
            if fate.has_ended() || now >= deadline {
                return Ok(fate);
            }
            sleep_until(deadline.min(now + LOOK_EVERY)).await;
        }
    }

    async fn add(&self, event: &EventEntry, fate: &mut Fate) -> anyhow::Result<()> {
        let (id, organization) = (&event.event.id, &event.event.organization_id);
        let deliveries = self.store.deliveries_of_event(organization, id).await?;
        let first_runs: Vec<_> = deliveries.iter().filter(|row| row.delivery.run == 0).collect();
        fate.recorded = true;
        for row in &first_runs {
            match row.standing.state {
                DeliveryState::Pending => fate.pending += 1,
                DeliveryState::Cancelled => fate.cancelled += 1,
                DeliveryState::Dead => fate.dead += 1,
                DeliveryState::Delivered => fate.delivered += 1,
            }
        }
        let unrecorded = event
            .considered
            .matched()
            .count()
            .saturating_sub(first_runs.len());
        fate.pending += unrecorded as u64;
        Ok(())
    }

    pub(super) async fn close(self) {
        self.store.close().await;
    }
}

impl Fate {
    pub(super) const fn has_ended(&self) -> bool {
        self.recorded && self.pending == 0
    }

    /// Returns whether every endpoint that the event matched has received it.
    pub(super) const fn is_good(&self) -> bool {
        self.has_ended() && self.dead == 0 && self.cancelled == 0
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.recorded {
            return f.write_str("not in the journal yet");
        }
        let counts = [
            ("delivered", self.delivered),
            ("dead", self.dead),
            ("cancelled", self.cancelled),
            ("pending", self.pending),
        ];
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let texts: Vec<_> = counts.map(|(state, count)| format!("{state} {count}")).collect();
        if texts.is_empty() {
            return f.write_str("no endpoint matched");
        }
        f.write_str(&texts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fate_says_what_there_is_of_it() {
        let fate = Fate {
            recorded: true,
            ..Fate::default()
        };
        let mixed = Fate {
            delivered: 2,
            dead: 1,
            ..fate
        };
        let pending = Fate { pending: 1, ..mixed };
        for (fate, text, is_good) in [
            (Fate::default(), "not in the journal yet", false),
            (fate, "no endpoint matched", true),
            (mixed, "delivered 2, dead 1", false),
            (pending, "delivered 2, dead 1, pending 1", false),
            (Fate { delivered: 1, ..fate }, "delivered 1", true),
        ] {
            assert_eq!((fate.to_string().as_str(), fate.is_good()), (text, is_good));
        }
        assert!(!pending.has_ended() && mixed.has_ended());
    }
}
