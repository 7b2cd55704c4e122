//! Records in the store, off the hot path, that endpoints which responded with 410 are disabled.
//!
//! The endpoint is disabled in memory at once, and in the store as soon as the database accepts it. If the
//! worker dies before that, the endpoint responds with 410 once more and is disabled then.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use runtime::Lasting;
use store::Store;
use tokio::sync::Notify;
use webhook::{DisabledReason, Endpoint, EndpointId};

use crate::{display_chain, now_ms, registry::Registry};

/// Endpoints to be disabled, each with the version that responded with 410. There is at most one entry for
/// each endpoint.
#[derive(Default)]
pub(crate) struct Gone {
    pending: Mutex<HashMap<EndpointId, i64>>,
    added: Notify,
    /// Tracks failures to write to the database.
    unwritten: Lasting,
}

const RETRY: Duration = Duration::from_secs(1);
const FLUSH: Duration = Duration::from_millis(500);

impl Gone {
    pub(crate) fn disable(&self, registry: &Registry, endpoint: &Endpoint) {
        tracing::warn!(endpoint.id = %endpoint.id, "the endpoint answered 410 Gone and is disabled");
        registry.disable_gone(&endpoint.id, endpoint.version, now_ms());
        // An attempt with an earlier version may end after one with a later version.
        let mut pending = self.lock();
        let version = pending.entry(endpoint.id.clone()).or_insert(endpoint.version);
        *version = endpoint.version.max(*version);
        drop(pending);
        self.added.notify_one();
    }

    /// Disables the pending endpoints in the store. Never returns.
    pub(crate) async fn write_back(&self, store: &Store) {
        loop {
            self.added.notified().await;
            while !self.write_pending(store).await {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Tries once more when the process ends.
    pub(crate) async fn flush(&self, store: &Store) {
        let _ = tokio::time::timeout(FLUSH, self.write_pending(store)).await;
    }

    /// Returns `false` if something is still pending.
    async fn write_pending(&self, store: &Store) -> bool {
        let pending: Vec<_> = self
            .lock()
            .iter()
            .map(|(id, version)| (id.clone(), *version))
            .collect();
        for (id, version) in pending {
            let now_ms = now_ms() as i64;
            match store
                .disable_endpoint_unless_changed(&id, version, DisabledReason::Gone, now_ms)
                .await
            {
                Ok(disabled) => {
                    self.unwritten.end();
                    tracing::info!(endpoint.id = %id, disabled, "recorded that the endpoint responded with 410");
                }
                Err(error) if error.is_unavailable() => {
                    if self.unwritten.again().is_some() {
                        tracing::warn!(
                            endpoint.id = %id,
                            error = display_chain(&error),
                            "cannot record that the endpoint responded with 410; trying again"
                        );
                    }
                    return false;
                }
                Err(error) => {
                    tracing::error!(
                        endpoint.id = %id,
                        error = display_chain(&error),
                        "cannot record that the endpoint responded with 410"
                    );
                }
            }
            let mut pending = self.lock();
            if pending.get(&id) == Some(&version) {
                pending.remove(&id);
            }
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointId, i64>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
