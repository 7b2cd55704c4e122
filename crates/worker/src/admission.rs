//! Decides which delivery gets a slot, and what happens to an attempt that takes long.
//!
//! A worker has a fixed number of slots, one for each attempt in flight. How many of them an endpoint or an
//! organization may hold depends on how many are free (dynamic thresholds, in `shares`). If `k` organizations
//! take all they can get, each holds `1 / (k + 1)` of the slots, and as many remain free for the next one.
//! Endpoints that are not known to be healthy share half of the slots by the same rule.
//!
//! An attempt that has been in flight for [`SLOW`] gives its slot back and takes one of an equal number of
//! slow slots. If no slow slot is free, the oldest slow attempt of the organization that holds the most is
//! ended.
//!
//! A delivery that is refused a slot either waits for one or is deferred through the broker:
//!
//! - If all slots are in use, it waits for up to [`LONG_WAIT_MAX`].
//! - If its endpoint's or organization's share is used up, it waits only if a slot of that share is expected
//!   soon. The expected wait is estimated from how fast slots of that share are given back. If it is at most
//!   [`LONG_WAIT_MAX`], the delivery waits for up to that time, provided that there is room among the
//!   deliveries that wait so long. Without room it waits for up to [`WAIT_MAX`], if a slot is expected within
//!   that time.
//! - As long as no slot of the share has been given back, the expected wait is the time for which none has.
//!   If that is at most [`WAIT_MAX`], the delivery waits for no longer than [`WAIT_MAX`].
//! - If endpoints that are not known to be healthy hold their half, it waits for up to [`LONG_WAIT_MAX`] if
//!   there is room.
//!
//! Before a delivery asks for a slot, its event has to begin. The events of each organization begin in order,
//! and the number of first attempts in progress is limited (`places`). A burst of events therefore waits in
//! order for a short time, instead of requesting all slots at once and being deferred for a second.

mod pace;
mod behaviour;
mod places;
mod shares;
mod waiters;
mod waiting;

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::{Counter, Gauge};
use tokio::{
    sync::oneshot,
    time::{sleep_until, timeout},
};
use webhook::{EndpointId, OrganizationId};

use self::{
    places::Places,
    shares::Shares,
    waiters::{Grant, Waiters},
    waiting::{Queued, Waiting},
};
use crate::{meters, refusal::Refusal};

/// The maximum wait for a slot that is expected within this time, without room for a longer wait. Any number
/// of deliveries may wait this long.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// The maximum wait for a slot. A deferred delivery comes back after a second at the earliest.
const LONG_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long an attempt may be in flight before it is slow and gives its slot back. An endpoint whose last
/// attempt took longer is not known to be healthy.
const SLOW: Duration = Duration::from_secs(1);

pub(crate) struct Admission {
    state: Mutex<State>,
    places: Mutex<Places>,
    slots: usize,
    free: Gauge,
    slow: Gauge,
    ended: Counter,
}

struct State {
    shares: Shares,
    waiters: Waiters,
    /// The number of deliveries that wait for up to [`LONG_WAIT_MAX`] for another reason than that all slots
    /// are in use.
    ///
    /// It is limited to half of the slots, because each waiting delivery is an unacknowledged message and
    /// takes up prefetch.
    waiting_long: usize,
    /// For each slow attempt, the sender that ends it.
    ends: HashMap<u64, oneshot::Sender<()>>,
}

/// The right to make one attempt. Dropping it gives the slot back without recording a result for the
/// endpoint.
pub(crate) struct Slot {
    admission: Arc<Admission>,
    endpoint: EndpointId,
    id: u64,
    stage: Stage,
    success: Option<bool>,
}

/// The kind of slot that an attempt holds.
enum Stage {
    /// A normal slot, until this moment.
    Fast(tokio::time::Instant),
    /// A slow slot. The receiver is notified when the attempt has to end.
    Slow(oneshot::Receiver<()>),
}

/// A flag that is set when an attempt has been in flight for over a second. The attempt's [`Slot`] sets it,
/// and the code that waits for the attempt reads it.
#[derive(Debug, Default)]
pub(crate) struct Slowness(AtomicBool);

/// The places of an event's first attempts in progress. Dropping it gives them back.
pub(crate) struct Begun<'a> {
    admission: &'a Admission,
    organization: &'a OrganizationId,
    attempts: usize,
    /// Whether the event waited. In that case information about its endpoints from before the wait may be
    /// outdated.
    pub(crate) has_waited: bool,
}

