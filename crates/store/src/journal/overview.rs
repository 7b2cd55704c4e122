//! The present state of the journal: rates of the last minute, pending deliveries, and losses.

use std::collections::BTreeMap;

use sqlx::Connection as _;
use webhook::AttemptId;

use super::activity::{Activity, read_count, read_outcome, read_pending};
use super::batches::{LostCause, fetch_lost};
use super::totals::MINUTE_MS;
use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store,
    columns::Columns,
    database::on_connection,
    statement::{Argument, bind_all},
};

/// The present state of the journal, from one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// What happens now in all organizations.
    pub activity: Activity,
    /// The number of gaps that ended at `since_ms` or later, plus the number of workers that are dropping
    /// records or ended while they did.
    pub gaps: u64,
    /// The number of batches since `since_ms` that have been missing for over a minute: they wait in the
    /// journal's queue, or are lost.
    pub missing_batches: u64,
}

const COUNT_EVENTS: &str = "SELECT COUNT(*) AS found FROM events WHERE received_ms >= $1";

const COUNT_ATTEMPTS: &str =
    "SELECT outcome, COUNT(*) AS found FROM attempts WHERE id >= $1 GROUP BY outcome ORDER BY outcome";

const LAST_ATTEMPT: &str = "SELECT began_ms FROM attempts ORDER BY id DESC LIMIT 1";

/// A run that was requested and not sent yet is not overdue.
const COUNT_PENDING: &str = "SELECT COUNT(*) AS found, MIN(created_ms) AS oldest_ms, \
    COALESCE(SUM(CASE WHEN next_ms < $1 AND (requested_ms IS NULL OR sent_ms IS NOT NULL) THEN 1 ELSE 0 END), 0) AS overdue \
    FROM deliveries WHERE state = 0 AND state <> 3";

/// Answered by an index alone.
const FIND_PENDING: &str =
    "SELECT COUNT(*) AS found, MIN(created_ms) AS oldest_ms FROM deliveries WHERE state = $1 AND state <> 3";

const COUNT_DEAD: &str =
    "SELECT COUNT(*) AS found FROM deliveries WHERE state = 2 AND state <> 3 AND created_ms >= $1";

const COUNT_GAPS: &str = "SELECT COUNT(*) AS found FROM gaps WHERE until_ms >= $1";

/// Evaluates to the rows that a statement with one argument returns in a transaction. For use inside
/// [`on_connection!`].
macro_rules! fetch {
    ($tx:ident, $sql:expr, $argument:expr, $read:expr) => {{
        let arguments: [Argument<'_>; 1] = [$argument.into()];
        let query = bind_all!(sqlx::query($sql), &arguments);
        query.try_map(|row| $read(&row)).fetch_all(&mut *$tx).await?
    }};
}

/// The deliveries that have not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// The number of pending deliveries.
    pub count: u64,
    /// When the oldest one was created, in Unix milliseconds; `None` if there is none.
    pub oldest_ms: Option<u64>,
}

impl Store {
    /// Counts the deliveries that have not ended.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn pending(&self) -> Result<Pending, Error> {
        on_connection!(
            &self.database,
            reader,
            &Operation::new("count pending deliveries"),
            OPERATION_TIMEOUT,
            |connection, _dialect| {
                let found = fetch!(connection, FIND_PENDING, 0_u64, |row: &dyn Columns| {
                    let oldest_ms = row.maybe_number("oldest_ms")?;
                    Ok(Pending {
                        count: row.number("found")?,
                        oldest_ms,
                    })
                });
                Ok(found.into_iter().next().unwrap_or_default())
            }
        )
    }

    /// Returns the present state of the journal: the events and attempts of the minute before `now_ms`, the
    /// pending deliveries, and the dead deliveries and losses since `since_ms`. A pending delivery is overdue
    /// if its next attempt was due before `overdue_ms`.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn overview(&self, now_ms: u64, since_ms: u64, overdue_ms: u64) -> Result<Overview, Error> {
        let minute_ago_ms = now_ms.saturating_sub(MINUTE_MS);
        let first_attempt = AttemptId::first_at(minute_ago_ms);
        on_connection!(
            &self.database,
            journal,
            &Operation::new("summarize the journal"),
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_snapshot).await?;
                let mut activity = Activity {
                    attempts_minute: fetch!(tx, COUNT_ATTEMPTS, first_attempt.as_str(), read_outcome),
                    ..Activity::default()
                };
                for found in fetch!(tx, COUNT_EVENTS, minute_ago_ms, read_count) {
                    activity.events_minute = found;
                }
                let last: Option<i64> = sqlx::query_scalar(LAST_ATTEMPT).fetch_optional(&mut *tx).await?;
                activity.last_attempt_ms = last.and_then(|at_ms| u64::try_from(at_ms).ok());
                for (found, oldest_ms, overdue) in fetch!(tx, COUNT_PENDING, overdue_ms, read_pending) {
                    (activity.pending, activity.oldest_pending_ms, activity.overdue) =
                        (found, oldest_ms, overdue);
                }
                for found in fetch!(tx, COUNT_DEAD, since_ms, read_count) {
                    activity.dead = found;
                }
                let mut overview = Overview {
                    activity,
                    ..Overview::default()
                };
                for found in fetch!(tx, COUNT_GAPS, since_ms, read_count) {
                    overview.gaps = found;
                }
                let lost = fetch_lost!(tx, dialect, since_ms, &BTreeMap::new(), now_ms);
                tx.commit().await?;
                let lost = lost.iter().filter(|lost| lost.until_ms >= since_ms);
                for lost in lost {
                    match lost.cause {
                        LostCause::Dropping { .. } => overview.gaps += 1,
                        LostCause::Missing { batches } | LostCause::MissingInTheEnd { batches }
                            if lost.certain_in_ms == 0 =>
                        {
                            overview.missing_batches += batches;
                        }
                        LostCause::Missing { .. } | LostCause::MissingInTheEnd { .. } => {}
                    }
                }
                Ok(overview)
            }
        )
    }
}
