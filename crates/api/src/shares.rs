//! Units that requests share, with limits on how many of them one organization and one key may hold.
//!
//! - An organization may hold at most as many units as are still free. A single organization thus gets half
//!   of them, and two get a third each.
//! - A key may hold at most as many units as its organization may still take. A single key thus gets a
//!   quarter.
//! - An organization or key that holds nothing is given what it asks for, as long as that many units are
//!   free.
//! - The units of a request with a platform key count for the key and for the organization that the request
//!   is for, if there is one. The key gets a quarter as well, for however many organizations.
//!
//! The decision takes constant time and never waits: a request that is refused is answered with 503.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use webhook::{ApiKeyId, OrganizationId};

use crate::caller::Caller;

/// A number of equal units. Clones share the same units.
#[derive(Clone)]
pub(crate) struct Shares(Arc<Mutex<Ledger>>);

struct Ledger {
    free: usize,
    by_organization: HashMap<OrganizationId, usize>,
    by_key: HashMap<ApiKeyId, usize>,
}

/// Units that a caller holds until this value is dropped.
pub(crate) struct Share {
    shares: Shares,
    caller: Caller,
    units: usize,
}

impl Shares {
    pub(crate) fn new(units: usize) -> Self {
        Self(Arc::new(Mutex::new(Ledger {
            free: units,
            by_organization: HashMap::new(),
            by_key: HashMap::new(),
        })))
    }

    /// Takes units for the caller. Returns `None` if that exceeds the caller's share.
    pub(crate) fn take(&self, caller: &Caller, units: usize) -> Option<Share> {
        self.ledger().take(caller, units).then(|| Share {
            shares: self.clone(),
            caller: caller.clone(),
            units,
        })
    }

    /// Returns the number of units that are free.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.ledger().free
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Takes further units. Returns whether the caller's share allows it.
    pub(crate) fn grow(&mut self, units: usize) -> bool {
        let grown = self.shares.ledger().take(&self.caller, units);
        self.units += if grown { units } else { 0 };
        grown
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.ledger().give_back(&self.caller, self.units);
    }
}

impl Ledger {
    fn take(&mut self, caller: &Caller, units: usize) -> bool {
        let organization = caller.organization.as_ref();
        let of_organization = organization.map_or(0, |id| held(&self.by_organization, id.as_str()));
        let of_key = held(&self.by_key, caller.key.id.as_str());
        // If it takes this many, the organization then holds as many units as are free. Only a platform key
        // can hold more than the organization; for it, the same holds for the key.
        let room = self.free.saturating_sub(of_organization.max(of_key)) / 2;
        let organization_may = units <= room || (of_organization == 0 && units <= self.free);
        let key_may = of_key + units <= room || of_key == 0;
        if !organization_may || !key_may {
            return false;
        }
        self.free -= units;
        if let Some(organization) = organization {
            add(&mut self.by_organization, organization, units);
        }
        add(&mut self.by_key, &caller.key.id, units);
        true
    }

    fn give_back(&mut self, caller: &Caller, units: usize) {
        self.free += units;
        if let Some(organization) = &caller.organization {
            subtract(&mut self.by_organization, organization.as_str(), units);
        }
        subtract(&mut self.by_key, caller.key.id.as_str(), units);
    }
}

fn held<K: Borrow<str> + Eq + Hash>(by: &HashMap<K, usize>, holder: &str) -> usize {
    by.get(holder).copied().unwrap_or_default()
}

fn add<K: Borrow<str> + Clone + Eq + Hash>(by: &mut HashMap<K, usize>, holder: &K, units: usize) {
    match by.get_mut::<str>(holder.borrow()) {
        Some(held) => *held += units,
        None => drop(by.insert(holder.clone(), units)),
    }
}

