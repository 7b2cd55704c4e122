//! The number of rows that were ever added to the journal, by minute.
//!
//! `audit` compares an event with its deliveries, and a delivery with its attempts. If all of these rows are deleted, there is nothing left to
//! compare. So a transaction that adds rows also adds their number to the totals of their minute, and retention deletes both. A minute from
//! before there were totals has more rows than its total, which is not an error.

use std::collections::BTreeMap;

use webhook::AttemptId;

use crate::{
    columns::Columns,
    statement::{Argument, Statement},
};

/// What totals are kept of, in milliseconds.
pub const MINUTE_MS: u64 = 60_000;
/// The latest time that an attempt's id can hold, in Unix milliseconds.
pub(super) const ATTEMPT_MS_MAX: u64 = (1 << 48) - 1;

/// How many rows the total of one minute is spread over, so that processes that write at once seldom wait for each other.
pub(crate) const SHARDS: u64 = 16;

/// Run last in a transaction that adds rows, once for each minute in order, so that other transactions do not wait long.
pub(crate) const ADD: &str = "INSERT INTO totals (minute_ms, shard, events, matched, deliveries, attempts) \
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (minute_ms, shard) DO UPDATE SET events = totals.events + excluded.events, \
    matched = totals.matched + excluded.matched, deliveries = totals.deliveries + excluded.deliveries, \
    attempts = totals.attempts + excluded.attempts";

/// Run before the rows of that time are deleted. A minute of which only a part is deleted is not compared any more. Minute 0 stays: see the
/// migration.
pub(crate) const EXPIRE: &str = "DELETE FROM totals WHERE minute_ms < $1 AND minute_ms > 0";

/// The weight of a time's minute: a number below 65,521, a prime, that looks like chance. A cube, since sums of what is linear or square agree
/// for many patterns of too much and too little in minutes that follow one another.
macro_rules! weight {
    ($ms:literal) => {
        concat!(
            "(",
            $ms,
            " / 60000 % 65521 * (",
            $ms,
            " / 60000 % 65521) % 65521 * (",
            $ms,
            " / 60000 % 65521) % 65521)"
        )
    };
}
pub(super) use weight;

/// How many rows there have to be, for [`Sums`] and for attempts.
pub(super) const SUM: &str = concat!(
    "SELECT CAST(COALESCE(SUM(events), 0) AS BIGINT) AS events, \
    CAST(COALESCE(SUM(events * weight), 0) AS BIGINT) AS events_weight, \
    CAST(COALESCE(SUM(matched), 0) AS BIGINT) AS matched, \
    CAST(COALESCE(SUM(matched * weight), 0) AS BIGINT) AS matched_weight, \
    CAST(COALESCE(SUM(deliveries), 0) AS BIGINT) AS deliveries, \
    CAST(COALESCE(SUM(deliveries * weight), 0) AS BIGINT) AS deliveries_weight, \
    CAST(COALESCE(SUM(attempts), 0) AS BIGINT) AS attempts FROM (SELECT events, matched, deliveries, attempts, ",
    weight!("minute_ms"),
    " AS weight FROM totals WHERE minute_ms >= $1 AND minute_ms < $2) weighted"
);

/// The same for each minute.
pub(super) const SUM_BY_MINUTE: &str = "SELECT minute_ms, CAST(SUM(events) AS BIGINT) AS events, CAST(SUM(matched) AS BIGINT) AS matched, \
    CAST(SUM(deliveries) AS BIGINT) AS deliveries FROM totals WHERE minute_ms >= $1 AND minute_ms < $2 GROUP BY minute_ms";

/// How many attempts there have to be.
pub(super) const SUM_ATTEMPTS: &str = "SELECT CAST(COALESCE(SUM(attempts), 0) AS BIGINT) AS rows_found FROM totals \
    WHERE minute_ms >= $1 AND minute_ms < $2";

/// The first minute of which there are totals still, whether or not there were some of all.
pub(super) const FIRST_KEPT: &str = "SELECT MIN(minute_ms) AS minute_ms FROM totals WHERE minute_ms > 0";

/// The first minute of which there are totals; 0 for all.
pub(super) const FIRST: &str = "SELECT MIN(minute_ms) AS minute_ms FROM totals";

pub(super) const COUNT_EVENTS: &str = "SELECT minute, COUNT(*) AS rows_found, CAST(SUM(matched) AS BIGINT) AS matched FROM \
    (SELECT received_ms / 60000 AS minute, matched FROM events WHERE received_ms >= $1 AND received_ms < $2) found GROUP BY minute";

pub(super) const COUNT_DELIVERIES: &str = "SELECT minute, COUNT(*) AS rows_found FROM \
    (SELECT created_ms / 60000 AS minute FROM deliveries WHERE created_ms >= $1 AND created_ms < $2) found GROUP BY minute";

const COUNT_ATTEMPTS: &str = "SELECT COUNT(*) AS rows_found FROM attempts WHERE id >= $1 AND id < $2";

/// How many rows were added and are missing. Events, matches and deliveries are compared by minute, attempts all at once. Rows from before there
/// were totals are not compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vanished {
    /// Events.
    pub events: u64,
    /// Matches of events, also of missing ones.
    pub matched: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// Attempts.
    pub attempts: u64,
    /// The beginning of the first minute in which an event, a match or a delivery is missing, in Unix milliseconds.
    pub first_ms: Option<u64>,
}

