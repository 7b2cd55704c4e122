//! The deliveries that wait for a slot, served in turn by organization and by endpoint.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::sync::oneshot;
use webhook::{EndpointId, OrganizationId};

/// The number of waiting organizations that are considered when a slot becomes free, and of endpoints within
/// each.
const LOOKED_AT: usize = 8;

/// The waiting deliveries, in the order of their turns.
#[derive(Default)]
pub(super) struct Waiters {
    endpoints: HashMap<EndpointId, BTreeMap<u64, oneshot::Sender<u64>>>,
    organizations: HashMap<OrganizationId, VecDeque<EndpointId>>,
    turns: VecDeque<OrganizationId>,
    next_ticket: u64,
}

/// The result of trying to grant an endpoint a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    Granted,
    /// The endpoint may have no slot now, or has no waiting delivery any more.
    Refused,
    /// No slot is free.
    NoneFree,
}

impl Waiters {
    /// Adds a delivery behind the others of its endpoint. Returns its ticket, and the receiver for the number
    /// of its slot.
    pub(super) fn add(
        &mut self,
        endpoint: &EndpointId,
        organization: &OrganizationId,
    ) -> (u64, oneshot::Receiver<u64>) {
        self.next_ticket += 1;
        let (grant, granted) = oneshot::channel();
        if let Some(waiting) = self.endpoints.get_mut(endpoint) {
            waiting.insert(self.next_ticket, grant);
        } else {
            let waiting = BTreeMap::from([(self.next_ticket, grant)]);
            self.endpoints.insert(endpoint.clone(), waiting);
            self.add_turn(endpoint.clone(), organization);
        }
        (self.next_ticket, granted)
    }

    fn add_turn(&mut self, endpoint: EndpointId, organization: &OrganizationId) {
        if let Some(endpoints) = self.organizations.get_mut(organization) {
            endpoints.push_back(endpoint);
        } else {
            self.organizations
                .insert(organization.clone(), VecDeque::from([endpoint]));
            self.turns.push_back(organization.clone());
        }
    }

    /// Removes a delivery. Returns `false` if it was granted a slot.
    pub(super) fn remove(&mut self, endpoint: &EndpointId, ticket: u64) -> bool {
        let waiting = self.endpoints.get_mut(endpoint);
        waiting.is_some_and(|waiting| waiting.remove(&ticket).is_some())
    }

    /// Returns whether a delivery waits for the endpoint.
    pub(super) fn has(&self, endpoint: &EndpointId) -> bool {
        let waiting = self.endpoints.get(endpoint);
        waiting.is_some_and(|waiting| !waiting.is_empty())
    }

    /// Removes and returns the delivery of the endpoint that has waited longest.
    pub(super) fn next_of(&mut self, endpoint: &EndpointId) -> Option<oneshot::Sender<u64>> {
        let (_, grant) = self.endpoints.get_mut(endpoint)?.pop_first()?;
        Some(grant)
    }

    /// Gives several organizations their turn.
    ///
    /// In each, tries several endpoints until one has been granted a slot. Stops when no slot is free.
    /// Organizations that were granted a slot go behind those that were not.
    pub(super) fn take_turns(&mut self, mut grant: impl FnMut(&mut Self, &EndpointId) -> Grant) {
        let mut served = Vec::new();
        for _ in 0..self.turns.len().min(LOOKED_AT) {
            let Some(organization) = self.turns.pop_front() else {
                break;
            };
            let endpoints = self.organizations.remove(&organization).unwrap_or_default();
            let (endpoints, granted) = self.take_turns_of(endpoints, &mut grant);
            if endpoints.is_empty() {
                continue;
            }
            self.organizations.insert(organization.clone(), endpoints);
            match granted {
                Grant::Granted => served.push(organization),
                Grant::Refused => self.turns.push_back(organization),
                Grant::NoneFree => {
                    self.turns.push_front(organization);
                    break;
                }
            }
        }
        self.turns.extend(served);
    }

    /// Returns the endpoints that still have waiting deliveries, and the result.
    fn take_turns_of(
        &mut self,
        mut endpoints: VecDeque<EndpointId>,
        grant: &mut impl FnMut(&mut Self, &EndpointId) -> Grant,
    ) -> (VecDeque<EndpointId>, Grant) {
        for _ in 0..endpoints.len().min(LOOKED_AT) {
            let Some(endpoint) = endpoints.pop_front() else {
                break;
            };
            let granted = grant(self, &endpoint);
            if granted == Grant::NoneFree {
                endpoints.push_front(endpoint);
                return (endpoints, granted);
            }
            if self.endpoints.get(&endpoint).is_some_and(BTreeMap::is_empty) {
                self.endpoints.remove(&endpoint);
            } else {
                endpoints.push_back(endpoint);
            }
            if granted == Grant::Granted {
                return (endpoints, granted);
            }
        }
        (endpoints, Grant::Refused)
    }
}
