//! The times of one recorder.

use std::time::Duration;

/// The times of one recorder. The defaults are those of the documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long events, deliveries, attempts, rejected messages and gaps are kept.
    pub retention_age: Duration,
    /// An endpoint of which every attempt has failed for this long, ten times and in each fifth of it, is
    /// disabled. Not zero.
    pub failing_age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            retention_age: Duration::from_hours(30 * 24),
            failing_age: Duration::from_hours(5 * 24),
        }
    }
}
