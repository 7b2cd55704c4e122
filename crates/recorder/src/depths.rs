//! How much waits, in the queues and in the journal, for `/metrics`.

use std::time::Duration;

use broker::{InspectError, Link, Topology};
use runtime::display_chain;
use store::Store;
use tokio::time::{MissedTickBehavior, interval};

use crate::{meters, now_ms};

/// As often as metrics are usually scraped.
const LOOK_EVERY: Duration = Duration::from_secs(15);

pub(crate) struct Depths {
    pub(crate) link: Link,
    pub(crate) topology: Topology,
    pub(crate) store: Store,
}

impl Depths {
    /// Looks again and again, without an end. What cannot be read keeps its last value: other metrics say that the broker or the database
    /// is away.
    pub(crate) async fn run(self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if let Err(error) = self.look_at_queues().await {
                tracing::debug!(error = display_chain(&error), "the queues cannot be looked at");
            }
            if let Err(error) = self.look_at_journal().await {
                tracing::debug!(
                    error = display_chain(&error),
                    "pending deliveries cannot be counted"
                );
            }
        }
    }

    async fn look_at_queues(&self) -> Result<(), InspectError> {
        for queue in self.topology.check(&self.link).await?.into_iter().flatten() {
            let ready = meters::QUEUE_READY.level([self.topology.own_name(&queue.name)]);
            ready.set(f64::from(queue.ready));
        }
        Ok(())
    }

    async fn look_at_journal(&self) -> Result<(), store::Error> {
        let pending = self.store.pending().await?;
        meters::PENDING.level([]).set(pending.count as f64);
        let oldest_ms = pending
            .oldest_ms
            .map_or(0, |oldest_ms| now_ms().saturating_sub(oldest_ms));
        let oldest = Duration::from_millis(oldest_ms);
        meters::PENDING_OLDEST.level([]).set(oldest.as_secs_f64());
        Ok(())
    }
}