impl Slowness {
    /// Returns whether the attempt became slow since the last call.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Admission {
    pub(crate) fn new(slots: usize) -> Arc<Self> {
        let state = State {
            shares: Shares::new(slots),
            waiters: Waiters::default(),
            waiting_long: 0,
            ends: HashMap::new(),
        };
        meters::SLOTS.level([]).set(slots as f64);
        let free = meters::SLOTS_FREE.level([]);
        free.set(slots as f64);
        let slow = meters::SLOW_SLOTS_USED.level([]);
        slow.set(0.0);
        Arc::new(Self {
            state: Mutex::new(state),
            places: Mutex::new(Places::new(slots)),
            slots,
            free,
            slow,
            ended: meters::SLOW_ENDED.count([]),
        })
    }

    /// Waits until this many first attempts of an event may begin, after those of earlier events of its
    /// organization.
    ///
    /// They count as in progress until the result is dropped. Returns `None` if attempts of the organization
    /// hang and `may_refuse` returns true, which means that the event can continue without first attempts.
    ///
    /// # Cancel safety
    /// Dropping the future loses the event's position in the queue.
    pub(crate) async fn begin<'a>(
        &'a self,
        organization: &'a OrganizationId,
        attempts: usize,
        may_refuse: impl Fn() -> bool,
    ) -> Option<Begun<'a>> {
        let attempts = attempts.min(self.slots);
        let mut begun = Begun {
            admission: self,
            organization,
            attempts: 0,
            has_waited: false,
        };
        let (ticket, granted) = {
            let mut places = self.places();
            if attempts == 0 || places.take(organization, attempts, Instant::now()) {
                begun.attempts = attempts;
                return Some(begun);
            }
            places.wait(organization, attempts)
        };
        begun.has_waited = true;
        let mut queued = Queued {
            begun,
            attempts,
            ticket,
            is_done: false,
        };
        queued.granted(granted, may_refuse).await
    }

    /// Takes a slot for an endpoint, after a wait of at most [`LONG_WAIT_MAX`]. A delivery that is refused
    /// has to be deferred.
    ///
    /// # Cancel safety
    /// If a slot is granted while the future is dropped, the slot is given back.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        endpoint: &EndpointId,
        organization: &OrganizationId,
    ) -> Result<Slot, Refusal> {
        let (mut waiting, refusal, wait_max) = {
            let now = Instant::now();
            let mut state = self.lock();
            let refusal = match state.shares.decide(endpoint, organization, now) {
                Ok(()) => return Ok(self.slot(endpoint, self.take(&mut state, endpoint, organization, now))),
                Err(refusal) => refusal,
            };
            let wait_max = state
                .wait_max(endpoint, organization, refusal, now)
                .ok_or(refusal)?;
            let is_long = wait_max == LONG_WAIT_MAX && refusal != Refusal::Slots;
            let waiting = self.enqueue(&mut state, endpoint, organization, is_long);
            (waiting, refusal, wait_max)
        };
        let granted = timeout(wait_max, waiting.granted()).await;
        granted.ok().flatten().ok_or(refusal)
    }

    /// Takes a slot for the endpoint, and waits as long as necessary for one to become free.
    ///
    /// # Cancel safety
    /// The same as for [`admit`](Self::admit).
    pub(crate) async fn wait(
        self: &Arc<Self>,
        endpoint: &EndpointId,
        organization: &OrganizationId,
    ) -> Option<Slot> {
        let mut waiting = {
            let mut state = self.lock();
            let now = Instant::now();
            if state.shares.decide(endpoint, organization, now).is_ok() {
                let id = self.take(&mut state, endpoint, organization, now);
                return Some(self.slot(endpoint, id));
            }
            self.enqueue(&mut state, endpoint, organization, false)
        };
        waiting.granted().await
    }

    /// Returns whether the endpoint's last attempt on this worker failed or was slow, or an attempt in flight
    /// is slow.
    pub(crate) fn is_suspect(&self, endpoint: &EndpointId) -> bool {
        self.lock().shares.is_suspect(endpoint)
    }

    fn enqueue<'a>(
        self: &'a Arc<Self>,
        state: &mut State,
        endpoint: &'a EndpointId,
        organization: &OrganizationId,
        is_long: bool,
    ) -> Waiting<'a> {
        let (ticket, granted) = state.waiters.add(endpoint, organization);
        state.shares.waits(endpoint, organization);
        state.waiting_long += usize::from(is_long);
        Waiting {
            admission: self,
            endpoint,
            is_long,
            ticket,
            granted,
            is_done: false,
        }
    }

    fn slot(self: &Arc<Self>, endpoint: &EndpointId, id: u64) -> Slot {
        Slot {
            admission: Arc::clone(self),
            endpoint: endpoint.clone(),
            id,
            stage: Stage::Fast(tokio::time::Instant::now() + SLOW),
            success: None,
        }
    }

    fn take(
        &self,
        state: &mut State,
        endpoint: &EndpointId,
        organization: &OrganizationId,
        now: Instant,
    ) -> u64 {
        let id = state.shares.take(endpoint, organization, now);
        self.free.set(state.shares.free() as f64);
        id
    }

    fn release(&self, endpoint: &EndpointId, id: u64, success: Option<bool>) {
        let now = Instant::now();
        let mut state = self.lock();
        state.ends.remove(&id);
        state.shares.give_back(endpoint, id, success, now);
        self.grant(&mut state, endpoint, now);
    }

    /// Marks the attempt as slow. Returns the receiver that is notified when the attempt has to end.
    fn slow_down(&self, endpoint: &EndpointId, id: u64) -> oneshot::Receiver<()> {
        let now = Instant::now();
        let (end, ended) = oneshot::channel();
        let mut state = self.lock();
        if let Some(oldest) = state.shares.slow_down(endpoint, id, now)
            && let Some(end) = state.ends.remove(&oldest)
        {
            self.ended.increment(1);
            let _ = end.send(());
        }
        state.ends.insert(id, end);
        self.grant(&mut state, endpoint, now);
        ended
    }

    /// Gives free slots to waiting deliveries: first to one of each of several organizations in turn, then to
    /// those of the endpoint that has just released a slot, because its share is most likely to have room.
    fn grant(&self, state: &mut State, released: &EndpointId, now: Instant) {
        let State { shares, waiters, .. } = state;
        let mut grant_one = |waiters: &mut Waiters, endpoint: &EndpointId| {
            if shares.free() == 0 {
                return Grant::NoneFree;
            }
            if !waiters.has(endpoint) {
                return Grant::Refused;
            }
            let Some(id) = shares.grant(endpoint, now) else {
                return Grant::Refused;
            };
            // A delivery that stops waiting is first removed from the list, under the lock.
            let sent = waiters.next_of(endpoint).map(|waiter| waiter.send(id));
            if sent != Some(Ok(())) {
                shares.give_back(endpoint, id, None, now);
            }
            Grant::Granted
        };
        waiters.take_turns(&mut grant_one);
        while grant_one(waiters, released) == Grant::Granted {}
        self.free.set(state.shares.free() as f64);
        self.slow.set((self.slots - state.shares.slow_free()) as f64);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns how long a refused delivery waits; `None` if it does not wait.
    fn wait_max(
        &self,
        endpoint: &EndpointId,
        organization: &OrganizationId,
        refusal: Refusal,
        now: Instant,
    ) -> Option<Duration> {
        let room = self.shares.unwell_max().saturating_sub(self.waiting_long);
        match refusal {
            Refusal::Endpoint | Refusal::Organization => {
                let promise = self.shares.promised_wait(endpoint, organization, refusal, now)?;
                let is_soon = promise.within <= WAIT_MAX;
                // An organization may take at most as much of the room as it leaves free. An estimate from a
                // measured latency gets the full time, because the wait may take longer than estimated: a
                // busy machine can pause for tenths of a second, and deferring costs a whole second.
                let has_room = self.shares.waiting(organization) < room;
                if has_room && promise.within <= LONG_WAIT_MAX && (promise.is_founded || !is_soon) {
                    return Some(LONG_WAIT_MAX);
                }
                is_soon.then_some(WAIT_MAX)
            }
            Refusal::Unwell => (self.shares.waiting(organization) < room).then_some(LONG_WAIT_MAX),
            Refusal::Slots => Some(LONG_WAIT_MAX),
        }
    }
}