/// Subtracts units, and removes the entry of a holder that has given all of them back.
fn subtract<K: Borrow<str> + Eq + Hash>(by: &mut HashMap<K, usize>, holder: &str, units: usize) {
    if let Some(held) = by.get_mut(holder) {
        *held -= units;
        if *held == 0 {
            by.remove(holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn caller(organization: usize, key: usize) -> Caller {
        let own = format!("org_{organization}");
        Caller::with(&format!("key_{organization}_{key}"), Some(&own))
    }

    /// Returns a caller with a platform key, for this organization or for none.
    fn platform(organization: Option<usize>, key: usize) -> Caller {
        Caller {
            organization: organization.map(|number| OrganizationId::new(format!("org_{number}"))),
            ..Caller::with(&format!("key_platform_{key}"), None)
        }
    }

    /// Returns callers with keys of eight organizations, and callers with platform keys for these
    /// organizations or for none.
    fn callers() -> impl Strategy<Value = Caller> {
        prop_oneof![
            (0_usize..8, 0_usize..4).prop_map(|(organization, key)| caller(organization, key)),
            (prop::option::of(0_usize..8), 0_usize..4)
                .prop_map(|(organization, key)| platform(organization, key)),
        ]
    }

    /// Takes units one by one until the caller's share is used up.
    fn all_for(shares: &Shares, caller: &Caller) -> Vec<Share> {
        std::iter::from_fn(|| shares.take(caller, 1)).collect()
    }

    #[test]
    fn a_key_gets_a_quarter_an_organization_half_and_the_next_one_a_share_of_the_rest() {
        let shares = Shares::new(512);
        let first = all_for(&shares, &caller(1, 1));
        assert_eq!(first.len(), 128);
        let second = all_for(&shares, &caller(1, 2));
        assert_eq!(second.len(), 64);
        let other = all_for(&shares, &caller(2, 1));
        assert_eq!(other.len(), 80, "a quarter of what is free");
        drop((first, second, other));
        let keys: Vec<_> = (0..600).map(|key| all_for(&shares, &caller(1, key))).collect();
        assert_eq!(keys.iter().map(Vec::len).sum::<usize>(), 256);
        let again = shares.take(&caller(2, 1), 1);
        assert!(again.is_some());
        drop((keys, again));
        let ledger = shares.ledger();
        assert_eq!(
            (ledger.free, ledger.by_key.len(), ledger.by_organization.len()),
            (512, 0, 0)
        );
    }

    #[test]
    fn a_caller_that_holds_nothing_is_given_more_than_a_share() {
        let shares = Shares::new(100);
        let mut only = shares.take(&caller(1, 1), 60).unwrap();
        assert!(!only.grow(1));
        assert!(
            shares.take(&caller(1, 2), 1).is_none(),
            "its organization has more than half"
        );
        let mut other = shares.take(&caller(2, 1), 1).unwrap();
        assert!(other.grow(9), "of 40 that are free");
        assert!(shares.take(&caller(3, 1), 31).is_none(), "30 are free");
    }

    #[test]
    fn a_platform_key_gets_a_quarter_for_however_many_organizations() {
        let shares = Shares::new(512);
        let of_none = all_for(&shares, &platform(None, 1));
        assert_eq!(of_none.len(), 128);
        assert!(shares.take(&platform(Some(1), 1), 1).is_none());
        assert!(shares.take(&caller(1, 1), 1).is_some());
        drop(of_none);
        let of_many: Vec<_> = (0..600)
            .map_while(|number| shares.take(&platform(Some(number), 1), 1))
            .collect();
        assert_eq!(of_many.len(), 128);
        drop(of_many);
        // What the platform key holds for an organization is a part of the organization's share.
        let of_one = all_for(&shares, &platform(Some(1), 1));
        assert_eq!(all_for(&shares, &caller(1, 1)).len(), 64);
        drop(of_one);
        let ledger = shares.ledger();
        assert_eq!(
            (ledger.free, ledger.by_key.len(), ledger.by_organization.len()),
            (512, 0, 0)
        );
    }

    proptest! {
        #[test]
        fn whatever_others_hold_a_new_organization_gets_a_unit(
            asked in prop::collection::vec((callers(), 1_usize..20), 0..500),
        ) {
            let shares = Shares::new(1_000);
            let held: Vec<_> = asked
                .into_iter()
                .filter_map(|(caller, units)| shares.take(&caller, units))
                .collect();
            prop_assert!(shares.take(&caller(9, 9), 1).is_some());
            prop_assert_eq!(shares.free() + held.iter().map(|share| share.units).sum::<usize>(), 1_000);
        }
    }
}
