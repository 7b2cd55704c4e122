//! Decides whether the endpoint or our side has failed when a name or an address cannot be reached.
//!
//! A name server that does not answer a query, and a routing table without a route to an address, look the
//! same whether they fail for everything or only for this endpoint. If they fail only for this endpoint, the
//! endpoint has failed, and the failure spends an attempt. If it did not, the delivery would be deferred for
//! as long as the failure lasts. So other names and addresses are checked at the moment of the failure, not
//! earlier, and without a cache: evidence that is older than the failure proves nothing about it.
//!
//! - **Names**: up to three names that were answered before, and a name that does not exist in the same
//!   top-level domain, are looked up; then the failed name once more; then others again. If one of the others
//!   is answered both times, even with NXDOMAIN, and the failed name fails again, its name servers are what
//!   fails.
//! - **Routes**: if there are addresses that were connected to before, and the routing table has a route to
//!   all of them, the missing route is the endpoint's failure. The usual reason is that the endpoint's name
//!   has only IPv6 addresses and this machine has no IPv6. If the route to one of the other addresses is
//!   missing as well, the network has failed.
//!
//! Without evidence, the failure is ours. Only the configured name servers are queried, and nothing else is
//! sent.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hickory_resolver::TokioResolver;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::lookup::addresses_of;

/// The maximum number of recent names and of recent addresses that are remembered.
const REMEMBERED_MAX: usize = 8;
/// The number of remembered names that are looked up.
const ASKED_MAX: usize = 3;
/// The maximum number of failures that are investigated at the same time. Further failures have no evidence:
/// when so many lookups fail together, the failure is usually ours.
const AT_ONCE_MAX: usize = 16;

/// The most recent values, without duplicates.
#[derive(Debug)]
struct Latest<T>(Mutex<VecDeque<T>>);

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + PartialEq> Latest<T> {
    fn note<B>(&self, latest: &B)
    where
        T: Borrow<B>,
        B: ?Sized + PartialEq + ToOwned<Owned = T>,
    {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_latest = |known: &T| known.borrow() == latest;
        if all.front().is_some_and(is_latest) {
            return;
        }
        all.retain(|known| !is_latest(known));
        all.push_front(latest.to_owned());
        all.truncate(REMEMBERED_MAX);
    }

    fn other_than(&self, one: &T) -> Vec<T> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|known| *known != one).cloned().collect()
    }
}

/// The evidence about name servers.
#[derive(Debug)]
pub(crate) struct Names {
    /// A resolver that asks the same name servers once each, without a cache or a hosts file.
    asking: TokioResolver,
    answered: Latest<String>,
    permits: Semaphore,
}

impl Names {
    pub(crate) fn new(asking: TokioResolver) -> Self {
        Self {
            asking,
            answered: Latest::default(),
            permits: Semaphore::new(AT_ONCE_MAX),
        }
    }

    /// Records that a name server answered a query for this name.
    pub(crate) fn answered(&self, host: &str) {
        self.answered.note(host);
    }

    /// Returns whether this name, whose lookup failed, fails alone. Takes at most 6 s if no search list
    /// applies to the name; 2 s if other names are answered at once, or not at all.
    ///
    /// Other names have to be answered both before and after the name fails again. Otherwise, name servers
    /// that recover or fail in the meantime would look like a failure of this name.
    pub(crate) async fn fails_alone(&self, host: &str) -> bool {
        let Ok(_permit) = self.permits.try_acquire() else {
            return false;
        };
        self.others_are_answered(host).await && self.fails(host).await && self.others_are_answered(host).await
    }

    async fn fails(&self, host: &str) -> bool {
        let asked = addresses_of(&self.asking, host).await;
        asked.is_err_and(|error| !error.is_answer())
    }

    async fn others_are_answered(&self, host: &str) -> bool {
        let mut asking = JoinSet::new();
        let others = self.answered.other_than(&host.to_owned()).into_iter();
        for other in others.take(ASKED_MAX).chain([nonexistent(host)]) {
            let resolver = self.asking.clone();
            asking.spawn(async move {
                let asked = addresses_of(&resolver, &other).await;
                asked.map_or_else(|error| error.is_answer(), |_| true)
            });
        }
        while let Some(asked) = asking.join_next().await {
            if asked.unwrap_or(false) {
                return true;
            }
        }
        false
    }
}

/// Returns a name that does not exist, in the top-level domain of `host`.
fn nonexistent(host: &str) -> String {
    let random = RandomState::new().build_hasher().finish();
    match host.rsplit_once('.') {
        Some((_, top)) => format!("{random:016x}.{top}"),
        None => format!("{random:016x}"),
    }
}

/// The evidence about the network. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    reached: Arc<Latest<IpAddr>>,
}

impl Routes {
    /// Records that a connection to this address was made.
    pub(crate) fn reached(&self, address: IpAddr) {
        self.reached.note(&address);
    }

    /// Returns whether all other recently reached addresses have a route, while this address has none.
    /// Returns `false` if there are no others.
    pub(crate) fn fails_alone(&self, address: IpAddr, has_route: impl Fn(IpAddr) -> bool) -> bool {
        let others = self.reached.other_than(&address);
        !others.is_empty() && others.into_iter().all(has_route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_is_unreachable_alone_if_all_others_still_have_a_way() {
        let routes = Routes::default();
        let (missing, first, second) = (ip("2001:db8::1"), ip("192.0.2.1"), ip("198.51.100.1"));
        assert!(!routes.fails_alone(missing, |_| true), "no evidence");
        routes.reached(missing);
        assert!(!routes.fails_alone(missing, |_| true), "none of another");
        routes.reached(first);
        routes.reached(second);
        assert!(routes.fails_alone(missing, |_| true));
        assert!(!routes.fails_alone(missing, |other| other == first));
        assert!(!routes.fails_alone(missing, |_| false));
    }

    #[test]
    fn only_the_latest_are_remembered_and_each_once() {
        let names = Latest::<String>::default();
        for number in [1, 2, 2, 1, 3, 4, 5, 6, 7, 8, 9, 9] {
            names.note(format!("{number}.example").as_str());
        }
        let kept = names.other_than(&"5.example".to_owned());
        let expected = ["9", "8", "7", "6", "4", "3", "1"].map(|number| format!("{number}.example"));
        assert_eq!(kept, expected);
    }

    #[test]
    fn the_name_that_does_not_exist_is_of_the_same_top_level_domain() {
        assert_eq!(nonexistent("hooks.example.com").rsplit('.').next(), Some("com"));
        assert_eq!(nonexistent("hooks.example.com").matches('.').count(), 1);
        assert!(!nonexistent("receiver").contains('.'));
    }
}
