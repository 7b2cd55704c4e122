//! The system clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the time by this host's clock, in Unix milliseconds; 0 if the clock is set to a time before 1970.
#[expect(clippy::disallowed_methods, reason = "the other code reads the clock here")]
pub fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_epoch.as_millis() as u64
}
