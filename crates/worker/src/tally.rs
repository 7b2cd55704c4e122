//! The journal totals of this run and the number of deliveries in hand, as the worker announces them.
//!
//! They contain only totals and whether records are being dropped right now. Which batches arrived is known
//! to the recorder from their numbers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64};

use store::{Dropping, JournalTotals};
use tokio::time::Instant;

#[derive(Default)]
pub(crate) struct Tally {
    state: Mutex<State>,
    /// The number of deliveries in hand that were recorded as pending.
    pub(crate) in_hand: Arc<AtomicU64>,
}

#[derive(Default)]
struct State {
    totals: JournalTotals,
    /// Since when records are dropped, and the number of the first dropped batch; `None` while none are.
    dropping: Option<(Instant, u64)>,
}

impl Tally {
    pub(crate) fn totals(&self) -> JournalTotals {
        let state = self.lock();
        let dropping = state.dropping.map(|(since, batch)| Dropping {
            lasted: since.elapsed(),
            batch,
        });
        JournalTotals {
            dropping,
            ..state.totals
        }
    }

    /// Notes that the broker has confirmed all batches up to this one. They include the record of an earlier
    /// gap, if any.
    pub(crate) fn confirmed(&self, last_batch: u64, records: u64) {
        let mut state = self.lock();
        state.totals.batches_made = last_batch;
        state.totals.records_made += records;
        state.dropping = None;
    }

    /// Notes that these batches and their records were dropped. Returns whether they are the first since
    /// records were last accepted.
    pub(crate) fn dropped(&self, (first, last): (u64, u64), records: u64) -> bool {
        let mut state = self.lock();
        state.totals.batches_made = last;
        state.totals.batches_dropped += last - first + 1;
        state.totals.records_made += records;
        state.totals.records_dropped += records;
        let begins = state.dropping.is_none();
        state.dropping.get_or_insert((Instant::now(), first));
        begins
    }

    /// Notes that the gap was recorded in the database instead of the journal.
    pub(crate) fn gap_recorded(&self) {
        self.lock().dropping = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_begins_with_the_first_batch_that_is_dropped_and_ends_with_one_that_is_taken() {
        let tally = Tally::default();
        assert_eq!(tally.totals(), JournalTotals::default());
        tally.confirmed(2, 10);
        assert!(tally.dropped((3, 4), 5) && !tally.dropped((5, 5), 1));
        let totals = tally.totals();
        assert_eq!(totals.dropping.unwrap().batch, 3);
        assert_eq!((totals.batches_made, totals.batches_dropped), (5, 3));
        assert_eq!((totals.records_made, totals.records_dropped), (16, 6));
        tally.confirmed(6, 1);
        assert_eq!(tally.totals().dropping, None);
        assert!(tally.dropped((7, 7), 1));
    }
}
