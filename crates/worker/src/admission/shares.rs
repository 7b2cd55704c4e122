//! The rules of fair admission, as pure state without a clock, tasks or waiting. The caller reports what
//! happens and when; the state decides which endpoint may have a slot.
//!
//! Every decision reads only counters of the endpoint, of its organization and of the whole worker. It takes
//! the same time regardless of how many deliveries wait. Only ending a slow attempt searches for the
//! organization that holds the most, in an ordered set with at most as many entries as there are slow slots.
//!
//! An endpoint is *well* if it was tried and its last attempt neither failed nor was slow, and no attempt in
//! flight is slow. All other endpoints are *unwell*: they are not known to be healthy.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use webhook::{EndpointId, OrganizationId};

use super::{
    SLOW,
    behaviour::Behaviour,
    pace::{Pace, Promise},
};
use crate::refusal::Refusal;

/// The share of the free slots that one endpoint may hold: a quarter.
const ENDPOINT_SHARE: usize = 4;
/// The share of all slots that unwell endpoints may hold together: half.
const UNWELL_SHARE: usize = 2;
/// The share of all slots that is reserved for organizations that hold none, or that give their slots back
/// quickly: a 16th.
///
/// Without it, organizations whose endpoints start to hang at the same moment would leave no slot to an
/// organization whose attempts end quickly, as soon as it holds none for a moment.
const KEPT_SHARE: usize = 16;
/// The share of all slow slots that one endpoint may hold regardless of how few are free: a 32nd.
const SLOW_SHARE: usize = 32;
/// The limit below which a failed attempt is quick: it occupies a slot for no longer than a successful one.
const QUICK: Duration = Duration::from_millis(100);
/// The maximum number of endpoints whose behaviour is remembered. The registry holds as many. When the limit
/// is reached, all idle endpoints are forgotten.
pub(super) const REMEMBERED_MAX: usize = store::ENDPOINTS_MAX as usize;

/// The slots that each endpoint and each organization holds.
pub(super) struct Shares {
    slots: usize,
    free: usize,
    /// The number of slots that unwell endpoints hold together.
    unwell: usize,
    slow_free: usize,
    endpoints: HashMap<EndpointId, Behaviour>,
    /// The organizations that hold slots or wait for them.
    organizations: HashMap<OrganizationId, Holder>,
    /// Organizations ordered by the number of their slow attempts, and by the oldest of these.
    crowds: BTreeSet<Crowd>,
    next_slot: u64,
}

/// What an organization holds.
#[derive(Default)]
struct Holder {
    held: usize,
    pace: Pace,
    /// The number of slots held by its unwell endpoints.
    unwell: usize,
    unwell_pace: Pace,
    waiting: usize,
    /// Its slow attempts with their endpoints, ordered by slot number and therefore by age.
    slow: BTreeMap<u64, EndpointId>,
}

/// An organization with slow attempts. Sorts by the number of slow attempts; of two organizations with the
/// same number, the one with the older attempt comes last.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Crowd {
    count: usize,
    oldest: std::cmp::Reverse<u64>,
    organization: OrganizationId,
}