impl Vanished {
    /// Whether nothing is missing.
    pub const fn is_empty(&self) -> bool {
        self.events == 0 && self.matched == 0 && self.deliveries == 0 && self.attempts == 0
    }
}

/// Numbers of rows of one minute.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    events: i64,
    matched: i64,
    deliveries: i64,
}

/// The rows that a transaction adds or removes, by minute.
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

    /// Counts a delivery's row that was written. `replaced_ms` is the time of creation in the row that it replaced; `None` if it is new.
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

/// Adds to the totals; steps of an [`on_connection!`], the last ones before the commit.
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

/// Numbers of rows of some minutes, and the sums of the [weights](weight) of their minutes: if both agree, no minute lacks what another one
/// has too much of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) events: [i64; 2],
    pub(super) matched: [i64; 2],
    pub(super) deliveries: [i64; 2],
}

/// What is compared with the totals: all minutes that overlap a window, as far as there are totals of them.
#[derive(Debug)]
pub(super) struct Minutes {
    from_ms: u64,
    until_ms: u64,
    first_attempt: AttemptId,
    end_of_attempts: AttemptId,
}

impl Minutes {
    /// `None` if there are no totals of it. `first_ms` is what [`FIRST`] found.
    pub(super) fn new(since_ms: u64, until_ms: u64, first_ms: Option<u64>) -> Option<Self> {
        let from_ms = (since_ms / MINUTE_MS * MINUTE_MS).max(first_ms?);
        let until_ms = until_ms.min(ATTEMPT_MS_MAX - MINUTE_MS).div_ceil(MINUTE_MS) * MINUTE_MS;
        (from_ms < until_ms).then(|| Self::between(from_ms, until_ms))
    }

    /// Whether they are the window, no more and no less.
    pub(super) const fn are(&self, since_ms: u64, until_ms: u64) -> bool {
        self.from_ms == since_ms && self.until_ms == until_ms
    }

    /// Those from the one with this time on, without an end.
    pub(super) fn from(since_ms: u64) -> Self {
        Self::between(since_ms / MINUTE_MS * MINUTE_MS, ATTEMPT_MS_MAX)
    }

    /// Those before a minute, and the others; without one, all of them and none.
    pub(super) fn split_at(self, minute_ms: Option<u64>) -> [Self; 2] {
        let at_ms = minute_ms
            .unwrap_or(self.until_ms)
            .clamp(self.from_ms, self.until_ms);
        [
            Self::between(self.from_ms, at_ms),
            Self::between(at_ms, self.until_ms),
        ]
    }

    fn between(from_ms: u64, until_ms: u64) -> Self {
        Self {
            from_ms,
            until_ms,
            first_attempt: AttemptId::first_at(from_ms),
            end_of_attempts: AttemptId::first_at(until_ms),
        }
    }

    pub(super) fn of(&self, sql: &'static str) -> Statement<'static> {
        Statement::with(sql, [self.from_ms.into(), self.until_ms.into()])
    }

    pub(super) fn attempts(&self) -> Statement<'_> {
        let ids = [&self.first_attempt, &self.end_of_attempts].map(|id| id.as_str().into());
        Statement::with(COUNT_ATTEMPTS, ids)
    }
}

/// Counts the events, matches and deliveries that were recorded and not found. A minute with more found than recorded is from before there were
/// totals.
pub(super) fn compare(recorded: Vec<(u64, Counts)>, found: impl Iterator<Item = (u64, Counts)>) -> Vanished {
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

/// How many of something are missing.
pub(super) fn missing(left: i64) -> u64 {
    u64::try_from(left).unwrap_or_default()
}

/// What [`SUM`] says: the sums, and the number of attempts.
pub(super) fn read_sums(row: &dyn Columns) -> Result<(Sums, i64), sqlx::Error> {
    let sums = Sums {
        events: [row.integer("events")?, row.integer("events_weight")?],
        matched: [row.integer("matched")?, row.integer("matched_weight")?],
        deliveries: [row.integer("deliveries")?, row.integer("deliveries_weight")?],
    };
    Ok((sums, row.integer("attempts")?))
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

pub(super) fn read_events(row: &dyn Columns) -> Result<(u64, Counts), sqlx::Error> {
    let counts = Counts {
        events: row.integer("rows_found")?,
        matched: row.integer("matched")?,
        ..Counts::default()
    };
    Ok((minute_ms(row)?, counts))
}

pub(super) fn read_deliveries(row: &dyn Columns) -> Result<(u64, Counts), sqlx::Error> {
    let counts = Counts {
        deliveries: row.integer("rows_found")?,
        ..Counts::default()
    };
    Ok((minute_ms(row)?, counts))
}

fn minute_ms(row: &dyn Columns) -> Result<u64, sqlx::Error> {
    Ok(row.number::<u64>("minute")?.saturating_mul(MINUTE_MS))
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
        let found = [
            (60_000, counts(4, 0)),
            (60_000, counts(0, 5)),
            (120_000, counts(9, 9)),
        ];
        let vanished = compare(recorded, found.into_iter());
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
