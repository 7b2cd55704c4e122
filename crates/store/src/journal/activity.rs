//! What happens now in one organization, or in all: rates of the last minute, and the deliveries that are
//! pending or dead.

use sqlx::Connection as _;
use webhook::OrganizationId;

use super::totals::MINUTE_MS;
use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store,
    columns::Columns,
    database::on_connection,
    statement::{Argument, bind_all},
};

/// What happens now, according to the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// The number of events received within the last minute.
    pub events_minute: u64,
    /// The numbers of attempts that began within the last minute, by outcome: `cancelled`, `dead`,
    /// `deferred`, `delivered`, `retry`. An outcome without attempts is absent.
    pub attempts_minute: Vec<(String, u64)>,
    /// When the last recorded attempt began, in Unix milliseconds; `None` if there is none.
    pub last_attempt_ms: Option<u64>,
    /// The number of pending deliveries.
    pub pending: u64,
    /// When the oldest pending delivery was created, in Unix milliseconds; `None` if none is pending.
    pub oldest_pending_ms: Option<u64>,
    /// The number of pending deliveries that were due before `overdue_ms`.
    pub overdue: u64,
    /// The number of dead deliveries among those created since `since_ms`.
    pub dead: u64,
}

/// The numbers of an organization's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts {
    /// The number of all endpoints.
    pub all: u64,
    /// The number of endpoints that are disabled, for whatever reason.
    pub disabled: u64,
}

const COUNT_ENDPOINTS: &str = "SELECT COUNT(*) AS found, COALESCE(SUM(CASE WHEN disabled_at_ms IS NULL THEN 0 ELSE 1 END), 0) AS disabled \
    FROM endpoints WHERE organization_id = $1 AND deleted_at_ms IS NULL";

const COUNT_EVENTS: &str =
    "SELECT COUNT(*) AS found FROM events WHERE organization_id = $1 AND received_ms >= $2";

/// Reads the index of attempts by endpoint, and only the rows of the last minute.
const COUNT_ATTEMPTS: &str = "SELECT outcome, COUNT(*) AS found FROM attempts \
    WHERE endpoint_id IN (SELECT id FROM endpoints WHERE organization_id = $1) AND ok IN (0, 1) AND began_ms >= $2 \
    GROUP BY outcome ORDER BY outcome";

/// Reads two entries of the index of attempts by endpoint for each endpoint.
const LAST_ATTEMPT: &str = "SELECT MAX(at_ms) AS at_ms FROM (\
    SELECT (SELECT MAX(s.began_ms) FROM attempts s WHERE s.endpoint_id = e.id AND s.ok = 1) AS at_ms \
    FROM endpoints e WHERE e.organization_id = $1 UNION ALL \
    SELECT (SELECT MAX(f.began_ms) FROM attempts f WHERE f.endpoint_id = e.id AND f.ok = 0) AS at_ms \
    FROM endpoints e WHERE e.organization_id = $1) latest";

/// Reads the index of the organization's undelivered deliveries. A run that was requested and not sent yet is not
/// overdue.
const COUNT_PENDING: &str = "SELECT COUNT(*) AS found, MIN(created_ms) AS oldest_ms, \
    COALESCE(SUM(CASE WHEN next_ms < $2 AND (requested_ms IS NULL OR sent_ms IS NOT NULL) THEN 1 ELSE 0 END), 0) AS overdue \
    FROM deliveries WHERE organization_id = $1 AND state = 0 AND state <> 3";

/// Reads the same index.
const COUNT_DEAD: &str = "SELECT COUNT(*) AS found FROM deliveries \
    WHERE organization_id = $1 AND state = 2 AND state <> 3 AND created_ms >= $2";

/// Evaluates to the only row that a statement returns in a transaction. For use inside [`on_connection!`].
macro_rules! fetch_one {
    ($tx:ident, $sql:expr, $arguments:expr, $read:expr) => {{
        let query = bind_all!(sqlx::query($sql), &$arguments);
        query.try_map(|row| $read(&row)).fetch_one(&mut *$tx).await?
    }};
}

