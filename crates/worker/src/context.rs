//! State shared by all tasks of one worker.

use std::sync::Arc;

use broker::{Link, Topology};
use runtime::Lasting;
use tokio_util::sync::CancellationToken;
use webhook::journal::Record;

use crate::{
    Config, admission::Admission, gone::Gone, meters::Meters, presence::Presence, pulse::Pulse,
    registry::Registry, relay::Relay, tails::Tails,
};

/// State shared by all tasks of one worker, behind an `Arc`.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) topology: Topology,
    pub(crate) registry: Registry,
    pub(crate) presence: Presence,
    pub(crate) pulse: Pulse,
    pub(crate) admission: Arc<Admission>,
    pub(crate) store: store::Store,
    pub(crate) egress: egress::Egress,
    /// Makes the attempts of endpoints that are relays.
    pub(crate) relay: Relay,
    /// The connection that the committer publishes over.
    pub(crate) publishing: Link,
    pub(crate) gone: Gone,
    /// Tracks failures to look up the endpoint of a due delivery in the database.
    pub(crate) look_ups: Lasting,
    /// Tracks attempts that fail because of faults on our side.
    pub(crate) faults: Lasting,
    pub(crate) meters: Meters,
    /// The commands that watch this worker.
    pub(crate) tails: Arc<Tails>,
    /// Cancelled when the worker must not take new work.
    pub(crate) stop: CancellationToken,
    /// Cancelled when attempts in flight have to be aborted.
    pub(crate) abort: CancellationToken,
}

impl Context {
    /// Returns the record that `make` creates, or `None` if the journal is disabled.
    pub(crate) fn record(&self, make: impl FnOnce() -> Record) -> Option<Record> {
        self.config.journal.then(make)
    }

    /// Waits until a slow attempt can be moved to a held message: until the worker has a queue of held
    /// deliveries and the broker accepts publishes.
    ///
    /// Never returns during a shutdown, because the worker no longer consumes its own queue.
    pub(crate) async fn may_hold(&self) {
        self.topology.has_held_queue().await;
        let is_writable = self.publishing.writable().await.is_ok();
        if !is_writable || self.stop.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }
}
