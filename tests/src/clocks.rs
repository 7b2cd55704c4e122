//! Comparisons of timestamps from different processes, with a tolerance for clock skew.

use std::{ops::RangeInclusive, time::Duration};

/// The largest difference between two processes' timestamps of the same moment. The system clock is adjusted
/// while the processes run, and the broker measures delays with the system clock, while tests use the
/// monotonic clock.
pub const CLOCK_TOLERANCE: Duration = Duration::from_millis(50);

/// Returns how many milliseconds the timestamp lies outside the range, or 0 if it lies inside.
pub fn outside_ms(moments_ms: &RangeInclusive<u64>, at_ms: u64) -> u64 {
    let early_ms = moments_ms.start().saturating_sub(at_ms);
    early_ms.max(at_ms.saturating_sub(*moments_ms.end()))
}

/// Returns whether a timestamp from another process lies in the range, within [`CLOCK_TOLERANCE`].
pub fn is_between(moments_ms: &RangeInclusive<u64>, at_ms: u64) -> bool {
    u128::from(outside_ms(moments_ms, at_ms)) <= CLOCK_TOLERANCE.as_millis()
}

/// Returns whether at least `least` has passed, given that another clock measured `measured`.
pub fn has_passed(least: Duration, measured: Duration) -> bool {
    measured + CLOCK_TOLERANCE >= least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_agree_up_to_their_tolerance() {
        for (at_ms, outside) in [
            (949, 51),
            (950, 50),
            (1000, 0),
            (1003, 0),
            (1005, 0),
            (1055, 50),
            (1056, 51),
        ] {
            let moments_ms = 1000..=1005;
            assert_eq!(outside_ms(&moments_ms, at_ms), outside, "{at_ms}");
            assert_eq!(is_between(&moments_ms, at_ms), outside <= 50, "{at_ms}");
        }
        let second = Duration::from_secs(1);
        assert!(has_passed(second, Duration::from_millis(950)));
        assert!(!has_passed(second, Duration::from_millis(949)));
    }
}
