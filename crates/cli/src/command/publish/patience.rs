//! How long a batch is published again, and how long the journal is read again.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long a batch is retried after the last event that was confirmed. A broker restarts in less time. A cluster
/// replaces a node that hangs within this time, although RabbitMQ waits a minute and more before it does so.
pub(super) const RETRY_FOR: Duration = Duration::from_mins(2);

/// How long the journal is read again after it could not be read. A database restarts in less time.
pub(super) const READ_FOR: Duration = Duration::from_mins(2);

/// The time that is left for a batch.
pub(super) struct Patience {
    deadline: Instant,
    /// The number of events of the batch that are confirmed.
    confirmed: usize,
    /// The number of failed attempts since an event was confirmed.
    failures: u32,
}

impl Patience {
    /// Creates the time for a batch of which no event is confirmed yet.
    pub(super) fn new(retry_for: Duration, now: Instant) -> Self {
        Self {
            deadline: now + retry_for,
            confirmed: 0,
            failures: 0,
        }
    }

    /// Returns how long to wait, at least `again_after`, after an attempt that failed. `confirmed` is the number of
    /// events of the batch that are confirmed by now. Returns `None` if the time is over.
    pub(super) fn wait(&mut self, confirmed: usize, again_after: Duration, now: Instant) -> Option<Duration> {
        if confirmed > self.confirmed {
            *self = Self {
                confirmed,
                ..Self::new(RETRY_FOR, now)
            };
        }
        self.failures += 1;
        let left = self.deadline.saturating_duration_since(now);
        let wait = broker::backoff(self.failures).max(again_after).min(left);
        (!left.is_zero()).then_some(wait)
    }
}

/// When the journal began to be unreadable; `None` while it can be read.
#[derive(Default)]
pub(super) struct Outage(Mutex<Option<Instant>>);

impl Outage {
    /// Notes at `now` that the journal cannot be read, and returns since when.
    pub(super) fn began(&self, error: &anyhow::Error, now: Instant) -> Instant {
        let mut began = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *began.get_or_insert_with(|| {
            tracing::warn!("the journal cannot be read; trying again for {READ_FOR:?}: {error:#}");
            now
        })
    }

    /// Notes that the journal was read.
    pub(super) fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn every_event_that_is_confirmed_gives_the_batch_its_whole_time_again() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut patience = Patience::new(RETRY_FOR, began);
        for (confirmed, seconds, goes_on) in [
            // Nothing was ever confirmed: the API may be restarting.
            (0, 5, true),
            (0, 119, true),
            // Part of the batch is confirmed.
            (1500, 119, true),
            (1500, 238, true),
            (1501, 238, true),
            (1501, 357, true),
            (1501, 358, false),
        ] {
            let wait = patience.wait(confirmed, Duration::ZERO, after(seconds));
            assert_eq!(wait.is_some(), goes_on, "{confirmed} after {seconds} s");
        }
    }

    #[test]
    fn the_wait_is_as_long_as_asked_for_and_ends_with_the_time() {
        let now = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(20), now);
        assert_eq!(
            patience.wait(0, Duration::from_secs(15), now),
            Some(Duration::from_secs(15))
        );
        assert_eq!(
            patience.wait(0, Duration::from_secs(30), now),
            Some(Duration::from_secs(20))
        );
    }

    #[test]
    fn an_outage_begins_with_the_first_failure_and_ends_with_a_success() {
        let (outage, error) = (Outage::default(), anyhow!("no answer"));
        let first = Instant::now();
        let later = first + READ_FOR;
        assert_eq!(outage.began(&error, first), first);
        assert_eq!(outage.began(&error, later), first);
        outage.end();
        assert_eq!(outage.began(&error, later), later);
    }
}
