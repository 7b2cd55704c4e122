//! Who may have a slot.
//!
//! A worker has a fixed number of slots, one for each attempt in flight. One endpoint may hold at most a quarter of the slots
//! that are free (a dynamic threshold: the fewer are left, the less anyone gets; one is always allowed), so endpoints that
//! never answer cannot take all of them. With `n` slots and `k` such endpoints each comes to hold `n / (4 + k)`.
//!
//! Who is refused waits here only when the endpoint answers fast enough to promise a slot within [`WAIT_MAX`], and no
//! longer than that; otherwise the delivery is deferred through the broker.
//!
//! Events begin one after the other, and no more first attempts are in work than there are slots: a burst of events waits in its
//! order for a moment, instead of asking for all slots at once and being deferred for a second.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, SemaphorePermit, oneshot},
    time::timeout,
};
use webhook::EndpointId;

/// The share of the free slots that one endpoint may hold.
const SHARE: usize = 4;
/// A slot that cannot be had within this time is not waited for.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// An endpoint whose last attempt took longer, or is taking longer, holds up the events it shares with others.
const SLOW: Duration = Duration::from_secs(1);
/// Weight of the newest attempt in the average latency: an eighth.
const LATENCY_WEIGHT: u32 = 8;
/// How many endpoints' behaviour is remembered. As many as the registry holds; past it, all that are idle are forgotten.
const REMEMBERED_MAX: usize = store::ENDPOINTS_MAX as usize;
/// How many endpoints with waiters are looked at when a slot comes free.
const GRANTS_LOOKED_AT: usize = 8;

pub(crate) struct Admission {
    state: Mutex<State>,
    slots: usize,
    /// Permits for first attempts.
    in_work: Semaphore,
}

struct State {
    free: usize,
    endpoints: HashMap<EndpointId, Behaviour>,
    /// Endpoints that have waiters, in turn.
    waiting: VecDeque<EndpointId>,
    next_slot: u64,
}

/// How an endpoint does at this worker.
#[derive(Default)]
struct Behaviour {
    /// Slots held, oldest first, with the time each was taken.
    held: VecDeque<(u64, Instant)>,
    waiters: VecDeque<oneshot::Sender<u64>>,
    /// It stands in [`State::waiting`].
    in_turn: bool,
    latency: Duration,
    last_release: Option<Instant>,
    /// The last attempt failed or was slow.
    suspect: bool,
}

/// The right to make one attempt. Dropping it gives it back and says nothing about the endpoint.
pub(crate) struct Slot {
    admission: Arc<Admission>,
    endpoint: EndpointId,
    id: u64,
    success: Option<bool>,
}

impl Admission {
    pub(crate) fn new(slots: usize) -> Arc<Self> {
        let state = State {
            free: slots,
            endpoints: HashMap::new(),
            waiting: VecDeque::new(),
            next_slot: 0,
        };
        metrics::gauge!("magnetite_slots").set(slots as f64);
        Arc::new(Self {
            state: Mutex::new(state),
            slots,
            in_work: Semaphore::new(slots),
        })
    }

