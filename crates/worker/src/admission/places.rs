//! Limits the first attempts in progress. Places are shared among organizations as slots are, before any slot
//! is requested.
//!
//! The events of an organization begin in order. An organization may have as many first attempts in progress
//! as there are free places, and always at least a 32nd of all places, so that no organization waits for the
//! places of another.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use webhook::OrganizationId;

use super::pace::Pace;

/// The share of all places that an organization may always have, regardless of the others: a 32nd.
const FLOOR_SHARE: usize = 32;
/// The number of waiting organizations that are considered when places become free.
const LOOKED_AT: usize = 8;

/// The first attempts in progress, and the events that wait to begin.
pub(super) struct Places {
    total: usize,
    /// The number of first attempts in progress. It can exceed `total`, because each organization has its
    /// guaranteed minimum.
    in_work: usize,
    /// The organizations that have places or wait for them.
    organizations: HashMap<OrganizationId, Party>,
    /// The organizations with waiting events, in the order of their turns.
    turns: VecDeque<OrganizationId>,
    next_ticket: u64,
}

#[derive(Default)]
struct Party {
    in_work: usize,
    pace: Pace,
    /// The organization's waiting events, in order.
    waiting: BTreeMap<u64, Event>,
    /// Whether the organization is in [`Places::turns`].
    in_turn: bool,
}

/// A waiting event, and the number of places it needs.
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

    /// Takes places if the organization may have more and none of its events is waiting. Returns whether it
    /// did.
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

    /// Adds an event that waits for places, behind the waiting events of its organization. Returns its
    /// ticket, and the receiver that is notified when it has its places.
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

    /// Removes a waiting event. Returns `false` if it already has its places.
    pub(super) fn leave(&mut self, organization: &OrganizationId, ticket: u64, now: Instant) -> bool {
        let party = self.organizations.get_mut(organization);
        let left = party.is_some_and(|party| party.waiting.remove(&ticket).is_some());
        self.grant(organization, now);
        left
    }

    /// Returns for how long none of the organization's places has been given back.
    pub(super) fn quiet(&self, organization: &OrganizationId, now: Instant) -> Duration {
        let party = self.organizations.get(organization);
        party.map_or(Duration::ZERO, |party| party.pace.quiet(now))
    }

    /// Takes places back, and gives them to waiting events.
    pub(super) fn give_back(&mut self, organization: &OrganizationId, attempts: usize, now: Instant) {
        self.in_work -= attempts;
        if let Some(party) = self.organizations.get_mut(organization) {
            party.in_work -= attempts;
            party.pace.returned(None, now);
        }
        self.grant(organization, now);
    }

    /// Gives free places to the other organizations in turn, one event each, then to this one. Organizations
    /// that were granted places go behind those that were not.
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
        // An event that has left takes no places.
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
            .expect("the entry was inserted if it was missing")
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
