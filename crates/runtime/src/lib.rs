//! What every process of Magnetite needs, whatever its role. Names no other crate of ours.
//!
//! - [`display_chain`]: an error, for a log line.
//! - [`Lasting`]: how often a condition that lasts is logged.
//! - [`Metric`]: what `/metrics` serves, as lists of constants.
//! - [`logs`]: log lines, none of which is worth waiting for.
//! - [`now_ms`]: the time.
//! - `probes`, with the feature of that name: what every role answers to `/livez`, `/readyz` and `/metrics`.
//! - `serve`, with the same feature: a listener whose connections have bounds.
//! - [`send_if_changed`]: what a role says of itself to `/readyz`.
//! - [`troubles`]: what a process has noticed that a person should know of.
//! - [`vital`]: tasks whose panic ends the process.
//!
//! Invariants: nothing that is logged blocks or fails a task, whatever standard error is; and no process goes
//! on without a task that it needs.

mod clock;
mod lasting;
pub mod logs;
mod metric;
#[cfg(feature = "probes")]
pub mod probes;
#[cfg(feature = "probes")]
pub mod serve;
pub mod troubles;
mod vital;

pub use clock::now_ms;
pub use lasting::{Lasting, Report};
pub use metric::{Metric, MetricKind, MetricLabel, MetricValues};
pub use vital::vital;

use tokio::sync::watch;

/// An error with its causes, on one line.
pub fn display_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// Sends a value, unless it is the one that was sent last.
pub fn send_if_changed<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|last| {
        let changed = *last != value;
        *last = value;
        changed
    });
}
