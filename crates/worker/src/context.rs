//! What every task of one worker shares.

use std::sync::Arc;

use broker::{Link, Topology};
use runtime::Lasting;
use tokio_util::sync::CancellationToken;
use webhook::journal::Record;

use crate::{
    Config, admission::Admission, gone::Gone, meters::Meters, presence::Presence, pulse::Pulse,
    registry::Registry, tails::Tails,
};

/// Shared behind an `Arc`.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) topology: Topology,
    pub(crate) registry: Registry,
    pub(crate) presence: Presence,
    pub(crate) pulse: Pulse,
    pub(crate) admission: Arc<Admission>,
    pub(crate) store: store::Store,
    pub(crate) egress: egress::Egress,
    /// What the committer publishes over.
    pub(crate) publishing: Link,
    pub(crate) gone: Gone,
    /// The database does not say which endpoint a due delivery is for.
    pub(crate) look_ups: Lasting,
    /// Attempts fail by our own fault.
    pub(crate) faults: Lasting,
    pub(crate) meters: Meters,
    /// The commands that watch.
    pub(crate) tails: Arc<Tails>,
    /// Cancelled when nothing new is to be taken.
    pub(crate) stop: CancellationToken,
    /// Cancelled when attempts in flight have to be given up.
    pub(crate) abort: CancellationToken,
}

impl Context {
    /// What there is to record, if anything is.
    pub(crate) fn record(&self, make: impl FnOnce() -> Record) -> Option<Record> {
        self.config.journal.then(make)
    }

    /// Waits until a slow attempt can be held by a message of its own: not while the broker takes no
    /// publishes, and not while shutting down, because what is published into this worker's hands would
    /// find them closed.
    pub(crate) async fn may_hold(&self) {
        self.topology.has_held_queue().await;
        let is_writable = self.publishing.writable().await.is_ok();
        if !is_writable || self.stop.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }
}
