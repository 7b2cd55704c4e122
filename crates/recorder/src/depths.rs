//! Measures queue lengths and pending deliveries for `/metrics`.

use std::time::Duration;

use broker::{Link, Topology};
use store::{Pending, Store};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{meters, now_ms};

/// The interval between two measurements: about as often as metrics are usually scraped.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// The maximum time to wait for the broker. Values that it does not report in time are unknown. The database
/// has its own timeout.
const LOOK_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Depths {
    pub(crate) link: Link,
    pub(crate) topology: Topology,
    pub(crate) store: Store,
}

impl Depths {
    /// Measures repeatedly and never returns. An unknown value is reported as `NaN`.
    pub(crate) async fn run(self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            tokio::join!(self.look_at_queues(), self.look_at_journal());
        }
    }

    async fn look_at_queues(&self) {
        let depths = timeout(LOOK_MAX, self.topology.depths(&self.link)).await;
        let unknown = || self.topology.queues().into_iter().map(|queue| (queue.name, None));
        let depths = depths
            .ok()
            .and_then(Result::ok)
            .unwrap_or_else(|| unknown().collect());
        for (queue, ready) in depths {
            let level = meters::QUEUE_READY.level([self.topology.own_name(&queue)]);
            level.set(ready.map_or(f64::NAN, f64::from));
        }
    }

    async fn look_at_journal(&self) {
        let age_s = |oldest_ms| Duration::from_millis(now_ms().saturating_sub(oldest_ms)).as_secs_f64();
        let (count, oldest_s) = match self.store.pending().await {
            Ok(Pending { count, oldest_ms }) => (count as f64, oldest_ms.map_or(0.0, age_s)),
            Err(_) => (f64::NAN, f64::NAN),
        };
        meters::PENDING.level([]).set(count);
        meters::PENDING_OLDEST.level([]).set(oldest_s);
    }
}
