//! Reports for `/readyz` whether the worker can do its main job: consume its queues, and publish what has to
//! be published before each ack.
//!
//! If the broker does not accept the worker's journal records, the worker still delivers. It stays ready and
//! reports itself as degraded.

use std::{sync::Arc, time::Duration};

use broker::{BLOCKED, Link, Refusal, RefusalKind, Topology};
use runtime::send_if_changed;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{Context, SOURCES};

/// The interval between two reports, unless something changes sooner.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) struct Readiness {
    /// Receives what the worker is waiting for; `None` while it is ready.
    pub(crate) ready: watch::Sender<Option<String>>,
    pub(crate) publishing: Link,
    pub(crate) consuming: Link,
    /// Which queues are being consumed.
    pub(crate) consumes: watch::Receiver<[bool; SOURCES.len()]>,
}

impl Readiness {
    /// Reports until `stop` is cancelled.
    pub(crate) async fn watch(mut self, context: Arc<Context>, stop: CancellationToken) {
        let topology = &context.topology;
        let published_to = [String::new(), topology.deliveries_exchange()];
        let publishing = self.publishing.clone();
        let asking = publishing.watch_permissions(topology, &published_to);
        let reporting = async {
            loop {
                self.report(&context);
                self.changed().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = asking => unreachable!("watching permissions never ends"),
            () = reporting => unreachable!("the loop never ends"),
        }
    }

    fn report(&mut self, context: &Context) {
        let (record, work): (Vec<_>, Vec<_>) = self
            .publishing
            .refusals()
            .into_iter()
            // The worker publishes to this exchange only to check whether the binding exists. It can deliver
            // without permission to do so.
            .filter(|refusal| refusal.target != context.topology.events_exchange())
            .partition(|refusal| is_of_the_journal(refusal, &context.topology));
        let waits_for = self.waits_for(work);
        send_if_changed(&self.ready, waits_for);
        let unrecorded = record.into_iter().next().map(|refusal| refusal.why);
        context.presence.cannot_record(unrecorded);
    }

    fn waits_for(&mut self, refused: Vec<Refusal>) -> Option<String> {
        let consumes_all = self.consumes.borrow_and_update().iter().all(|consumed| *consumed);
        let publishing = &self.publishing;
        if !publishing.is_up() {
            return Some("connecting to the broker".to_owned());
        }
        if publishing.is_blocked() {
            return Some(BLOCKED.to_owned());
        }
        if let Some(refusal) = refused.into_iter().next() {
            return Some(refusal.why);
        }
        (!consumes_all).then(|| {
            let refusal = self.consuming.refusals().into_iter().next();
            let waits_for = "connecting to the broker, or declaring its queues";
            refusal.map_or_else(|| waits_for.to_owned(), |refusal| refusal.why)
        })
    }

    /// Waits until the answer may have changed.
    async fn changed(&mut self) {
        tokio::select! {
            () = self.publishing.changed() => {}
            // An error means that the consumers have ended, and their state does not change any more.
            Ok(()) = self.consumes.changed() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

fn is_of_the_journal(refusal: &Refusal, topology: &Topology) -> bool {
    refusal.kind == RefusalKind::Queue && refusal.target == topology.journal()
}
