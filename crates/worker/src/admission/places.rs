//! Whose first attempts are in work: places are given out as slots are, by organization, before any slot is
//! asked for.
//!
//! The events of an organization begin in their order. It may have as many first attempts in work as there
//! are places left, and always a 32nd of all, so that none waits for another's.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use webhook::OrganizationId;

use super::pace::Pace;

/// The share of all places that an organization may have whatever the others have: a 32nd.
const FLOOR_SHARE: usize = 32;
/// How many waiting organizations are looked at when places come free.
const LOOKED_AT: usize = 8;

/// Which first attempts are in work, and which events wait to begin.
pub(super) struct Places {
    total: usize,
    /// May be more than there are: each organization has its floor.
    in_work: usize,
    /// Those that have places or wait for them.
    organizations: HashMap<OrganizationId, Party>,
    /// Organizations with events that wait, in turn.
    turns: VecDeque<OrganizationId>,
    next_ticket: u64,
}

#[derive(Default)]
struct Party {
    in_work: usize,
    pace: Pace,
    /// Its events that wait, in order.
    waiting: BTreeMap<u64, Event>,
    /// It stands in [`Places::turns`].
    in_turn: bool,
}

/// An event that waits, and how many places it wants.
struct Event {
    attempts: usize,
    granted: oneshot::Sender<()>,
}

impl Places {
    pub(super) fn new(total: usize) -> Self {
        Self {
            total,
            in_work: 0,
            organizations: HashMap::new(),
            turns: VecDeque::new(),
            next_ticket: 0,
        }
    }

    /// Takes places if the organization may have more and none of its events waits.
    pub(super) fn take(&mut self, organization: &OrganizationId, attempts: usize, now: Instant) -> bool {
        let may = match self.organizations.get(organization) {
            Some(party) => party.waiting.is_empty() && self.has_room(party),
            None => true,
        };
        if may {
            self.give(organization, attempts, now);
        }
        may
    }

    fn has_room(&self, party: &Party) -> bool {
        let left = self.total.saturating_sub(self.in_work);
        party.in_work < left.max(self.total / FLOOR_SHARE).max(1)
    }

    fn give(&mut self, organization: &OrganizationId, attempts: usize, now: Instant) {
        self.in_work += attempts;
        let party = self.party(organization);
        party.pace.taken(party.in_work, now);
        party.in_work += attempts;
    }

    /// The event waits for places, behind those of its organization that wait already. Returns its ticket.
    pub(super) fn wait(
        &mut self,
        organization: &OrganizationId,
        attempts: usize,
    ) -> (u64, oneshot::Receiver<()>) {
        self.next_ticket += 1;
        let (ticket, (granted, grant)) = (self.next_ticket, oneshot::channel());
        let party = self.party(organization);
        party.waiting.insert(ticket, Event { attempts, granted });
        if !std::mem::replace(&mut party.in_turn, true) {
            self.turns.push_back(organization.clone());
        }
        (ticket, grant)
    }

    /// The event does not wait any more. False when it has its places already.
    pub(super) fn leave(&mut self, organization: &OrganizationId, ticket: u64, now: Instant) -> bool {
        let party = self.organizations.get_mut(organization);
        let left = party.is_some_and(|party| party.waiting.remove(&ticket).is_some());
        self.grant(organization, now);
        left
    }

    /// How long none of the organization's places has come free.
    pub(super) fn quiet(&self, organization: &OrganizationId, now: Instant) -> Duration {
        let party = self.organizations.get(organization);
        party.map_or(Duration::ZERO, |party| party.pace.quiet(now))
    }

    /// Takes places back, and gives them to events that wait.
    pub(super) fn give_back(&mut self, organization: &OrganizationId, attempts: usize, now: Instant) {
        self.in_work -= attempts;
        if let Some(party) = self.organizations.get_mut(organization) {
            party.in_work -= attempts;
            party.pace.returned(None, now);
        }
        self.grant(organization, now);
    }

    /// To the other organizations in turn, an event each, then to this one. Those that got places stand
    /// behind those that did not.
    fn grant(&mut self, organization: &OrganizationId, now: Instant) {
        let mut served = Vec::new();
        for _ in 0..self.turns.len().min(LOOKED_AT) {
            let Some(next) = self.turns.pop_front() else {
                break;
            };
            let granted = self.grant_one(&next, now);
            let party = self.party(&next);
            party.in_turn = !party.waiting.is_empty();
            if !party.in_turn {
                self.forget_idle(&next);
            } else if granted {
                served.push(next);
            } else {
                self.turns.push_back(next);
            }
        }
        self.turns.extend(served);
        while self.grant_one(organization, now) {}
        self.forget_idle(organization);
    }

    fn grant_one(&mut self, organization: &OrganizationId, now: Instant) -> bool {
        let Some(party) = self.organizations.get(organization) else {
            return false;
        };
        if !self.has_room(party) {
            return false;
        }
        let party = self.party(organization);
        let Some((_, Event { attempts, granted })) = party.waiting.pop_first() else {
            return false;
        };
        // An event that has left takes nothing.
        if granted.send(()).is_ok() {
            self.give(organization, attempts, now);
        }
        true
    }

    fn party(&mut self, organization: &OrganizationId) -> &mut Party {
        if !self.organizations.contains_key(organization) {
            self.organizations.insert(organization.clone(), Party::default());
        }
        self.organizations
            .get_mut(organization)
            .expect("it was inserted when it was not there")
    }

    fn forget_idle(&mut self, organization: &OrganizationId) {
        let party = self.organizations.get(organization);
        if party.is_some_and(|party| party.in_work == 0 && party.waiting.is_empty() && !party.in_turn) {
            self.organizations.remove(organization);
        }
    }

    #[cfg(test)]
    pub(super) fn in_work(&self) -> usize {
        self.in_work
    }

    #[cfg(test)]
    pub(super) fn tracked(&self) -> usize {
        self.organizations.len()
    }
}
