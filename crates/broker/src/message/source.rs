//! The queues that messages are consumed from.

use crate::Topology;

/// The queue that a message was consumed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The queue of published events.
    Events,
    /// The queue of deliveries whose next attempt is due.
    Due,
    /// The queue of deliveries that this worker holds.
    Held,
}

impl Source {
    /// Returns the value of the `magnetite-source` header: `events` or `due`. It names the queue that the
    /// message belongs to; a held delivery belongs to `due`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Due | Self::Held => "due",
        }
    }

    /// Returns the queue's full name.
    pub fn queue(self, topology: &Topology) -> String {
        match self {
            Self::Events => topology.events(),
            Self::Due => topology.due(),
            Self::Held => topology.held_pool(),
        }
    }
}
