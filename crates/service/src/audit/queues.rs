//! The queues of an installation, as an audit counts them.

/// The numbers of ready messages in the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// Batches of the journal that are not in the database yet.
    pub journal: u64,
    /// The number of consumers of the journal's queue.
    pub recorders: u64,
    /// Dead letters that are not in the database yet.
    pub dead: u64,
    /// Deliveries that are due.
    pub due: u64,
    /// Deliveries in all delay queues of the retry schedule.
    pub delayed: u64,
    /// Deliveries in delay queues of earlier retry schedules.
    pub earlier: u64,
}

impl Queues {
    /// Returns the greater value of each count.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            journal: self.journal.max(other.journal),
            dead: self.dead.max(other.dead),
            due: self.due.max(other.due),
            delayed: self.delayed.max(other.delayed),
            earlier: self.earlier.max(other.earlier),
            recorders: self.recorders.max(other.recorders),
        }
    }

    pub(super) fn unrecorded(self) -> u64 {
        self.journal + self.dead
    }

    pub(super) fn waiting(self) -> u64 {
        self.due + self.delayed + self.earlier
    }
}
