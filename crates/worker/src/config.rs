//! Limits and timeouts of one worker.

use std::time::Duration;

use broker::Source;
use webhook::{DeferReason, Schedule, Trigger};

/// Limits and timeouts of one worker. The defaults are the documented ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// When failed attempts are retried.
    pub schedule: Schedule,
    /// The maximum number of attempts in flight at once, over all endpoints.
    ///
    /// The same number of attempts that take longer than a second may be in flight in addition. An
    /// organization may hold at most as many slots as are free, and an endpoint a quarter of that.
    pub in_flight_max: usize,
    /// The maximum number of unacknowledged event messages: those being processed, those waiting to be
    /// processed, and those that are finished and wait until their records are confirmed.
    pub prefetch_events: u16,
    /// The maximum number of unacknowledged due messages. It is larger than the number of slots, so that
    /// deliveries in flight leave room for others.
    pub prefetch_due: u16,
    /// The maximum number of matching endpoints whose first attempts are made inline. If an event matches
    /// more, each of its deliveries gets a separate message.
    pub inline_max: usize,
    /// The maximum time that a delivery is deferred for lack of a slot. After that it is dead-lettered as
    /// `no_slot`.
    pub defer_age_max: Duration,
    /// The maximum time that a delivery is deferred because of faults on our side. After that it is
    /// dead-lettered as `fault`.
    pub defer_fault_age_max: Duration,
    /// How long attempts in flight may continue after a shutdown begins. The contract allows an attempt 30 s.
    pub shutdown_deadline: Duration,
    /// The interval between two checks for changed endpoints.
    pub registry_refresh: Duration,
    /// Whether events and attempts are recorded in the journal.
    pub journal: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            schedule: Schedule::default(),
            in_flight_max: 512,
            prefetch_events: 1024,
            prefetch_due: 1024,
            inline_max: 16,
            defer_age_max: Duration::from_mins(10),
            defer_fault_age_max: Duration::from_hours(72),
            shutdown_deadline: Duration::from_secs(25),
            registry_refresh: Duration::from_millis(250),
            journal: true,
        }
    }
}

impl Config {
    pub(crate) fn prefetch(&self, source: Source) -> u16 {
        match source {
            Source::Events => self.prefetch_events,
            Source::Due => self.prefetch_due,
            // Each held message is an attempt in a slow slot, or a finished attempt that waits for its
            // confirms. The slow slot of a finished attempt may already belong to another one, hence the
            // factor of two.
            Source::Held => u16::try_from(2 * self.in_flight_max).unwrap_or(u16::MAX),
        }
    }

    /// Returns how long a delivery may be deferred in total for this reason. For a ping it is always
    /// [`defer_age_max`](Self::defer_age_max), because its result matters only now.
    pub(crate) fn put_off_max(&self, trigger: Trigger, why: DeferReason) -> Duration {
        match (trigger, why) {
            (Trigger::Ping, _) | (_, DeferReason::NoSlot) => self.defer_age_max,
            (_, DeferReason::Fault | DeferReason::Database) => self.defer_fault_age_max,
        }
    }

    /// Returns the maximum number of messages that can be unacknowledged at once.
    pub(crate) fn unacked_max(&self) -> usize {
        [Source::Events, Source::Due, Source::Held]
            .map(|source| usize::from(self.prefetch(source)))
            .iter()
            .sum()
    }

    /// Returns how many settled messages `recall` remembers. The broker can redeliver only messages whose ack
    /// it has not received, at most the prefetch. Twice that number covers a second lost connection.
    pub(crate) fn recall_max(&self) -> usize {
        2 * self.unacked_max()
    }
}