impl Shares {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots,
            free: slots,
            unwell: 0,
            slow_free: slots,
            endpoints: HashMap::new(),
            organizations: HashMap::new(),
            crowds: BTreeSet::new(),
            next_slot: 0,
        }
    }

    /// Returns the number of free slots.
    pub(super) fn free(&self) -> usize {
        self.free
    }

    /// Returns the number of free slow slots.
    pub(super) fn slow_free(&self) -> usize {
        self.slow_free
    }

    /// Returns whether the endpoint may have a slot now, or the reason why not.
    pub(super) fn decide(
        &self,
        endpoint: &EndpointId,
        organization: &OrganizationId,
        now: Instant,
    ) -> Result<(), Refusal> {
        let behaviour = self.endpoints.get(endpoint);
        if behaviour.is_some_and(|behaviour| !self.has_room(behaviour)) {
            return Err(Refusal::Endpoint);
        }
        let holder = self.organizations.get(organization);
        let is_fast = |holder: &Holder| holder.pace_with(behaviour).is_fast(now);
        if holder.is_some_and(|holder| has_share(holder.held, is_fast(holder), self.free, self.slots)) {
            return Err(Refusal::Organization);
        }
        if self.free == 0 {
            return Err(Refusal::Slots);
        }
        if !behaviour.is_some_and(Behaviour::next_is_unwell) {
            return Ok(());
        }
        let free = self.unwell_max().saturating_sub(self.unwell);
        if holder.is_some_and(|holder| has_share(holder.unwell, is_fast(holder), free, self.unwell_max())) {
            Err(Refusal::Organization)
        } else if free == 0 {
            Err(Refusal::Unwell)
        } else {
            Ok(())
        }
    }

    /// Returns whether the endpoint's share has room.
    ///
    /// An endpoint may hold a quarter of the free slots, its slow attempts included, and at most a quarter of
    /// the free slow slots or a 32nd of all slow slots, whichever is larger.
    fn has_room(&self, behaviour: &Behaviour) -> bool {
        let in_flight_max = (self.free / ENDPOINT_SHARE).max(1);
        let slow_max = (self.slow_free / ENDPOINT_SHARE)
            .max(self.slots / SLOW_SHARE)
            .max(1);
        behaviour.held.len() + behaviour.slow < in_flight_max && behaviour.slow < slow_max
    }

    /// Returns the number of slots that unwell endpoints may hold together.
    pub(super) fn unwell_max(&self) -> usize {
        (self.slots / UNWELL_SHARE).max(1)
    }

    /// Takes a slot, and returns its number.
    pub(super) fn take(&mut self, endpoint: &EndpointId, organization: &OrganizationId, now: Instant) -> u64 {
        self.free -= 1;
        self.next_slot += 1;
        let id = self.next_slot;
        self.remember(endpoint, organization);
        self.change(endpoint, now, |behaviour, holder| {
            behaviour.pace.taken(behaviour.held.len(), now);
            behaviour.held.push_back((id, now));
            holder.pace.taken(holder.held, now);
            holder.held += 1;
        });
        id
    }

    /// Takes a slot for an endpoint with a waiting delivery, if it may have one now.
    pub(super) fn grant(&mut self, endpoint: &EndpointId, now: Instant) -> Option<u64> {
        let organization = self.endpoints.get(endpoint)?.organization.clone();
        let allowed = self.decide(endpoint, &organization, now).is_ok();
        allowed.then(|| self.take(endpoint, &organization, now))
    }

    /// Moves an attempt to a slow slot. Returns the slow attempt that has to end to make room, if any.
    pub(super) fn slow_down(&mut self, endpoint: &EndpointId, id: u64, now: Instant) -> Option<u64> {
        let ended = if self.slow_free == 0 {
            self.end_oldest(now)
        } else {
            None
        };
        let moved = self.change(endpoint, now, |behaviour, holder| {
            let took = behaviour.release(id, now)?;
            holder.release(behaviour, Some(took), now);
            behaviour.slow += 1;
            Some(behaviour.organization.clone())
        });
        if let Some(organization) = moved.flatten() {
            self.free += 1;
            self.slow_free -= 1;
            self.crowd(&organization, |slow| {
                slow.insert(id, endpoint.clone());
            });
        }
        ended
    }

    /// Frees the slow slot of the oldest attempt of the organization that holds the most.
    fn end_oldest(&mut self, now: Instant) -> Option<u64> {
        let crowd = self.crowds.last()?;
        let (id, organization) = (crowd.oldest.0, crowd.organization.clone());
        let endpoint = self.organizations.get(&organization)?.slow.get(&id)?.clone();
        self.change(&endpoint, now, |behaviour, _| {
            (behaviour.suspect, behaviour.quick) = (true, false);
        });
        self.leave_slow(&endpoint, &organization, id, now).then_some(id)
    }

    /// Gives a slot or a slow slot back. `success` is `None` if no attempt was made or it failed because of a
    /// fault on our side.
    pub(super) fn give_back(&mut self, endpoint: &EndpointId, id: u64, success: Option<bool>, now: Instant) {
        let released = self.change(endpoint, now, |behaviour, holder| {
            let took = behaviour.release(id, now);
            if let Some(took) = took {
                holder.release(behaviour, success.map(|_| took), now);
            }
            if let Some(success) = success {
                behaviour.tried = true;
                // An attempt that is not among the held slots was slow.
                behaviour.suspect = !success || took.is_none_or(|took| took > SLOW);
                behaviour.quick = took.is_some_and(|took| took < QUICK);
            }
            (took, behaviour.organization.clone())
        });
        match released {
            Some((Some(_), _)) => self.free += 1,
            Some((None, organization)) => {
                self.leave_slow(endpoint, &organization, id, now);
            }
            None => {}
        }
        self.forget_idle(endpoint);
    }

    /// Gives a slow slot back. Returns `false` if the attempt has already left it.
    fn leave_slow(
        &mut self,
        endpoint: &EndpointId,
        organization: &OrganizationId,
        id: u64,
        now: Instant,
    ) -> bool {
        let left = self.crowd(organization, |slow| slow.remove(&id).is_some());
        if left != Some(true) {
            return false;
        }
        self.slow_free += 1;
        self.change(endpoint, now, |behaviour, _| behaviour.slow -= 1);
        self.forget_idle(endpoint);
        true
    }

    /// Changes an organization's slow attempts, and updates its position in `crowds`.
    fn crowd<T>(
        &mut self,
        organization: &OrganizationId,
        change: impl FnOnce(&mut BTreeMap<u64, EndpointId>) -> T,
    ) -> Option<T> {
        let holder = self.organizations.get_mut(organization)?;
        if let Some(before) = Crowd::of(organization, holder) {
            self.crowds.remove(&before);
        }
        let changed = change(&mut holder.slow);
        self.crowds.extend(Crowd::of(organization, holder));
        Some(changed)
    }

    /// Notes that a delivery begins to wait for a slot.
    pub(super) fn waits(&mut self, endpoint: &EndpointId, organization: &OrganizationId) {
        let (behaviour, holder) = self.remember(endpoint, organization);
        behaviour.waiting += 1;
        holder.waiting += 1;
    }

    /// Notes that a delivery stops waiting.
    pub(super) fn waits_no_more(&mut self, endpoint: &EndpointId) {
        let Some(behaviour) = self.endpoints.get_mut(endpoint) else {
            return;
        };
        behaviour.waiting -= 1;
        if let Some(holder) = self.organizations.get_mut(&behaviour.organization) {
            holder.waiting -= 1;
        }
        self.forget_idle(endpoint);
    }

    /// Returns how many deliveries of the organization wait for a slot.
    pub(super) fn waiting(&self, organization: &OrganizationId) -> usize {
        let holder = self.organizations.get(organization);
        holder.map_or(0, |holder| holder.waiting)
    }

    /// Estimates how long a new delivery that was refused its share would wait, from how fast slots of that
    /// share are given back. Returns `None` if none is held.
    pub(super) fn promised_wait(
        &self,
        endpoint: &EndpointId,
        organization: &OrganizationId,
        refusal: Refusal,
        now: Instant,
    ) -> Option<Promise> {
        let behaviour = self.endpoints.get(endpoint);
        if refusal == Refusal::Endpoint {
            return behaviour?
                .pace
                .promise(behaviour?.held.len(), behaviour?.waiting, now);
        }
        let holder = self.organizations.get(organization)?;
        let is_unwell = behaviour.is_some_and(|behaviour| behaviour.tried && behaviour.next_is_unwell());
        // If the organization holds no unwell slot, the refused share was not its share of the unwell half.
        if is_unwell && holder.unwell > 0 {
            holder.unwell_pace.promise(holder.unwell, holder.waiting, now)
        } else {
            let pace = holder
                .pace
                .or_latency_of(behaviour.map(|behaviour| &behaviour.pace));
            pace.promise(holder.held, holder.waiting, now)
        }
    }

    /// Returns whether the endpoint's last attempt failed or was slow, or an attempt in flight is slow.
    pub(super) fn is_suspect(&self, endpoint: &EndpointId) -> bool {
        let behaviour = self.endpoints.get(endpoint);
        behaviour.is_some_and(Behaviour::is_suspect)
    }

    /// Returns how many endpoints are remembered.
    #[cfg(test)]
    pub(super) fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// Returns how many organizations are tracked.
    #[cfg(test)]
    pub(super) fn organizations(&self) -> usize {
        self.organizations.len()
    }

    /// Changes what an endpoint and its organization hold, and updates the numbers of unwell slots.
    fn change<T>(
        &mut self,
        endpoint: &EndpointId,
        now: Instant,
        change: impl FnOnce(&mut Behaviour, &mut Holder) -> T,
    ) -> Option<T> {
        let behaviour = self.endpoints.get_mut(endpoint)?;
        let holder = holder(&mut self.organizations, &behaviour.organization);
        let before = behaviour.unwell();
        let changed = change(behaviour, holder);
        let after = behaviour.unwell();
        if after > before {
            holder.unwell_pace.taken(holder.unwell, now);
        } else if after < before {
            holder.unwell_pace.returned(None, now);
        }
        holder.unwell = holder.unwell + after - before;
        self.unwell = self.unwell + after - before;
        Some(changed)
    }

    fn remember(
        &mut self,
        endpoint: &EndpointId,
        organization: &OrganizationId,
    ) -> (&mut Behaviour, &mut Holder) {
        if !self.endpoints.contains_key(endpoint) {
            if self.endpoints.len() >= REMEMBERED_MAX {
                self.endpoints.retain(|_, behaviour| !behaviour.is_idle());
            }
            let behaviour = Behaviour::new(organization.clone());
            self.endpoints.insert(endpoint.clone(), behaviour);
        }
        let behaviour = self
            .endpoints
            .get_mut(endpoint)
            .expect("the entry was inserted if it was missing");
        let holder = holder(&mut self.organizations, &behaviour.organization);
        (behaviour, holder)
    }

    /// Removes the endpoint's organization if it neither holds slots nor waits for them.
    fn forget_idle(&mut self, endpoint: &EndpointId) {
        let Some(behaviour) = self.endpoints.get(endpoint) else {
            return;
        };
        let holder = self.organizations.get(&behaviour.organization);
        if holder.is_some_and(Holder::is_idle) {
            self.organizations.remove(&behaviour.organization);
        }
    }
}

