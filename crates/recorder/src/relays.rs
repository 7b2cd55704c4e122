//! Ends relays whose lease has expired: their programs are not connected any more.
//!
//! The API renews the lease of a connected relay every 15 s, but cannot while the database is away. After such an
//! outage, the leases of all connected relays may have expired. Nothing is therefore ended until the database has
//! answered for as long as a lease lasts.

use std::time::Duration;

use store::Store;
use tokio::time::Instant;
use webhook::EndpointId;

use crate::now_ms;

/// The interval between two searches for relays whose lease has expired. It is added to the minute for which a relay
/// outlives its connection.
pub(crate) const EVERY: Duration = Duration::from_secs(10);
/// How long the database must have answered before a relay is ended: the time of a lease.
const ANSWERED_MIN: Duration = Duration::from_mins(1);
/// The maximum time between two searches. If more time has passed, this process did not run, and it is not known
/// whether the database has answered.
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// Since when the database has answered every search.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    since: Option<Instant>,
    last: Option<Instant>,
}

impl Answered {
    /// Notes that the database has answered at this time. Returns whether it has done so for long enough.
    fn at(&mut self, now: Instant) -> bool {
        if self.last.is_some_and(|last| now - last > PAUSE_MAX) {
            self.since = None;
        }
        self.last = Some(now);
        now - *self.since.get_or_insert(now) >= ANSWERED_MIN
    }

    /// Notes that the database has not answered.
    fn failed(&mut self) {
        *self = Self::default();
    }
}

/// Deletes the relays whose lease has expired, if the database has answered for long enough. After an error with one
/// relay it goes on with the next one, unless the database is unavailable. Returns the last error.
pub(crate) async fn end_expired(store: &Store, answered: &mut Answered) -> Result<(), store::Error> {
    let (mut after, mut failed) = (None, None);
    loop {
        let expired = match store.expired_relays(after.as_ref()).await {
            Ok(expired) => expired,
            Err(error) => {
                answered.failed();
                return Err(error);
            }
        };
        if !answered.at(Instant::now()) {
            return Ok(());
        }
        for relay in &expired {
            match end(store, relay).await {
                Ok(()) => {}
                Err(error) if error.is_unavailable() => {
                    answered.failed();
                    return Err(error);
                }
                Err(error) => failed = Some(error),
            }
        }
        match expired.into_iter().next_back() {
            Some(last) => after = Some(last),
            None => return failed.map_or(Ok(()), Err),
        }
    }
}

async fn end(store: &Store, relay: &EndpointId) -> Result<(), store::Error> {
    if store.expire_relay(relay, now_ms() as i64).await? {
        tracing::info!(endpoint.id = %relay, "deleted the relay: no program was connected for a minute");
        return Ok(());
    }
    // The lease was renewed just now, or an earlier version has deleted or changed the endpoint.
    store.forget_relay(relay).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns whether relays may be ended after each search. A search has the second at which it is made, and whether
    /// the database answers.
    fn may_end(looks: &[(u32, bool)]) -> Vec<bool> {
        let (began, mut answered) = (Instant::now(), Answered::default());
        let look = |(at_s, is_answered): &(u32, bool)| {
            if *is_answered {
                return answered.at(began + SECOND * *at_s);
            }
            answered.failed();
            false
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn relays_end_once_the_database_has_answered_for_a_minute() {
        let looks: Vec<_> = (0..8).map(|look| (look * 10, true)).collect();
        let expected = [false, false, false, false, false, false, true, true];
        assert_eq!(may_end(&looks), expected);
    }

    #[test]
    fn an_outage_begins_the_minute_again() {
        let mut looks: Vec<_> = (0..8).map(|look| (look * 10, true)).collect();
        looks.push((80, false));
        looks.extend((9..16).map(|look| (look * 10, true)));
        let may_end = may_end(&looks);
        assert_eq!(may_end[7..9], [true, false]);
        assert_eq!(may_end[9..], [false, false, false, false, false, false, true]);
    }

    #[test]
    fn a_process_that_did_not_run_waits_again() {
        let looks = [(0, true), (20, true), (40, true), (61, true), (80, true)];
        assert_eq!(may_end(&looks), [false; 5], "21 s passed without a search");
        let looks = [(0, true), (20, true), (40, true), (60, true)];
        assert_eq!(may_end(&looks)[3..], [true]);
    }
}
