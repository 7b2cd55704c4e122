//! What the end-to-end tests share: the built binary, receivers on real sockets, a real broker.
//!
//! The tests run `magnetite` as its users do and look at it from outside: requests at receivers, messages in
//! queues, lines on standard output. Nothing here links the worker. Each test has an installation of its own
//! ([`Installation`]): a name prefix on the broker, an SQLite file in a temporary directory, and processes
//! that end with it.

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
pub use installation::{Endpoint, Installation, binary, shared_broker};
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

/// How long a test waits for what happens at once or every few seconds. This is no limit on speed, which
/// tests measure where it matters: a machine that stands still for half a minute makes no test fail.
pub const SOON: Duration = Duration::from_secs(90);

/// Polls `condition` until it holds.
///
/// # Panics
/// When it does not within `limit`; the message says what was waited for and how things stood last.
pub async fn wait_for<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> F,
) -> T {
    /// Small against everything that is waited for, and not a busy loop.
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

/// [`wait_for`] with a condition that is a plain comparison.
pub async fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || {
        std::future::ready(condition().then_some(()).ok_or_else(String::new))
    })
    .await;
}

/// Unix milliseconds.
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

/// An event's JSON, of type `lead.completed`, about `lead`.
pub fn event(organization: &str, lead: &str) -> String {
    event_of("lead.completed", organization, lead)
}

/// An event's JSON of the given type.
pub fn event_of(event_type: &str, organization: &str, lead: &str) -> String {
    let timestamp = now_ms();
    format!(
        r#"{{"event":"{event_type}","timestamp":{timestamp},"organization_id":"{organization}","project_id":"proj_1","lead_id":"{lead}","data":{{"lead_id":"{lead}"}}}}"#
    )
}

/// The p-th percentile (0 to 100) of the values.
pub fn percentile(values: &mut [f64], p: f64) -> f64 {
    assert!(!values.is_empty(), "no values to take a percentile of");
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * p / 100.0).round() as usize]
}
