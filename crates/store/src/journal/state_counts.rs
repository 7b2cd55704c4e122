//! Deliveries, counted by their state.

use webhook::journal::DeliveryState;

/// Deliveries by their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// On their way.
    pub pending: u64,
    /// Their endpoint was deleted.
    pub cancelled: u64,
    /// In the dead letters.
    pub dead: u64,
    /// Answered with a 2xx.
    pub delivered: u64,
}

impl StateCounts {
    pub(super) fn of(&mut self, state: DeliveryState) -> &mut u64 {
        match state {
            DeliveryState::Pending => &mut self.pending,
            DeliveryState::Cancelled => &mut self.cancelled,
            DeliveryState::Dead => &mut self.dead,
            DeliveryState::Delivered => &mut self.delivered,
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.pending + self.cancelled + self.dead + self.delivered
    }
}