    /// Waits until so many first attempts of an event may begin, after those of earlier events. They are in work until the result is
    /// dropped.
    ///
    /// # Cancel safety
    /// Loses its place among the events.
    pub(crate) async fn begin(&self, attempts: usize) -> SemaphorePermit<'_> {
        let attempts = attempts.min(self.slots) as u32;
        let permits = self.in_work.acquire_many(attempts).await;
        permits.expect("the semaphore is never closed")
    }

    /// Takes a slot for the endpoint, after a wait of at most [`WAIT_MAX`]; `None` means that the delivery is to be deferred.
    ///
    /// # Cancel safety
    /// A slot that is granted while this is dropped is given back.
    pub(crate) async fn admit(self: &Arc<Self>, endpoint: &EndpointId) -> Option<Slot> {
        let granted = {
            let now = Instant::now();
            let mut state = self.lock();
            if state.may_take(endpoint) {
                return Some(self.slot(endpoint, state.take(endpoint, now)));
            }
            if state.promised_wait(endpoint, now) > WAIT_MAX {
                return None;
            }
            state.enqueue(endpoint)
        };
        timeout(WAIT_MAX, self.granted(endpoint, granted)).await.ok()?
    }

    /// Takes a slot for the endpoint, however long it takes to come free.
    ///
    /// # Cancel safety
    /// As of [`admit`](Self::admit).
    pub(crate) async fn wait(self: &Arc<Self>, endpoint: &EndpointId) -> Option<Slot> {
        let granted = {
            let mut state = self.lock();
            if state.may_take(endpoint) {
                return Some(self.slot(endpoint, state.take(endpoint, Instant::now())));
            }
            state.enqueue(endpoint)
        };
        self.granted(endpoint, granted).await
    }

    async fn granted(
        self: &Arc<Self>,
        endpoint: &EndpointId,
        granted: oneshot::Receiver<u64>,
    ) -> Option<Slot> {
        let mut waiter = Waiter {
            admission: self,
            endpoint,
            granted,
        };
        let id = (&mut waiter.granted).await.ok()?;
        Some(self.slot(endpoint, id))
    }

    /// Whether the endpoint's last attempt here failed or was slow, or one in flight already is.
    pub(crate) fn is_suspect(&self, endpoint: &EndpointId) -> bool {
        let state = self.lock();
        let Some(behaviour) = state.endpoints.get(endpoint) else {
            return false;
        };
        behaviour.suspect
            || behaviour
                .held
                .front()
                .is_some_and(|(_, since)| since.elapsed() > SLOW)
    }

    fn slot(self: &Arc<Self>, endpoint: &EndpointId, id: u64) -> Slot {
        Slot {
            admission: Arc::clone(self),
            endpoint: endpoint.clone(),
            id,
            success: None,
        }
    }

    fn release(&self, endpoint: &EndpointId, id: u64, success: Option<bool>) {
        let now = Instant::now();
        let mut state = self.lock();
        state.free += 1;
        if let Some(behaviour) = state.endpoints.get_mut(endpoint) {
            behaviour.released(id, success, now);
        }
        state.grant(endpoint, now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_take(&self, endpoint: &EndpointId) -> bool {
        let held = self
            .endpoints
            .get(endpoint)
            .map_or(0, |behaviour| behaviour.held.len());
        self.free > 0 && held < (self.free / SHARE).max(1)
    }

    fn take(&mut self, endpoint: &EndpointId, now: Instant) -> u64 {
        self.free -= 1;
        self.next_slot += 1;
        let id = self.next_slot;
        self.entry(endpoint).held.push_back((id, now));
        id
    }

    /// How long a newcomer would wait, judging by how fast the endpoint gives slots back.
    fn promised_wait(&self, endpoint: &EndpointId, now: Instant) -> Duration {
        let Some(behaviour) = self.endpoints.get(endpoint) else {
            return WAIT_MAX;
        };
        let Some((_, oldest)) = behaviour.held.front() else {
            return WAIT_MAX;
        };
        let quiet_since = behaviour
            .last_release
            .map_or(*oldest, |release| release.max(*oldest));
        let latency = behaviour.latency.max(now.duration_since(quiet_since));
        let ahead = behaviour.waiters.len() as u32 + 1;
        latency.saturating_mul(ahead) / behaviour.held.len() as u32
    }

    fn enqueue(&mut self, endpoint: &EndpointId) -> oneshot::Receiver<u64> {
        let (grant, granted) = oneshot::channel();
        let behaviour = self.entry(endpoint);
        behaviour.waiters.push_back(grant);
        if !std::mem::replace(&mut behaviour.in_turn, true) {
            self.waiting.push_back(endpoint.clone());
        }
        granted
    }

    /// Gives free slots to waiters: first to those of the endpoint that has just released one, then to the others in turn.
    fn grant(&mut self, released: &EndpointId, now: Instant) {
        self.grant_to(released, now);
        for _ in 0..self.waiting.len().min(GRANTS_LOOKED_AT) {
            let Some(endpoint) = self.waiting.pop_front() else {
                break;
            };
            self.grant_to(&endpoint, now);
            let behaviour = self.entry(&endpoint);
            behaviour.in_turn = !behaviour.waiters.is_empty();
            if behaviour.in_turn {
                self.waiting.push_back(endpoint);
            }
        }
    }

    fn grant_to(&mut self, endpoint: &EndpointId, now: Instant) {
        while self.may_take(endpoint) {
            let Some(waiter) = self
                .endpoints
                .get_mut(endpoint)
                .and_then(|b| b.waiters.pop_front())
            else {
                return;
            };
            if waiter.is_closed() {
                continue;
            }
            let id = self.take(endpoint, now);
            if waiter.send(id).is_err() {
                self.untake(endpoint, id);
            }
        }
    }

    fn untake(&mut self, endpoint: &EndpointId, id: u64) {
        self.free += 1;
        self.entry(endpoint).held.retain(|(held, _)| *held != id);
    }

    fn entry(&mut self, endpoint: &EndpointId) -> &mut Behaviour {
        if !self.endpoints.contains_key(endpoint) {
            if self.endpoints.len() >= REMEMBERED_MAX {
                self.endpoints
                    .retain(|_, behaviour| !behaviour.held.is_empty() || behaviour.in_turn);
            }
            self.endpoints.insert(endpoint.clone(), Behaviour::default());
        }
        self.endpoints
            .get_mut(endpoint)
            .expect("it was inserted when it was not there")
    }
}

impl Behaviour {
    /// Without `success` the slot was given back unused, or by our own fault.
    fn released(&mut self, id: u64, success: Option<bool>, now: Instant) {
        let Some(at) = self.held.iter().position(|(held, _)| *held == id) else {
            return;
        };
        let Some((_, since)) = self.held.remove(at) else {
            return;
        };
        self.last_release = Some(now);
        if let Some(success) = success {
            let took = now.duration_since(since);
            self.suspect = !success || took > SLOW;
            self.latency = match self.latency {
                Duration::ZERO => took,
                latency => (latency * (LATENCY_WEIGHT - 1) + took) / LATENCY_WEIGHT,
            };
        }
    }
}

impl Slot {
    /// Gives the slot back after an attempt that was made, and remembers how it went.
    pub(crate) fn concluded(mut self, success: bool) {
        self.success = Some(success);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.admission.release(&self.endpoint, self.id, self.success);
    }
}

/// Gives back a slot that was granted after nobody waited for it any more.
struct Waiter<'a> {
    admission: &'a Admission,
    endpoint: &'a EndpointId,
    granted: oneshot::Receiver<u64>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.granted.close();
        if let Ok(id) = self.granted.try_recv() {
            self.admission.release(self.endpoint, id, None);
        }
    }
}

#[cfg(test)]
mod tests;
