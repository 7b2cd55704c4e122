//! The totals: how many rows were ever added to the journal, by minute.
//!
//! An audit compares an event with its deliveries, and a delivery with its attempts. If all of these rows are
//! deleted, nothing is left to compare. For this reason a transaction that adds rows also adds their number
//! to the totals of their minute, and retention deletes both. A minute from before the totals were introduced
//! has more rows than its total, which is not an error.

use std::collections::BTreeMap;

use webhook::AttemptId;

use crate::{
    columns::Columns,
    statement::{Argument, Statement},
};

/// The period of one total, in milliseconds.
pub const MINUTE_MS: u64 = 60_000;
/// The latest time that an attempt's id can represent, in Unix milliseconds.
pub(super) const ATTEMPT_MS_MAX: u64 = (1 << 48) - 1;

/// The number of rows over which the total of one minute is spread, so that processes that write at the same
/// time rarely wait for each other.
pub(crate) const SHARDS: u64 = 16;

/// Adds to the totals of one minute. Runs at the end of a transaction that adds rows, once for each minute in
/// ascending order, so that other transactions do not wait long.
pub(crate) const ADD: &str = "INSERT INTO totals (minute_ms, shard, events, matched, deliveries, attempts) \
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (minute_ms, shard) DO UPDATE SET events = totals.events + excluded.events, \
    matched = totals.matched + excluded.matched, deliveries = totals.deliveries + excluded.deliveries, \
    attempts = totals.attempts + excluded.attempts";

/// Deletes expired totals. Runs before the rows of that time are deleted. A minute of which only a part is
/// deleted is no longer compared.
pub(crate) const EXPIRE: &str = "DELETE FROM totals WHERE minute_ms < $1";

/// Selects how many rows must exist.
pub(super) const SUM: &str = "SELECT minute_ms, CAST(SUM(events) AS BIGINT) AS events, CAST(SUM(matched) AS BIGINT) AS matched, \
    CAST(SUM(deliveries) AS BIGINT) AS deliveries FROM totals WHERE minute_ms >= $1 AND minute_ms < $2 GROUP BY minute_ms";

const SUM_ATTEMPTS: &str = "SELECT CAST(COALESCE(SUM(attempts), 0) AS BIGINT) AS rows_found FROM totals \
    WHERE minute_ms >= $1 AND minute_ms < $2";

/// Selects the first minute with totals. It is 0 as long as there are totals of all minutes.
pub(super) const FIRST: &str = "SELECT MIN(minute_ms) AS minute_ms FROM totals";

const COUNT_ATTEMPTS: &str = "SELECT COUNT(*) AS rows_found FROM attempts WHERE id >= $1 AND id < $2";

/// The numbers of rows that were added and no longer exist. Events, matches and deliveries are compared by
/// minute, attempts all at once. Rows from before the totals were introduced are not compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vanished {
    /// Missing events.
    pub events: u64,
    /// Missing matches of events, including those of missing events.
    pub matched: u64,
    /// Missing deliveries.
    pub deliveries: u64,
    /// Missing attempts.
    pub attempts: u64,
    /// The beginning of the first minute in which an event, a match or a delivery is missing, in Unix
    /// milliseconds; `None` if none is missing.
    pub first_ms: Option<u64>,
}

impl Vanished {
    /// Returns whether no row is missing.
    pub const fn is_empty(&self) -> bool {
        self.events == 0 && self.matched == 0 && self.deliveries == 0 && self.attempts == 0
    }
}

/// The numbers of rows of one minute.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) events: i64,
    pub(super) matched: i64,
    pub(super) deliveries: i64,
}

/// The numbers of rows that a transaction adds or removes, by minute.
#[derive(Debug, Default)]
pub(crate) struct Added(BTreeMap<u64, Difference>);

#[derive(Debug, Default)]
struct Difference {
    events: i64,
    matched: i64,
    deliveries: i64,
    attempts: i64,
}

impl Added {
    pub(crate) fn event(&mut self, received_ms: u64, matched: u64) {
        let minute = self.minute(received_ms);
        minute.events += 1;
        minute.matched += matched as i64;
    }

    pub(crate) fn event_gone(&mut self, received_ms: u64, matched: u64) {
        let minute = self.minute(received_ms);
        minute.events -= 1;
        minute.matched -= matched as i64;
    }

    /// Counts a row of a delivery that was written. `replaced_ms` is the creation time in the row that it
    /// replaced; `None` if the row is new.
    pub(crate) fn delivery(&mut self, created_ms: u64, replaced_ms: Option<u64>) {
        if replaced_ms == Some(created_ms) {
            return;
        }
        self.minute(created_ms).deliveries += 1;
        if let Some(replaced_ms) = replaced_ms {
            self.minute(replaced_ms).deliveries -= 1;
        }
    }

    /// Counts an attempt's row that was added. Its id begins with its time.
    pub(crate) fn attempt(&mut self, id: &str) {
        let digits = id.strip_prefix("att_").and_then(|digits| digits.get(..12));
        let began_ms = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        self.minute(began_ms.unwrap_or_default()).attempts += 1;
    }

    fn minute(&mut self, at_ms: u64) -> &mut Difference {
        self.0.entry(at_ms / MINUTE_MS * MINUTE_MS).or_default()
    }

