//! Timestamps that are unique for each lead.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use webhook::LeadId;

/// Generates timestamps in milliseconds that strictly increase for each lead.
///
/// Receivers may treat two events with the same `timestamp` and the same `lead_id` as duplicates (public
/// contract, "Handle Duplicates") and drop the second one. Use one generator for the whole process, and take
/// the timestamp of every event from it:
///
/// ```
/// static TIMESTAMPS: producer::Timestamps = producer::Timestamps::new();
/// let lead = producer::LeadId::new("lead_789ghi");
/// let created = TIMESTAMPS.next(&lead, std::time::SystemTime::now());
/// assert!(TIMESTAMPS.next(&lead, std::time::SystemTime::now()) > created);
/// ```
///
/// Leads are assigned to 2048 slots (16 KiB) by hash. Each slot holds the last millisecond that it returned,
/// so memory is bounded although no lead is forgotten. A timestamp is only ahead of the clock if its slot has
/// to return more than one timestamp in a millisecond: the process creates over 1000 events per second *for
/// one slot*, or the clock steps back. A single counter for the whole process would run ahead from 1000
/// events per second in total.
///
/// Timestamps of other processes, and those of this process before its last start, are not taken into
/// account. If another process creates events of the same lead, pass its last timestamp to
/// [`observe`](Self::observe), or let the database that both processes share generate the timestamps: see
/// `docs/protocol.md`.
#[derive(Debug)]
pub struct Timestamps {
    last_ms: [AtomicU64; SLOTS],
}

const SLOTS: usize = 2048;

impl Timestamps {
    /// Creates a generator that has not returned any timestamp yet.
    pub const fn new() -> Self {
        Self {
            last_ms: [const { AtomicU64::new(0) }; SLOTS],
        }
    }

    /// Returns the lead's next timestamp, in Unix milliseconds: `now`, or the first unused millisecond after
    /// it.
    pub fn next(&self, lead_id: &LeadId, now: SystemTime) -> u64 {
        let now_ms = unix_ms(now);
        let after = |last_ms: u64| now_ms.max(last_ms.saturating_add(1));
        let last_ms = self
            .slot(lead_id)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last_ms| {
                Some(after(last_ms))
            })
            .expect("the closure always returns a value");
        after(last_ms)
    }

    /// Records a timestamp of the lead from elsewhere, in Unix milliseconds. All further timestamps are
    /// greater.
    pub fn observe(&self, lead_id: &LeadId, timestamp_ms: u64) {
        self.slot(lead_id).fetch_max(timestamp_ms, Ordering::Relaxed);
    }

    fn slot(&self, lead_id: &LeadId) -> &AtomicU64 {
        let mut hasher = DefaultHasher::new();
        lead_id.hash(&mut hasher);
        &self.last_ms[hasher.finish() as usize % SLOTS]
    }
}

impl Default for Timestamps {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the time in Unix milliseconds; 0 for times before 1970.
pub(crate) fn unix_ms(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(ms)
    }

    #[test]
    fn an_unused_millisecond_is_taken_as_it_is_and_a_used_one_gives_the_next() {
        let timestamps = Timestamps::new();
        let lead = LeadId::new("lead_1");
        assert_eq!(timestamps.next(&lead, at(1_703_123_456_789)), 1_703_123_456_789);
        assert_eq!(timestamps.next(&lead, at(1_703_123_456_789)), 1_703_123_456_790);
        assert_eq!(timestamps.next(&lead, at(1_703_123_456_000)), 1_703_123_456_791);
        assert_eq!(timestamps.next(&lead, at(1_703_123_460_000)), 1_703_123_460_000);
        assert_eq!(
            timestamps.next(&lead, UNIX_EPOCH - Duration::from_secs(1)),
            1_703_123_460_001
        );
    }

    #[test]
    fn a_timestamp_from_elsewhere_is_never_given_again() {
        let timestamps = Timestamps::new();
        let lead = LeadId::new("lead_1");
        timestamps.observe(&lead, 500);
        timestamps.observe(&lead, 400);
        assert_eq!(timestamps.next(&lead, at(499)), 501);
    }

    #[test]
    fn ten_thousand_leads_in_one_millisecond_stay_within_some_milliseconds_of_it() {
        let timestamps = Timestamps::new();
        let ahead = (0..10_000).map(|n| timestamps.next(&LeadId::new(format!("lead_{n}")), at(1000)) - 1000);
        assert!(ahead.max().unwrap() < 20);
    }

    #[test]
    fn threads_that_stamp_one_lead_at_once_never_get_the_same() {
        static TIMESTAMPS: Timestamps = Timestamps::new();
        let stamp = || {
            let lead = LeadId::new("lead_1");
            (0..5000)
                .map(|_| TIMESTAMPS.next(&lead, at(1000)))
                .collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(stamp)).collect();
        let mut given: Vec<_> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        given.sort_unstable();
        assert_eq!(given, (1000..21_000).collect::<Vec<_>>());
    }

    proptest! {
        /// Holds for any behavior of the clock, and any mixture of leads.
        #[test]
        fn every_lead_strictly_increases_and_never_lies_behind_the_clock(
            calls in prop::collection::vec((0_u32..50, 0_u64..200, prop::option::of(0_u64..300)), 1..400),
        ) {
            let timestamps = Timestamps::new();
            let mut last: HashMap<u32, u64> = HashMap::new();
            let mut highest = 0;
            for (calls_so_far, (lead, now_ms, elsewhere_ms)) in calls.into_iter().enumerate() {
                let lead_id = LeadId::new(format!("lead_{lead}"));
                if let Some(elsewhere_ms) = elsewhere_ms {
                    timestamps.observe(&lead_id, elsewhere_ms);
                    let seen = last.entry(lead).or_insert(0);
                    *seen = (*seen).max(elsewhere_ms);
                }
                highest = highest.max(now_ms).max(elsewhere_ms.unwrap_or(0));
                let given = timestamps.next(&lead_id, at(now_ms));
                prop_assert!(given >= now_ms);
                prop_assert!(last.get(&lead).is_none_or(|last| given > *last));
                prop_assert!(given <= highest + calls_so_far as u64 + 1, "ahead by more than was given out");
                last.insert(lead, given);
            }
        }
    }
}
