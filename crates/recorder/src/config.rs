//! Time limits of one recorder.

use std::time::Duration;

/// Time limits of one recorder. The defaults are the documented ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long events, deliveries, attempts, rejected messages and gaps are kept. Pending deliveries and
    /// their events are kept regardless of their age.
    pub retention_age: Duration,
    /// How long every attempt at an endpoint has to fail before the endpoint is disabled. There must also be
    /// ten failures or more, and at least one in each fifth of this time. Not zero.
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