/// Returns whether an organization's share is used up: with one more slot, it would hold more than the slots
/// that remain free, apart from the reserved ones. Each organization may always hold one slot.
fn has_share(held: usize, is_fast: bool, free: usize, of: usize) -> bool {
    let kept = if is_fast { 0 } else { of / KEPT_SHARE };
    held > 0 && held + 1 + kept >= free
}

/// Returns the organization's entry, and creates it if necessary.
fn holder<'a>(
    organizations: &'a mut HashMap<OrganizationId, Holder>,
    organization: &OrganizationId,
) -> &'a mut Holder {
    if !organizations.contains_key(organization) {
        organizations.insert(organization.clone(), Holder::default());
    }
    organizations
        .get_mut(organization)
        .expect("the entry was inserted if it was missing")
}

impl Holder {
    /// Returns how fast the organization gives slots back. An organization that holds and waits for nothing
    /// is forgotten. In that case the endpoint's pace is used.
    fn pace_with<'a>(&'a self, endpoint: Option<&'a Behaviour>) -> &'a Pace {
        match endpoint {
            Some(endpoint) if self.pace.is_unknown() => &endpoint.pace,
            _ => &self.pace,
        }
    }

    fn is_idle(&self) -> bool {
        self.held == 0 && self.waiting == 0 && self.slow.is_empty()
    }

    /// Notes that an endpoint of the organization has released a slot. `took` is how long it was held; `None`
    /// if that time is not meaningful.
    fn release(&mut self, behaviour: &mut Behaviour, took: Option<Duration>, now: Instant) {
        self.held -= 1;
        self.pace.returned(took, now);
        behaviour.pace.returned(took, now);
        // The slot was already removed from those held, so what applies to the endpoint's next slot applied
        // to this one.
        if behaviour.next_is_unwell() {
            self.unwell_pace.returned(took, now);
        }
    }
}

impl Crowd {
    fn of(organization: &OrganizationId, holder: &Holder) -> Option<Self> {
        let (oldest, _) = holder.slow.first_key_value()?;
        Some(Self {
            count: holder.slow.len(),
            oldest: std::cmp::Reverse(*oldest),
            organization: organization.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
