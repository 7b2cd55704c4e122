//! Lets one new connection at a time wait for the requests of a relay.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use webhook::EndpointId;

/// The relays for whose requests a connection to this process waits.
#[derive(Default)]
pub(super) struct Waiters(Mutex<HashSet<EndpointId>>);

/// The only connection that waits for the requests of a relay, until this is dropped.
pub(super) struct Waiter<'a> {
    waiters: &'a Waiters,
    endpoint_id: EndpointId,
}

impl Waiters {
    /// Begins to wait. Returns `None` if another connection waits already.
    pub(super) fn enter(&self, endpoint_id: &EndpointId) -> Option<Waiter<'_>> {
        let is_first = self.ids().insert(endpoint_id.clone());
        is_first.then(|| Waiter {
            waiters: self,
            endpoint_id: endpoint_id.clone(),
        })
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<EndpointId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.waiters.ids().remove(&self.endpoint_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_connection_waits_for_a_relay_at_a_time() {
        let (waiters, relay) = (Waiters::default(), EndpointId::new("ep_1"));
        let first = waiters.enter(&relay);
        assert!(first.is_some());
        assert!(waiters.enter(&relay).is_none());
        assert!(waiters.enter(&EndpointId::new("ep_2")).is_some());
        // The one that was refused has not removed the first one.
        assert!(waiters.enter(&relay).is_none());
        drop(first);
        assert!(waiters.enter(&relay).is_some());
    }
}
