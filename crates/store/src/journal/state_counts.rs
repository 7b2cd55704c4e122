//! Counts of deliveries by state.

use webhook::journal::DeliveryState;

/// The numbers of deliveries by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// Deliveries that have not ended yet.
    pub pending: u64,
    /// Deliveries that were cancelled, because their endpoint was deleted.
    pub cancelled: u64,
    /// Deliveries that were dead-lettered.
    pub dead: u64,
    /// Deliveries that were answered with a 2xx.
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

    /// Returns the number of deliveries in all states.
    pub fn total(&self) -> u64 {
        self.pending + self.cancelled + self.dead + self.delivered
    }
}
