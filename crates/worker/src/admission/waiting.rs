//! Events that wait to begin, and deliveries that wait for a slot.

use std::{sync::Arc, time::Instant};

use tokio::{sync::oneshot, time::timeout};
use webhook::EndpointId;

use super::{Admission, Begun, Slot, WAIT_MAX};

/// An event that waits to begin. Dropping it gives back places that were granted and not used.
pub(super) struct Queued<'a> {
    pub(super) begun: Begun<'a>,
    pub(super) attempts: usize,
    pub(super) ticket: u64,
    pub(super) is_done: bool,
}

impl<'a> Queued<'a> {
    pub(super) async fn granted(
        &mut self,
        mut granted: oneshot::Receiver<()>,
        may_refuse: impl Fn() -> bool,
    ) -> Option<Begun<'a>> {
        let Begun {
            admission,
            organization,
            ..
        } = self.begun;
        while timeout(WAIT_MAX, &mut granted).await.is_err() {
            let quiet = admission.places().quiet(organization, Instant::now());
            if quiet >= WAIT_MAX && may_refuse() {
                return None;
            }
        }
        self.is_done = true;
        Some(Begun {
            admission,
            organization,
            attempts: self.attempts,
            has_waited: true,
        })
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let (organization, now) = (self.begun.organization, Instant::now());
        let mut places = self.begun.admission.places();
        if !places.leave(organization, self.ticket, now) {
            places.give_back(organization, self.attempts, now);
        }
    }
}

/// A delivery that waits for a slot. Dropping it gives back a slot that was granted and not used.
pub(super) struct Waiting<'a> {
    pub(super) admission: &'a Arc<Admission>,
    pub(super) endpoint: &'a EndpointId,
    /// Whether the delivery is counted in [`State::waiting_long`](super::State).
    pub(super) is_long: bool,
    pub(super) ticket: u64,
    pub(super) granted: oneshot::Receiver<u64>,
    pub(super) is_done: bool,
}

impl Waiting<'_> {
    pub(super) async fn granted(&mut self) -> Option<Slot> {
        let id = (&mut self.granted).await.ok()?;
        self.is_done = true;
        Some(self.admission.slot(self.endpoint, id))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        state.waiting_long -= usize::from(self.is_long);
        state.waiters.remove(self.endpoint, self.ticket);
        state.shares.waits_no_more(self.endpoint);
        drop(state);
        if !self.is_done
            && let Ok(id) = self.granted.try_recv()
        {
            self.admission.release(self.endpoint, id, None);
        }
    }
}
