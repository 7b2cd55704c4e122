//! The present state of an organization's endpoints and deliveries.

use std::{cmp::Reverse, time::Duration};

use store::{Activity, EndpointCounts, Error, Failing, Store};
use webhook::OrganizationId;

/// A pending delivery is overdue when its next attempt has been due for longer than this. It is longer than
/// any attempt takes.
pub const OVERDUE: Duration = Duration::from_mins(5);
/// The maximum number of failing endpoints to count.
pub const FAILING_MAX: u32 = 1_000;

/// The present state of an organization's endpoints and deliveries.
#[derive(Clone, Debug)]
pub struct Status {
    /// When the state was read, in Unix milliseconds.
    pub at_ms: u64,
    /// The time from which on dead deliveries are counted, in Unix milliseconds.
    pub since_ms: u64,
    /// The numbers of endpoints.
    pub endpoints: EndpointCounts,
    /// What happens now.
    pub activity: Activity,
    /// The failing endpoints, at most [`FAILING_MAX`], the most urgent ones first.
    pub failing: Vec<Failing>,
}

/// Reads the state of an organization as of `now_ms`.
///
/// # Errors
///
/// Returns an error if a database operation fails.
pub async fn read(
    store: &Store,
    organization: &OrganizationId,
    since_ms: u64,
    now_ms: u64,
) -> Result<Status, Error> {
    let overdue_ms = now_ms.saturating_sub(OVERDUE.as_millis() as u64);
    let (endpoints, activity) = store.activity(organization, now_ms, since_ms, overdue_ms).await?;
    let mut failing = store
        .failing(Some(organization), None, FAILING_MAX, now_ms)
        .await?;
    failing.sort_by_key(urgency);
    Ok(Status {
        at_ms: now_ms,
        since_ms,
        endpoints,
        activity,
        failing,
    })
}

/// Returns the key by which failing endpoints are ordered: those with the most pending deliveries first, and
/// then those that have failed the longest.
pub fn urgency(found: &Failing) -> (Reverse<u64>, u64) {
    (Reverse(found.pending), found.failing_since_ms)
}
