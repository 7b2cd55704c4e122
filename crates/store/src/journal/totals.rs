//! The number of rows that were ever added to the journal, by minute.
//!
//! `audit` compares an event with its deliveries, and a delivery with its attempts. If all of these rows are deleted, there is nothing left to
//! compare. So a transaction that adds rows also adds their number to the totals of their minute, and retention deletes both. A minute from
//! before there were totals has more rows than its total, which is not an error.

use std::collections::BTreeMap;

use sqlx::Connection as _;
use webhook::AttemptId;

use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store,
    columns::Columns,
    database::on_connection,
    statement::{Argument, Statement, bind_all},
};

pub(crate) const MINUTE_MS: u64 = 60_000;
/// The latest time that an attempt's id can hold, in Unix milliseconds.
const ATTEMPT_MS_MAX: u64 = (1 << 48) - 1;

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

const SUM: &str = "SELECT minute_ms, CAST(SUM(events) AS BIGINT) AS events, CAST(SUM(matched) AS BIGINT) AS matched, \
    CAST(SUM(deliveries) AS BIGINT) AS deliveries, CAST(SUM(attempts) AS BIGINT) AS attempts FROM totals \
    WHERE minute_ms >= $1 AND minute_ms < $2 GROUP BY minute_ms";

const FIRST: &str = "SELECT MIN(minute_ms) AS minute_ms FROM totals";

const COUNT_EVENTS: &str = "SELECT minute, COUNT(*) AS rows_found, CAST(SUM(matched) AS BIGINT) AS matched FROM \
    (SELECT received_ms / 60000 AS minute, matched FROM events WHERE received_ms >= $1 AND received_ms < $2) found GROUP BY minute";

const COUNT_DELIVERIES: &str = "SELECT minute, COUNT(*) AS rows_found FROM \
    (SELECT created_ms / 60000 AS minute FROM deliveries WHERE created_ms >= $1 AND created_ms < $2) found GROUP BY minute";

const COUNT_ATTEMPTS: &str = "SELECT COUNT(*) AS rows_found FROM attempts WHERE id >= $1 AND id < $2";

/// How many rows were added and are missing.
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
struct Counts {
    events: i64,
    matched: i64,
    deliveries: i64,
    attempts: i64,
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

/// Evaluates to the rows that a statement finds in a transaction; steps of an [`on_connection!`].
macro_rules! fetch {
    ($tx:ident, $sql:expr, $from:expr, $until:expr, $read:expr) => {{
        let arguments: [Argument<'_>; 2] = [$from.into(), $until.into()];
        let query = bind_all!(sqlx::query($sql), &arguments);
        query.try_map(|row| $read(&row)).fetch_all(&mut *$tx).await?
    }};
}

impl Store {
    /// Counts the missing rows of all minutes that overlap the time from `since_ms` to before `until_ms`, as of one moment. Events and
    /// deliveries are compared by minute, attempts all at once. Rows from before there were totals are not compared.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn vanished(&self, since_ms: u64, until_ms: u64) -> Result<Vanished, Error> {
        let operation = &Operation::Audit;
        let first = self
            .fetch(operation, Statement::new(FIRST), |row| {
                row.maybe_number("minute_ms")
            })
            .await?;
        let Some(first_ms) = first.into_iter().flatten().next() else {
            return Ok(Vanished::default());
        };
        let from_ms = (since_ms / MINUTE_MS * MINUTE_MS).max(first_ms);
        let until_ms = until_ms.min(ATTEMPT_MS_MAX - MINUTE_MS).div_ceil(MINUTE_MS) * MINUTE_MS;
        if from_ms >= until_ms {
            return Ok(Vanished::default());
        }
        let (first_attempt, end_of_attempts) = (AttemptId::first_at(from_ms), AttemptId::first_at(until_ms));
        on_connection!(
            &self.database,
            reader,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_snapshot).await?;
                let recorded = fetch!(tx, SUM, from_ms, until_ms, read_counts);
                let events = fetch!(tx, COUNT_EVENTS, from_ms, until_ms, read_events);
                let deliveries = fetch!(tx, COUNT_DELIVERIES, from_ms, until_ms, read_deliveries);
                let attempts = fetch!(
                    tx,
                    COUNT_ATTEMPTS,
                    first_attempt.as_str(),
                    end_of_attempts.as_str(),
                    read_attempts
                );
                tx.commit().await?;
                Ok(compare(recorded, events.into_iter().chain(deliveries), attempts))
            }
        )
    }
}

/// Counts what was recorded and not found. A minute with more found than recorded is from before there were totals.
fn compare(
    recorded: Vec<(u64, Counts)>,
    found: impl Iterator<Item = (u64, Counts)>,
    attempts: Vec<i64>,
) -> Vanished {
    let mut minutes: BTreeMap<u64, Counts> = BTreeMap::new();
    let mut attempts_left = -attempts.into_iter().sum::<i64>();
    for (minute_ms, counts) in recorded {
        attempts_left += counts.attempts;
        minutes.insert(minute_ms, counts);
    }
    for (minute_ms, counts) in found {
        let left = minutes.entry(minute_ms).or_default();
        left.events -= counts.events;
        left.matched -= counts.matched;
        left.deliveries -= counts.deliveries;
    }
    let positive = |number: i64| u64::try_from(number).unwrap_or_default();
    let mut vanished = Vanished {
        attempts: positive(attempts_left),
        ..Vanished::default()
    };
    for (minute_ms, left) in minutes {
        vanished.events += positive(left.events);
        vanished.matched += positive(left.matched);
        vanished.deliveries += positive(left.deliveries);
        if left.events > 0 || left.matched > 0 || left.deliveries > 0 {
            vanished.first_ms.get_or_insert(minute_ms);
        }
    }
    vanished
}

fn read_counts(row: &dyn Columns) -> Result<(u64, Counts), sqlx::Error> {
    let counts = Counts {
        events: row.integer("events")?,
        matched: row.integer("matched")?,
        deliveries: row.integer("deliveries")?,
        attempts: row.integer("attempts")?,
    };
    Ok((row.number("minute_ms")?, counts))
}

fn read_events(row: &dyn Columns) -> Result<(u64, Counts), sqlx::Error> {
    let counts = Counts {
        events: row.integer("rows_found")?,
        matched: row.integer("matched")?,
        ..Counts::default()
    };
    Ok((minute_ms(row)?, counts))
}

fn read_deliveries(row: &dyn Columns) -> Result<(u64, Counts), sqlx::Error> {
    let counts = Counts {
        deliveries: row.integer("rows_found")?,
        ..Counts::default()
    };
    Ok((minute_ms(row)?, counts))
}

fn minute_ms(row: &dyn Columns) -> Result<u64, sqlx::Error> {
    Ok(row.number::<u64>("minute")?.saturating_mul(MINUTE_MS))
}

fn read_attempts(row: &dyn Columns) -> Result<i64, sqlx::Error> {
    row.integer("rows_found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_surplus_of_one_minute_hides_nothing_of_another() {
        let counts = |events, deliveries, attempts| Counts {
            events,
            matched: events,
            deliveries,
            attempts,
        };
        let recorded = vec![(60_000, counts(5, 5, 3)), (120_000, counts(2, 2, 4))];
        let found = [
            (60_000, counts(4, 0, 0)),
            (60_000, counts(0, 5, 0)),
            (120_000, counts(9, 9, 0)),
        ];
        let vanished = compare(recorded, found.into_iter(), vec![6]);
        let expected = Vanished {
            events: 1,
            matched: 1,
            deliveries: 0,
            attempts: 1,
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
