//! Reports for `/readyz` whether the API can do its main job: publish events.
//!
//! An API that cannot write to the database, or cannot send deliveries again, still publishes. It stays ready
//! and reports itself as degraded.

use std::time::Duration;

use broker::{BLOCKED, Link, Refusal, RefusalKind, Topology};
use producer::Producer;
use runtime::send_if_changed;
use tokio::{sync::watch, time::sleep};

/// The interval between two reports.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) struct Readiness {
    /// Receives the reason why the API is not ready.
    pub(crate) ready: watch::Sender<Option<String>>,
    /// Receives the reason why the API is degraded.
    pub(crate) degraded: watch::Sender<Option<String>>,
    /// Publishes events.
    pub(crate) producer: Producer,
    /// Publishes deliveries that are sent again. On this connection, the broker announces an alarm before
    /// anything is published.
    pub(crate) resending: Link,
    pub(crate) topology: Topology,
    /// Why this process could not write its row in the table of roles the last time, which it does every
    /// second; `None` if it could.
    pub(crate) database: watch::Receiver<Option<String>>,
}

impl Readiness {
    /// Reports what the API can do. Never returns.
    pub(crate) async fn watch(&self) {
        let (events, deliveries) = (
            [self.topology.events_exchange()],
            [self.topology.deliveries_exchange()],
        );
        let reporting = async {
            loop {
                send_if_changed(&self.ready, self.waits_for());
                send_if_changed(&self.degraded, self.is_degraded());
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::join!(
            self.producer.link().watch_permissions(&self.topology, &events),
            self.resending.watch_permissions(&self.topology, &deliveries),
            reporting,
        );
    }

    fn waits_for(&self) -> Option<String> {
        let link = self.producer.link();
        if !link.is_up() {
            return Some("connecting to the broker".to_owned());
        }
        if link.is_blocked() || self.resending.is_blocked() {
            return Some(BLOCKED.to_owned());
        }
        let refusal = link.refusals().into_iter().next()?;
        Some(format!(
            "{}; requests to publish events are answered with 503",
            refusal.why
        ))
    }

    fn is_degraded(&self) -> Option<String> {
        let database = self.database.borrow().clone();
        let database = database.map(|why| {
            format!("{why}; only publishing works, and only for API keys that were used within the last hour")
        });
        database.or_else(|| {
            let refusals = self.resending.refusals().into_iter();
            let mut refusals = refusals.filter(|refusal: &Refusal| refusal.kind == RefusalKind::Exchange);
            let refusal = refusals.next()?;
            Some(format!("{}; deliveries cannot be sent again", refusal.why))
        })
    }
}
