//! The rules of fair admission, as a state without a clock, tasks or waits: it is told what happens and when,
//! and says what may.
//!
//! Every decision looks at counters of the endpoint, of its organization and of the whole, and at nothing
//! else: it takes the same time whatever waits. Only ending a slow attempt looks for the organization that
//! holds most, in an ordered set of at most as many as there are slow slots.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

use webhook::{EndpointId, OrganizationId};

use super::{
    SLOW,
    pace::{Pace, Promise},
};
use crate::refusal::Refusal;

/// The share of the free slots that one endpoint may hold: a quarter.
const ENDPOINT_SHARE: usize = 4;
/// The share of all slots that endpoints not known to be well may hold together: half.
const UNWELL_SHARE: usize = 2;
/// The share of all slots that is kept for organizations that hold none, or that give their slots back
/// quickly: a 16th. Without it, organizations that hang at the same moment would leave nothing to one whose
/// attempts end quickly, as soon as it holds none for a moment.
const KEPT_SHARE: usize = 16;
/// The share of all slow slots that one endpoint may hold however few are free: a 32nd.
const SLOW_SHARE: usize = 32;
/// An attempt that fails within this time occupies a slot for no longer than a success does.
const QUICK: Duration = Duration::from_millis(100);
/// How many endpoints' behaviour is remembered. As many as the registry holds; past it, all that are idle are
/// forgotten.
pub(super) const REMEMBERED_MAX: usize = store::ENDPOINTS_MAX as usize;

/// Which endpoints and organizations hold which slots.
pub(super) struct Shares {
    slots: usize,
    free: usize,
    /// Slots that endpoints not known to be well hold together.
    unwell: usize,
    slow_free: usize,
    endpoints: HashMap<EndpointId, Behaviour>,
    /// Those that hold or wait.
    organizations: HashMap<OrganizationId, Holder>,
    /// Organizations by how many slow attempts they have, and by the oldest of them.
    crowds: BTreeSet<Crowd>,
    next_slot: u64,
}

/// How an endpoint does at this worker, and what it holds.
struct Behaviour {
    organization: OrganizationId,
    /// Slots held, oldest first, with the time each was taken.
    held: VecDeque<(u64, Instant)>,
    /// How many slow slots it holds.
    slow: usize,
    waiting: usize,
    pace: Pace,
    /// An attempt has succeeded or failed.
    tried: bool,
    /// The last attempt failed or was slow.
    suspect: bool,
    /// The last attempt was over within [`QUICK`].
    quick: bool,
}

/// What an organization holds.
#[derive(Default)]
struct Holder {
    held: usize,
    pace: Pace,
    /// Slots held by its endpoints that are not known to be well.
    unwell: usize,
    unwell_pace: Pace,
    waiting: usize,
    /// Its slow attempts by slot, which is by age, with their endpoints.
    slow: BTreeMap<u64, EndpointId>,
}

