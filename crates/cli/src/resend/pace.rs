//! The rate limit for sending deliveries again, so that an endpoint that was down is not overloaded by the
//! deliveries that it missed.

use std::time::Duration;

use tokio::time::Instant;

/// The number of windows per second: enough for an even rate. A window is never larger than the publisher's.
const WINDOWS_A_SECOND: f64 = 10.0;

/// A rate in deliveries per second, spread over windows.
pub(crate) struct Pace {
    rate: f64,
    /// The earliest time for the next window.
    next: Instant,
}

impl Pace {
    /// Creates a pace. `rate` is in deliveries per second.
    pub(crate) fn new(rate: f64, now: Instant) -> Self {
        Self { rate, next: now }
    }

    /// Returns the number of deliveries to send in one window.
    pub(crate) fn window(&self) -> u32 {
        (self.rate / WINDOWS_A_SECOND).clamp(1.0, broker::WINDOW_MAX as f64) as u32
    }

    /// Returns the earliest time for the next window.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Records that `sent` deliveries were sent in a window that began at `began`. A delay is not made up for
    /// by a burst.
    pub(crate) fn spend(&mut self, sent: usize, began: Instant) {
        self.next = self.next.max(began) + Duration::from_secs_f64(sent as f64 / self.rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_even_and_bounded() {
        let window = |rate| Pace::new(rate, Instant::now()).window();
        assert_eq!(
            [0.1, 1.0, 100.0, 2_000.0, 100_000.0].map(window),
            [1, 1, 10, 200, 256]
        );
    }

    #[test]
    fn the_next_window_begins_when_the_last_is_paid_for_and_a_pause_is_not_made_up() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut pace = Pace::new(100.0, start);
        pace.spend(10, start);
        assert_eq!(pace.next(), start + ms(100));
        // The window began on time, although this was recorded late.
        pace.spend(5, start + ms(100));
        assert_eq!(pace.next(), start + ms(150));
        // The window began one second late.
        pace.spend(10, start + ms(1_150));
        assert_eq!(pace.next(), start + ms(1_250));
    }
}