    /// Returns the arguments of [`ADD`], one row for each minute.
    pub(crate) fn rows(&self, shard: u64) -> impl Iterator<Item = [Argument<'static>; 6]> {
        self.0
            .iter()
            .filter(|(_, difference)| difference.is_any())
            .map(move |(minute_ms, difference)| {
                [
                    (*minute_ms).into(),
                    shard.into(),
                    difference.events.into(),
                    difference.matched.into(),
                    difference.deliveries.into(),
                    difference.attempts.into(),
                ]
            })
    }
}

impl Difference {
    const fn is_any(&self) -> bool {
        self.events != 0 || self.matched != 0 || self.deliveries != 0 || self.attempts != 0
    }
}

/// Adds to the totals. For use inside [`on_connection!`], immediately before the commit.
macro_rules! add_totals {
    ($tx:ident, $added:expr, $shard:expr) => {
        for row in $added.rows($shard) {
            $crate::statement::bind_all!(sqlx::query($crate::journal::totals::ADD), &row)
                .execute(&mut *$tx)
                .await?;
        }
    };
}
pub(crate) use add_totals;

/// Minutes in which attempts are counted.
#[derive(Debug)]
pub(super) struct Minutes {
    from_ms: u64,
    until_ms: u64,
    first_attempt: AttemptId,
    end_of_attempts: AttemptId,
}

impl Minutes {
    /// Splits the minutes until a time into those before `first_ms`, which is the result of [`FIRST`], and
    /// the others.
    pub(super) fn split(since_ms: u64, until_ms: u64, first_ms: Option<u64>) -> [Self; 2] {
        let from_ms = since_ms / MINUTE_MS * MINUTE_MS;
        let at_ms = first_ms.map_or(until_ms, |first_ms| first_ms.max(from_ms).min(until_ms));
        [Self::between(from_ms, at_ms), Self::between(at_ms, until_ms)]
    }

    fn between(from_ms: u64, until_ms: u64) -> Self {
        Self {
            from_ms,
            until_ms,
            first_attempt: AttemptId::first_at(from_ms),
            end_of_attempts: AttemptId::first_at(until_ms),
        }
    }

    /// Returns the statement that selects how many attempts must exist.
    pub(super) fn recorded(&self) -> Statement<'static> {
        Statement::with(SUM_ATTEMPTS, [self.from_ms.into(), self.until_ms.into()])
    }

    /// Returns the statement that counts the attempts that exist.
    pub(super) fn found(&self) -> Statement<'_> {
        let ids = [&self.first_attempt, &self.end_of_attempts].map(|id| id.as_str().into());
        Statement::with(COUNT_ATTEMPTS, ids)
    }
}

/// Counts the events, matches and deliveries that were recorded and do not exist. A minute with more rows
/// than recorded is from before the totals were introduced.
pub(super) fn compare(recorded: Vec<(u64, Counts)>, found: Vec<(u64, Counts)>) -> Vanished {
    let mut minutes: BTreeMap<u64, Counts> = recorded.into_iter().collect();
    for (minute_ms, counts) in found {
        let left = minutes.entry(minute_ms).or_default();
        left.events -= counts.events;
        left.matched -= counts.matched;
        left.deliveries -= counts.deliveries;
    }
    let mut vanished = Vanished::default();
    for (minute_ms, left) in minutes {
        vanished.events += missing(left.events);
        vanished.matched += missing(left.matched);
        vanished.deliveries += missing(left.deliveries);
        if left.events > 0 || left.matched > 0 || left.deliveries > 0 {
            vanished.first_ms.get_or_insert(minute_ms);
        }
    }
    vanished
}

/// Returns how many rows are missing.
pub(super) fn missing(left: i64) -> u64 {
    u64::try_from(left).unwrap_or_default()
}

pub(super) fn read_first(row: &dyn Columns) -> Result<Option<u64>, sqlx::Error> {
    row.maybe_number("minute_ms")
}

pub(super) fn read_counts(row: &dyn Columns) -> Result<(u64, Counts), sqlx::Error> {
    let counts = Counts {
        events: row.integer("events")?,
        matched: row.integer("matched")?,
        deliveries: row.integer("deliveries")?,
    };
    Ok((row.number("minute_ms")?, counts))
}

pub(super) fn read_attempts(row: &dyn Columns) -> Result<i64, sqlx::Error> {
    row.integer("rows_found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_surplus_of_one_minute_hides_nothing_of_another() {
        let counts = |events, deliveries| Counts {
            events,
            matched: events,
            deliveries,
        };
        let recorded = vec![(60_000, counts(5, 5)), (120_000, counts(2, 2))];
        let found = vec![
            (60_000, counts(4, 0)),
            (60_000, counts(0, 5)),
            (120_000, counts(9, 9)),
        ];
        let vanished = compare(recorded, found);
        let expected = Vanished {
            events: 1,
            matched: 1,
            deliveries: 0,
            attempts: 0,
            first_ms: Some(60_000),
        };
        assert_eq!(vanished, expected);
    }

    #[test]
    fn a_delivery_that_moves_to_an_earlier_minute_is_counted_there() {
        let mut added = Added::default();
        added.delivery(130_000, None);
        added.delivery(130_000, Some(130_000));
        added.delivery(70_000, Some(130_000));
        let moved = &added.0[&60_000];
        assert_eq!((moved.deliveries, added.0[&120_000].deliveries), (1, 0));
        assert_eq!(
            added.rows(1).count(),
            1,
            "a minute without a difference is not written"
        );
    }
}
