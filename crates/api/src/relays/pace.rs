//! Limits how fast frames that answer nothing are read, so that a program that sends many of them uses little of this
//! process.

use std::time::Duration;

use tokio::time::Instant;

/// What a frame costs: 2,000 are read in a second.
const FRAME_COST: Duration = Duration::from_micros(500);
/// What each KiB of a frame costs: 8 MiB are read in a second.
const KIB_COST: Duration = Duration::from_micros(122);
/// The cost that may be due before reading pauses. It is longer than the clock's resolution, so that pauses are few.
const BURST: Duration = Duration::from_millis(100);

/// The cost of the frames that were read.
#[derive(Debug)]
pub(super) struct Pace {
    paid_at: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { paid_at: now }
    }

    /// Adds the cost of a frame that answers nothing.
    pub(super) fn charge(&mut self, bytes: usize, now: Instant) {
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
        self.paid_at = self.paid_at.max(now) + FRAME_COST + KIB_COST.saturating_mul(kib);
    }

    /// Returns when the next frame may be read; `None` if it may be now.
    pub(super) fn pause(&self, now: Instant) -> Option<Instant> {
        (self.paid_at > now + BURST).then_some(self.paid_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how long it takes to read this many frames of this size.
    fn takes(frames: usize, bytes: usize) -> Duration {
        let began = Instant::now();
        let (mut now, mut pace) = (began, Pace::new(began));
        for _ in 0..frames {
            now = pace.pause(now).unwrap_or(now);
            pace.charge(bytes, now);
        }
        now - began
    }

    #[test]
    fn a_few_frames_are_read_at_once_and_a_flood_is_not() {
        assert_eq!(takes(100, 100), Duration::ZERO);
        let flood = takes(20_000, 100);
        assert!(
            (9_800..=10_000).contains(&flood.as_millis()),
            "2,000 a second: {flood:?}"
        );
    }

    #[test]
    fn large_frames_cost_more() {
        let flood = takes(320, 256 * 1024);
        assert!((9_000..=11_000).contains(&flood.as_millis()), "80 MiB: {flood:?}");
    }

    #[test]
    fn what_was_not_used_is_not_saved_up() {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        let later = began + Duration::from_hours(1);
        pace.charge(0, later);
        assert_eq!(pace.pause(later), None);
        for _ in 0..300 {
            pace.charge(0, later);
        }
        assert!(pace.pause(later).is_some());
    }
}
