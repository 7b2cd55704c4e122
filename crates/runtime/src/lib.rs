//! Facilities that every Magnetite process needs, whatever its role. Depends on no other crate of this
//! workspace.
//!
//! - [`display_chain`]: formats an error with its causes for a log line.
//! - [`Lasting`]: limits how often a lasting condition is logged.
//! - [`Metric`]: defines the metrics that `/metrics` serves, as lists of constants.
//! - [`logs`]: writes log lines without ever blocking a task.
//! - [`now_ms`]: returns the current time.
//! - `probes`, with the feature of that name: serves `/livez`, `/readyz` and `/metrics` for every role.
//! - `serve`, with the same feature: serves HTTP with limits on connections.
//! - [`send_if_changed`]: reports a role's state to `/readyz`.
//! - [`time`]: formats times for people, and parses the times of arguments.
//! - [`troubles`]: collects recent problems that an operator should know about.
//! - [`vital`]: runs tasks whose panic ends the process.
//!
//! Invariants: logging never blocks or fails a task, whatever the state of standard error. No process
//! continues without a task that it needs.

mod clock;
mod lasting;
pub mod logs;
mod metric;
#[cfg(feature = "probes")]
pub mod probes;
#[cfg(feature = "probes")]
pub mod serve;
pub mod time;
pub mod troubles;
mod vital;

pub use clock::now_ms;
pub use lasting::{Lasting, Report};
pub use metric::{Metric, MetricKind, MetricLabel, MetricValues};
pub use vital::vital;

use tokio::sync::watch;

/// Formats an error with its causes on one line.
pub fn display_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// Sends a value, unless it equals the last one.
pub fn send_if_changed<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|last| {
        let changed = *last != value;
        *last = value;
        changed
    });
}
