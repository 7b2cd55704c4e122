//! What became of this run's journal, and how many deliveries are in hand, as the worker announces it.
//!
//! Only totals and whether records are dropped right now: which batches arrived the recorder knows by their
//! numbers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64};

use store::{Dropping, JournalTotals};
use tokio::time::Instant;

#[derive(Default)]
pub(crate) struct Tally {
    state: Mutex<State>,
    /// How many deliveries are in hand that were recorded as pending.
    pub(crate) in_hand: Arc<AtomicU64>,
}

#[derive(Default)]
struct State {
    totals: JournalTotals,
    /// Since when records are dropped, and the number of the first batch that was.
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

    /// The broker has all batches up to this one; what had been dropped before is recorded in them.
    pub(crate) fn confirmed(&self, last_batch: u64, records: u64) {
        let mut state = self.lock();
        state.totals.batches_made = last_batch;
        state.totals.records_made += records;
        state.dropping = None;
    }

    /// These batches and the records in them are dropped. Returns whether none were until then.
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

    /// What was dropped has been recorded otherwise.
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
