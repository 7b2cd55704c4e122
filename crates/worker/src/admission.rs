//! Decides which delivery gets a slot, and what happens to an attempt that takes long.
//!
//! A worker has a fixed number of slots, one for each attempt in flight. How many of them an endpoint, an
//! organization, and all endpoints that are not known to be well may hold depends on how many are free
//! (dynamic thresholds, in `shares`): `k` organizations that take whatever they get come to hold
//! `1 / (k + 1)` of the slots each, and leave as many for the next one.
//!
//! An attempt in flight for over [`SLOW`] gives its slot back and takes one of as many slow slots. When none
//! is free, the oldest slow attempt of the organization that holds most is ended.
//!
//! A delivery that has to wait for its own share waits only when slots come back to that share fast enough to
//! promise one within [`LONG_WAIT_MAX`], and for as long if there is room for it among those that wait so
//! long. Without room it waits for [`WAIT_MAX`], if a slot is promised within that time. As long as no slot
//! has come back, the promise is how long none has, and one within [`WAIT_MAX`] is waited for only so long. A
//! delivery that has to wait for others waits for up to [`LONG_WAIT_MAX`]. What gets no slot is deferred
//! through the broker.
//!
//! Before that, the events of each organization begin one after the other, and only so many first attempts
//! are in work (`places`): a burst of events waits in its order for a moment, instead of asking for all slots
//! at once and being deferred for a second.

mod pace;
mod places;
mod shares;
mod waiters;

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
};
use crate::{meters, refusal::Refusal};

/// Any number of deliveries wait for a slot that is promised within this time.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// How long a slot is waited for at most. What is deferred comes back after a second at the earliest.
const LONG_WAIT_MAX: Duration = Duration::from_secs(1);
/// An attempt that takes longer gives its slot back; an endpoint whose last attempt took longer is not known
/// to be well.
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
    /// Deliveries that wait for up to [`LONG_WAIT_MAX`] while slots are free. Bounded by half of the slots,
    /// because each is an unacked message, which keeps another from being handed out.
    waiting_long: usize,
    /// How to end each slow attempt.
    ends: HashMap<u64, oneshot::Sender<()>>,
}

/// The right to make one attempt. Dropping it gives it back and says nothing about the endpoint.
pub(crate) struct Slot {
    admission: Arc<Admission>,
    endpoint: EndpointId,
    id: u64,
    stage: Stage,
    success: Option<bool>,
}

/// Which kind of slot an attempt has.
enum Stage {
    /// Until this moment.
    Fast(tokio::time::Instant),
    /// Told when it has to end.
    Slow(oneshot::Receiver<()>),
}

/// Whether an attempt has been in flight for over a second, which its [`Slot`] tells and what waits for the
/// attempt looks at.
#[derive(Debug, Default)]
pub(crate) struct Slowness(AtomicBool);

/// The places of an event's first attempts in work. Dropping it gives them back.
pub(crate) struct Begun<'a> {
    admission: &'a Admission,
    organization: &'a OrganizationId,
    attempts: usize,
    /// The event waited: what was known of its endpoints before is old.
    pub(crate) has_waited: bool,
}

impl Slowness {
    /// Whether the attempt became slow since the last call.
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

    /// Waits until so many first attempts of an event may begin, after those of earlier events of its
    /// organization. They are in work until the result is dropped. `None` when the organization's
    /// attempts hang, and `may_refuse` says that the event may go on without.
    ///
    /// # Cancel safety
    /// Loses its place among the events.
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

    /// Takes a slot for an endpoint, after a wait of at most [`LONG_WAIT_MAX`]. A delivery that is refused is
    /// to be deferred.
    ///
    /// # Cancel safety
    /// A slot that is granted while this is dropped is given back.
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

    /// Takes a slot for the endpoint, however long it takes to come free.
    ///
    /// # Cancel safety
    /// As of [`admit`](Self::admit).
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

    /// Whether the endpoint's last attempt here failed or was slow, or one in flight is.
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

    /// The attempt is slow from now on. Returns what says when it has to end.
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

    /// Gives free slots to waiters: one to each of some organizations in turn, then to those of the endpoint
    /// that has just released one, whose share is most likely to have room.
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
            // One that stops waiting is taken off the list first, under the lock.
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
    /// How long a delivery that was refused waits, if it does.
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
                // An organization may take up as much of the room as it leaves. A promise that is founded may
                // be kept late: a busy machine stands still for tenths of a second, and what
                // is deferred comes after a whole one.
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
    /// Gives the slot back once the attempt is slow, and says so; returns when the attempt has to end because
    /// its slow slot is another's.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn ended(&mut self, slowness: &Slowness) {
        if let Stage::Fast(until) = self.stage {
            sleep_until(until).await;
            self.stage = Stage::Slow(self.admission.slow_down(&self.endpoint, self.id));
            slowness.0.store(true, Ordering::Relaxed);
        }
        if let Stage::Slow(ended) = &mut self.stage
            && ended.await.is_err()
        {
            // Its slow slot is given back by itself alone.
            pending::<()>().await;
        }
    }

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

impl Begun<'_> {
    /// Gives one place back: its attempt is slow.
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

/// An event that waits to begin. Dropping it gives back places that it was granted and does not use.
struct Queued<'a> {
    begun: Begun<'a>,
    attempts: usize,
    ticket: u64,
    is_done: bool,
}

impl<'a> Queued<'a> {
    async fn granted(
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

/// A delivery that waits for a slot. Dropping it gives back a slot that was granted and is not used.
struct Waiting<'a> {
    admission: &'a Arc<Admission>,
    endpoint: &'a EndpointId,
    /// Counted in [`State::waiting_long`].
    is_long: bool,
    ticket: u64,
    granted: oneshot::Receiver<u64>,
    is_done: bool,
}

impl Waiting<'_> {
    async fn granted(&mut self) -> Option<Slot> {
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

#[cfg(test)]
mod tests;