impl Store {
    /// Returns the numbers of an organization's endpoints, and what happens now in the organization, as
    /// [`overview`](Self::overview) does for all.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn activity(
        &self,
        organization: &OrganizationId,
        now_ms: u64,
        since_ms: u64,
        overdue_ms: u64,
    ) -> Result<(EndpointCounts, Activity), Error> {
        let operation = &Operation::new("read the status of an organization");
        let minute_ago_ms = now_ms.saturating_sub(MINUTE_MS);
        let id = || Argument::id(organization.as_str());
        on_connection!(
            &self.database,
            journal,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_snapshot).await?;
                let last_minute = [id(), minute_ago_ms.into()];
                let endpoints = fetch_one!(tx, COUNT_ENDPOINTS, [id()], read_endpoints);
                let events_minute = fetch_one!(tx, COUNT_EVENTS, last_minute, read_count);
                let attempts_minute = bind_all!(sqlx::query(COUNT_ATTEMPTS), &last_minute)
                    .try_map(|row| read_outcome(&row))
                    .fetch_all(&mut *tx)
                    .await?;
                let last_attempt_ms = fetch_one!(tx, LAST_ATTEMPT, [id()], read_time);
                let (pending, oldest_pending_ms, overdue) =
                    fetch_one!(tx, COUNT_PENDING, [id(), overdue_ms.into()], read_pending);
                let dead = fetch_one!(tx, COUNT_DEAD, [id(), since_ms.into()], read_count);
                tx.commit().await?;
                let activity = Activity {
                    events_minute,
                    attempts_minute,
                    last_attempt_ms,
                    pending,
                    oldest_pending_ms,
                    overdue,
                    dead,
                };
                Ok((endpoints, activity))
            }
        )
    }
}

fn read_endpoints(row: &dyn Columns) -> Result<EndpointCounts, sqlx::Error> {
    Ok(EndpointCounts {
        all: row.number("found")?,
        disabled: row.number("disabled")?,
    })
}

fn read_time(row: &dyn Columns) -> Result<Option<u64>, sqlx::Error> {
    row.maybe_number("at_ms")
}

pub(super) fn read_count(row: &dyn Columns) -> Result<u64, sqlx::Error> {
    row.number("found")
}

pub(super) fn read_outcome(row: &dyn Columns) -> Result<(String, u64), sqlx::Error> {
    Ok((row.text("outcome")?, row.number("found")?))
}

/// Reads the number of pending deliveries, when the oldest one was created, and how many are overdue.
pub(super) fn read_pending(row: &dyn Columns) -> Result<(u64, Option<u64>, u64), sqlx::Error> {
    let oldest_ms = row.maybe_number("oldest_ms")?;
    Ok((row.number("found")?, oldest_ms, row.number("overdue")?))
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Row as _, Sqlite, SqliteConnection};

    use super::*;

    #[tokio::test]
    async fn undelivered_deliveries_of_other_organizations_are_not_read() {
        let mut database = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        for migration in [
            include_str!("../../migrations/0002_journal.sql"),
            include_str!("../../migrations/0022_undelivered_by_organization.sql"),
        ] {
            sqlx::raw_sql(migration).execute(&mut database).await.unwrap();
        }
        for statement in [COUNT_PENDING, COUNT_DEAD] {
            let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
            let explained = sqlx::query::<Sqlite>(explain).bind("org_1").bind(1_i64);
            let steps = explained.fetch_all(&mut database).await.unwrap();
            let steps: Vec<String> = steps.iter().map(|step| step.get("detail")).collect();
            let index = "deliveries_undelivered_by_organization (organization_id=? AND state=?";
            assert!(steps.len() == 1 && steps[0].contains(index), "{steps:?}");
        }
    }
}
