//! Shared support for the end-to-end tests: the built binary, receivers on real sockets, and a real broker.
//!
//! The tests run `magnetite` as its users do and observe it from outside: requests at receivers, messages in
//! queues, and lines on standard output. They do not link the worker. Each test has its own installation
//! ([`Installation`]): a name prefix on the broker, an SQLite file in a temporary directory, and processes
//! that end with the test.

#![allow(
    clippy::unwrap_used,
    clippy::missing_errors_doc,
    reason = "a test ends at the first surprise"
)]

mod installation;
mod role;
mod secrets;
mod api;
mod script;
mod node;
mod cluster;
mod postgres;
mod disk;
mod amqp;
mod alone;
mod raw;
mod receiver;
mod clocks;
mod shifted;
mod certificates;
mod hostile;
mod names;
mod traced;
mod load;
mod ledger;
mod journal;
mod proxy;
mod confirms;
mod collector;
mod crowd;
mod scale;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use alone::Alone;
pub use amqp::{Amqp, Found, due_headers};
pub use api::{Answered, Api};
pub use certificates::{Certificates, Issued};
pub use clocks::{CLOCK_TOLERANCE, has_passed, is_between, outside_ms};
pub use cluster::Cluster;
pub use collector::Collector;
pub use confirms::{Confirms, Published, Strike};
pub use crowd::Crowd;
pub use disk::SmallDisk;
pub use hostile::{Hostile, Hostility, Visit};
pub use installation::{Endpoint, Installation, binary, shared_broker, with_input};
pub use journal::Audit;
pub use ledger::{Books, Break, Ledger};
pub use load::Load;
pub use names::{Names, Reply};
pub use node::Node;
pub use postgres::Postgres;
pub use proxy::{Cut, Proxy, Way};
pub use raw::{Raw, RawMessage, long, short};
pub use receiver::{Answer, Receipt, Receiver, Request};
pub use role::{Role, memory_kib};
pub use scale::{chance, is_long, report, scaled, seed};
pub use script::{free_port, root};
pub use shifted::ShiftedClock;
pub use traced::{Socket, Trace};

/// The default time limit for waiting for something that happens immediately or every few seconds.
///
/// This is not a performance bound; tests that care about speed measure it. The limit is long enough that a
/// machine that stalls for half a minute does not make a test fail.
pub const SOON: Duration = Duration::from_secs(90);

/// Polls `condition` until it returns `Ok`, and returns that value.
///
/// # Panics
/// Panics if `condition` still returns an error after `limit`. The message contains `what`, which describes
/// the expected state, and the last error.
pub async fn wait_for<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> F,
) -> T {
    /// The polling interval: short compared with everything that tests wait for, but not a busy loop.
    const POLL: Duration = Duration::from_millis(10);
    let until = Instant::now() + limit;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(state) => assert!(
                Instant::now() < until,
                "not within {limit:?}: {what}; last seen: {state}"
            ),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Polls `condition` until it returns true, and otherwise behaves like [`wait_for`].
pub async fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || {
        std::future::ready(condition().then_some(()).ok_or_else(String::new))
    })
    .await;
}

/// Returns the current time in Unix milliseconds.
#[expect(clippy::disallowed_methods, reason = "the other tests read the clock here")]
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64
}

/// The event types of the public contract.
pub const EVENT_TYPES: [&str; 8] = [
    "lead.created",
    "research.started",
    "research.completed",
    "research.failed",
    "magnet.generated",
    "lead.completed",
    "lead.failed",
    "magnet.viewed",
];

/// Returns the JSON of an event of type `lead.completed` about `lead`.
pub fn event(organization: &str, lead: &str) -> String {
    event_of("lead.completed", organization, lead)
}

/// Returns the JSON of an event of the given type about `lead`.
pub fn event_of(event_type: &str, organization: &str, lead: &str) -> String {
    let timestamp = now_ms();
    format!(
        r#"{{"event":"{event_type}","timestamp":{timestamp},"organization_id":"{organization}","project_id":"proj_1","lead_id":"{lead}","data":{{"lead_id":"{lead}"}}}}"#
    )
}

/// Sorts the values and returns their p-th percentile (0 to 100).
pub fn percentile(values: &mut [f64], p: f64) -> f64 {
    assert!(!values.is_empty(), "no values to take a percentile of");
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * p / 100.0).round() as usize]
}
