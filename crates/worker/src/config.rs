//! The bounds and times of one worker.

use std::time::Duration;

use broker::Source;
use webhook::{DeferReason, Schedule, Trigger};

/// The bounds and times of one worker. The defaults are those of the documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// When failed attempts are repeated.
    pub schedule: Schedule,
    /// How many attempts are in flight at once, over all endpoints, besides as many that take longer than a
    /// second. An organization gets at most as many as are free, an endpoint a quarter of that.
    pub in_flight_max: usize,
    /// How many event messages are held unacked: those in work, those that wait for it, and those that are
    /// done and wait for their records' confirm.
    pub prefetch_events: u16,
    /// How many due messages are held unacked: more than there are slots, so that those in flight leave room
    /// for others.
    pub prefetch_due: u16,
    /// An event that matches more endpoints than this is not attempted inline: each delivery becomes a
    /// message of its own.
    pub inline_max: usize,
    /// A delivery that was refused a slot for longer than this is dead-lettered as `no_slot`.
    pub defer_age_max: Duration,
    /// A delivery that faults of ours kept from being attempted for longer than this is dead-lettered as
    /// `fault`.
    pub defer_fault_age_max: Duration,
    /// How long attempts in flight may go on after the shutdown began. The contract gives an attempt 30 s.
    pub shutdown_deadline: Duration,
    /// How often changed endpoints are looked for.
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
            // Each is an attempt in a slow slot, or one that has ended and waits for its confirms: the next
            // may have its slot by then.
            Source::Held => u16::try_from(2 * self.in_flight_max).unwrap_or(u16::MAX),
        }
    }

    /// How long a delivery may be put off for a reason. A ping asks how things are now, and waits for nothing
    /// for long.
    pub(crate) fn put_off_max(&self, trigger: Trigger, why: DeferReason) -> Duration {
        match (trigger, why) {
            (Trigger::Ping, _) | (_, DeferReason::NoSlot) => self.defer_age_max,
            (_, DeferReason::Fault | DeferReason::Database) => self.defer_fault_age_max,
        }
    }

    /// How many messages can be unacked at once.
    pub(crate) fn unacked_max(&self) -> usize {
        [Source::Events, Source::Due, Source::Held]
            .map(|source| usize::from(self.prefetch(source)))
            .iter()
            .sum()
    }

    /// The broker can hand out again only what it saw no ack for: at most the prefetch. Twice that outlives a
    /// second loss.
    pub(crate) fn recall_max(&self) -> usize {
        2 * self.unacked_max()
    }
}