/// Sorts by the number of slow attempts; of two organizations with as many, the one with the older attempt
/// comes last.
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

    /// How many slots are free.
    pub(super) fn free(&self) -> usize {
        self.free
    }

    /// How many slow slots are free.
    pub(super) fn slow_free(&self) -> usize {
        self.slow_free
    }

    /// Whether the endpoint may have a slot now.
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

    /// An endpoint may hold a quarter of what is free, slow attempts included; and a quarter of the free slow
    /// slots, or a 32nd of all.
    fn has_room(&self, behaviour: &Behaviour) -> bool {
        let in_flight_max = (self.free / ENDPOINT_SHARE).max(1);
        let slow_max = (self.slow_free / ENDPOINT_SHARE)
            .max(self.slots / SLOW_SHARE)
            .max(1);
        behaviour.held.len() + behaviour.slow < in_flight_max && behaviour.slow < slow_max
    }

    /// How many slots endpoints that are not known to be well may hold together.
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

    /// Takes a slot for an endpoint that has one waiting, if it may have one now.
    pub(super) fn grant(&mut self, endpoint: &EndpointId, now: Instant) -> Option<u64> {
        let organization = self.endpoints.get(endpoint)?.organization.clone();
        let allowed = self.decide(endpoint, &organization, now).is_ok();
        allowed.then(|| self.take(endpoint, &organization, now))
    }

    /// Moves an attempt into a slow slot, and returns the slow attempt that has to end for it, if one has.
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

    /// Frees the slow slot of the oldest attempt of the organization that holds most.
    fn end_oldest(&mut self, now: Instant) -> Option<u64> {
        let crowd = self.crowds.last()?;
        let (id, organization) = (crowd.oldest.0, crowd.organization.clone());
        let endpoint = self.organizations.get(&organization)?.slow.get(&id)?.clone();
        self.change(&endpoint, now, |behaviour, _| {
            (behaviour.suspect, behaviour.quick) = (true, false);
        });
        self.leave_slow(&endpoint, &organization, id, now).then_some(id)
    }

    /// Gives a slot or a slow slot back. Without `success` it was given back unused, or by our own fault.
    pub(super) fn give_back(&mut self, endpoint: &EndpointId, id: u64, success: Option<bool>, now: Instant) {
        let released = self.change(endpoint, now, |behaviour, holder| {
            let took = behaviour.release(id, now);
            if let Some(took) = took {
                holder.release(behaviour, success.map(|_| took), now);
            }
            if let Some(success) = success {
                behaviour.tried = true;
                // What is not among the slots held was slow.
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

    /// False when the attempt has left before.
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

    /// Changes an organization's slow attempts, and its place among the crowds.
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

    /// A delivery begins to wait for a slot.
    pub(super) fn waits(&mut self, endpoint: &EndpointId, organization: &OrganizationId) {
        let (behaviour, holder) = self.remember(endpoint, organization);
        behaviour.waiting += 1;
        holder.waiting += 1;
    }

    /// A delivery does not wait any more.
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

    /// How many deliveries of the organization wait for a slot.
    pub(super) fn waiting(&self, organization: &OrganizationId) -> usize {
        let holder = self.organizations.get(organization);
        holder.map_or(0, |holder| holder.waiting)
    }

    /// How long a newcomer that was refused its share would wait, judging by how fast slots come back to that
    /// share.
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
        // Without a slot of the half, it was not its share of the half that was refused.
        if is_unwell && holder.unwell > 0 {
            holder.unwell_pace.promise(holder.unwell, holder.waiting, now)
        } else {
            let pace = holder
                .pace
                .or_latency_of(behaviour.map(|behaviour| &behaviour.pace));
            pace.promise(holder.held, holder.waiting, now)
        }
    }

    /// Whether the endpoint's last attempt failed or was slow, or one in flight is.
    pub(super) fn is_suspect(&self, endpoint: &EndpointId) -> bool {
        let behaviour = self.endpoints.get(endpoint);
        behaviour.is_some_and(Behaviour::is_suspect)
    }

    /// How many endpoints are remembered.
    #[cfg(test)]
    pub(super) fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// How many organizations are tracked.
    #[cfg(test)]
    pub(super) fn organizations(&self) -> usize {
        self.organizations.len()
    }

    /// Changes what an endpoint and its organization hold, and counts what is held by those that are not
    /// known to be well.
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
            .expect("it was inserted when it was not there");
        let holder = holder(&mut self.organizations, &behaviour.organization);
        (behaviour, holder)
    }

    /// Forgets the endpoint's organization if it neither holds nor waits.
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

/// Whether an organization would hold more than is left free if it took one more, apart from what is kept.
/// Each may hold one.
fn has_share(held: usize, is_fast: bool, free: usize, of: usize) -> bool {
    let kept = if is_fast { 0 } else { of / KEPT_SHARE };
    held > 0 && held + 1 + kept >= free
}

/// The organization's, which is tracked from now on.
fn holder<'a>(
    organizations: &'a mut HashMap<OrganizationId, Holder>,
    organization: &OrganizationId,
) -> &'a mut Holder {
    if !organizations.contains_key(organization) {
        organizations.insert(organization.clone(), Holder::default());
    }
    organizations
        .get_mut(organization)
        .expect("it was inserted when it was not there")
}

impl Behaviour {
    fn new(organization: OrganizationId) -> Self {
        Self {
            organization,
            held: VecDeque::new(),
            slow: 0,
            waiting: 0,
            pace: Pace::default(),
            tried: false,
            suspect: false,
            quick: false,
        }
    }

    fn is_idle(&self) -> bool {
        self.held.is_empty() && self.slow == 0 && self.waiting == 0
    }

    fn is_suspect(&self) -> bool {
        self.suspect || self.slow > 0
    }

    /// How many of its slots count as those of an endpoint that is not known to be well.
    fn unwell(&self) -> usize {
        if self.is_well() {
            0
        } else {
            self.held.len().saturating_sub(self.trusted())
        }
    }

    /// Whether one slot more would count.
    fn next_is_unwell(&self) -> bool {
        !self.is_well() && self.held.len() >= self.trusted()
    }

    fn is_well(&self) -> bool {
        self.tried && !self.is_suspect()
    }

    /// How many slots an endpoint that is not known to be well may hold like a well one: one, if it was never
    /// tried, or if it has just failed quickly. Otherwise a healthy endpoint that answers one request
    /// with 500 would wait for those that hang.
    fn trusted(&self) -> usize {
        usize::from(self.slow == 0 && (!self.tried || self.quick))
    }

    /// Takes a slot off those held, and returns how long it was held.
    fn release(&mut self, id: u64, now: Instant) -> Option<Duration> {
        let at = self.held.iter().position(|(held, _)| *held == id)?;
        let (_, since) = self.held.remove(at)?;
        Some(now.duration_since(since))
    }
}

impl Holder {
    /// Returns how fast it gives slots back. An organization that holds nothing and waits for nothing is
    /// forgotten; then the endpoint tells, if it has given one back lately.
    fn pace_with<'a>(&'a self, endpoint: Option<&'a Behaviour>) -> &'a Pace {
        match endpoint {
            Some(endpoint) if self.pace.is_unknown() => &endpoint.pace,
            _ => &self.pace,
        }
    }

    fn is_idle(&self) -> bool {
        self.held == 0 && self.waiting == 0 && self.slow.is_empty()
    }

    /// An endpoint of it has released a slot, which was held for `took` if that says anything.
    fn release(&mut self, behaviour: &mut Behaviour, took: Option<Duration>, now: Instant) {
        self.held -= 1;
        self.pace.returned(took, now);
        behaviour.pace.returned(took, now);
        // The slot is not among those held any more: what is true of the next one was true of it.
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