impl Slot {
    /// Gives the slot back once the attempt is slow, and sets `slowness`. Returns when the attempt has to end
    /// because its slow slot is given to another attempt.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub(crate) async fn ended(&mut self, slowness: &Slowness) {
        if let Stage::Fast(until) = self.stage {
            sleep_until(until).await;
            self.stage = Stage::Slow(self.admission.slow_down(&self.endpoint, self.id));
            slowness.0.store(true, Ordering::Relaxed);
        }
        if let Stage::Slow(ended) = &mut self.stage
            && ended.await.is_err()
        {
            // The sender was dropped without ending the attempt. Only dropping this `Slot` does that.
            pending::<()>().await;
        }
    }

    /// Gives the slot back after an attempt that was made, and records whether it succeeded.
    pub(crate) fn concluded(mut self, success: bool) {
        self.success = Some(success);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.admission.release(&self.endpoint, self.id, self.success);
    }
}

impl Begun<'_> {
    /// Gives one place back, because its attempt is slow.
    pub(crate) fn give_one_back(&mut self) {
        if self.attempts > 0 {
            self.attempts -= 1;
            self.admission
                .places()
                .give_back(self.organization, 1, Instant::now());
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if self.attempts > 0 {
            self.admission
                .places()
                .give_back(self.organization, self.attempts, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
