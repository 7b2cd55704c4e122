//! The health of endpoints.

use std::collections::HashMap;

use sqlx::Connection as _;
use webhook::{Endpoint, EndpointId};

use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store,
    columns::Columns,
    database::on_connection,
    endpoint::row::Row,
    registry::decode_each,
    statement::{Argument, bind_all},
};

/// The health of an endpoint, derived from its recorded attempts. Times are in Unix milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// When the last attempt that was answered with a 2xx began; `None` if there is none.
    pub last_success_ms: Option<u64>,
    /// When the first failed attempt after that began; `None` if there is none.
    pub failing_since_ms: Option<u64>,
    /// The number of attempts that began in the last hour.
    pub attempts_hour: u64,
    /// The number of these attempts that were answered with a 2xx.
    pub successes_hour: u64,
    /// The median duration of these attempts, in milliseconds; `None` if there are none.
    pub p50_ms: Option<u64>,
    /// The 99th percentile of their duration, in milliseconds; `None` if there are none.
    pub p99_ms: Option<u64>,
}

const HOUR_MS: u64 = 3_600_000;

const SELECT_LAST_SUCCESS: &str =
    "SELECT MAX(began_ms) AS at_ms FROM attempts WHERE endpoint_id = $1 AND ok = 1";

const SELECT_FAILING_SINCE: &str =
    "SELECT MIN(began_ms) AS at_ms FROM attempts WHERE endpoint_id = $1 AND ok = 0 AND began_ms > $2";

const COUNT_SINCE: &str = "SELECT COUNT(*) AS attempts, COALESCE(SUM(CASE WHEN ok = 1 THEN 1 ELSE 0 END), 0) AS successes FROM attempts \
     WHERE endpoint_id = $1 AND ok IN (0, 1) AND began_ms >= $2";

const SELECT_DURATION: &str = "SELECT duration_ms AS at_ms FROM attempts WHERE endpoint_id = $1 AND ok IN (0, 1) \
    AND began_ms >= $2 ORDER BY duration_ms LIMIT 1 OFFSET $3";

/// The condition that the endpoint of a row of `failing` failed in this part of the period.
macro_rules! failed_between {
    ($from:literal, $until:literal) => {
        concat!(
            " AND EXISTS (SELECT 1 FROM attempts p WHERE p.endpoint_id = failing.id AND p.ok = 0 AND p.began_ms >= ",
            $from,
            " AND p.began_ms < ",
            $until,
            ")"
        )
    };
}

/// The number of parts of a period; a failing endpoint must have failed in each of them.
const PARTS: u64 = 5;

/// Selects the columns of failing endpoints, and since when each has been failing without having been
/// changed. The period begins at `$2`. Each of its parts must have a failure, and it must have at least ten
/// in all. The first failure after the last success is older than the period, so there is no success in it.
const SELECT_FAILING: &str = concat!(
    "SELECT ",
    crate::endpoint::row::columns!(),
    ", failing_since_ms FROM (SELECT e.*, (SELECT MIN(f.began_ms) FROM attempts f WHERE f.endpoint_id = e.id AND f.ok = 0 \
     AND f.began_ms > COALESCE((SELECT MAX(s.began_ms) FROM attempts s WHERE s.endpoint_id = e.id AND s.ok = 1), 0) \
     AND f.began_ms > e.updated_at_ms) AS failing_since_ms FROM endpoints e \
     WHERE e.deleted_at_ms IS NULL AND e.disabled_at_ms IS NULL AND EXISTS (SELECT 1 FROM attempts r \
     WHERE r.endpoint_id = e.id AND r.ok = 0 AND r.began_ms >= $1)) failing WHERE failing_since_ms <= $2",
    failed_between!("$2", "$3"),
    failed_between!("$3", "$4"),
    failed_between!("$4", "$5"),
    failed_between!("$5", "$6"),
    failed_between!("$6", "$7"),
    " AND 10 = (SELECT COUNT(*) FROM (SELECT 1 FROM attempts c WHERE c.endpoint_id = failing.id AND c.ok = 0 \
     AND c.began_ms >= $2 AND c.began_ms < $7 LIMIT 10) counted) ORDER BY id"
);

/// Evaluates to the column `at_ms` of the first row. For use inside [`on_connection!`].
macro_rules! time {
    ($tx:ident, $sql:expr, $arguments:expr) => {
        bind_all!(sqlx::query($sql), &$arguments)
            .try_map(|row| read_time(&row))
            .fetch_optional(&mut *$tx)
            .await?
            .flatten()
    };
}

impl Store {
    /// Returns the health of an endpoint as of `now_ms`.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn endpoint_health(&self, endpoint: &EndpointId, now_ms: u64) -> Result<Health, Error> {
        let operation = &Operation::on("read the health of endpoint", endpoint);
        let id = endpoint.as_str();
        let hour_ago_ms = now_ms.saturating_sub(HOUR_MS);
        on_connection!(
            &self.database,
            journal,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_snapshot).await?;
                let last_success_ms = time!(tx, SELECT_LAST_SUCCESS, [id.into()]);
                let after_ms = last_success_ms.map_or(-1, u64::cast_signed);
                let failing_since_ms = time!(tx, SELECT_FAILING_SINCE, [id.into(), after_ms.into()]);
                let hour = [id.into(), hour_ago_ms.into()];
                let (attempts_hour, successes_hour) = bind_all!(sqlx::query(COUNT_SINCE), &hour)
                    .try_map(|row| read_counts(&row))
                    .fetch_one(&mut *tx)
                    .await?;
                let rank =
                    |percent: u64| [id.into(), hour_ago_ms.into(), rank(attempts_hour, percent).into()];
                let p50_ms = time!(tx, SELECT_DURATION, rank(50));
                let p99_ms = time!(tx, SELECT_DURATION, rank(99));
                tx.commit().await?;
                Ok(Health {
                    last_success_ms,
                    failing_since_ms,
                    attempts_hour,
                    successes_hour,
                    p50_ms,
                    p99_ms,
                })
            }
        )
    }

    /// Returns every enabled endpoint that failed at `recent_ms` or later and whose attempts have all failed
    /// during the last `failing_for_ms` milliseconds, with the time of the first failure. There must be at
    /// least ten failures, and at least one in each fifth of that time, so that two short outages do not
    /// count as one long outage. Attempts before the endpoint's last change do not count: after it is enabled
    /// again, it can fail for the whole time again.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, or [`Error::SealingKeyMissing`]. An endpoint that
    /// cannot be read is logged and skipped.
    pub async fn failing_endpoints(
        &self,
        recent_ms: u64,
        failing_for_ms: u64,
        now_ms: u64,
    ) -> Result<Vec<(Endpoint, u64)>, Error> {
        let operation = &Operation::FIND_FAILING;
        let from_ms = now_ms.saturating_sub(failing_for_ms);
        let bound = |part: u64| from_ms + (now_ms - from_ms) / PARTS * part;
        let since: [Argument; 7] = [
            recent_ms.into(),
            from_ms.into(),
            bound(1).into(),
            bound(2).into(),
            bound(3).into(),
            bound(4).into(),
            // No upper bound, so that attempts count that a host with a clock that is ahead has recorded.
            i64::MAX.into(),
        ];
        let rows: Vec<(Row, u64)> = on_connection!(
            &self.database,
            reader,
            operation,
            OPERATION_TIMEOUT,
            |connection, _dialect| {
                Ok(bind_all!(sqlx::query(SELECT_FAILING), &since)
                    .try_map(|row| {
                        let failing_since_ms = (&row as &dyn Columns).number("failing_since_ms")?;
                        Ok((sqlx::FromRow::from_row(&row)?, failing_since_ms))
                    })
                    .fetch_all(connection)
                    .await?)
            }
        )?;
        let since_ms: HashMap<_, _> = rows
            .iter()
            .map(|(row, since_ms)| (row.0.clone(), *since_ms))
            .collect();
        let rows = rows.into_iter().map(|(row, _)| row).collect();
        let (endpoints, _) = decode_each(rows, &self.keyring)?;
        Ok(endpoints
            .into_iter()
            .map(|endpoint| {
                let since_ms = since_ms.get(endpoint.id.as_str()).copied().unwrap_or_default();
                (endpoint, since_ms)
            })
            .collect())
    }
}

/// Returns the 0-based position, in ascending order, of the attempt whose duration is the percentile.
fn rank(attempts: u64, percent: u64) -> u64 {
    (attempts * percent).div_ceil(100).saturating_sub(1)
}

fn read_time(row: &dyn Columns) -> Result<Option<u64>, sqlx::Error> {
    row.maybe_number("at_ms")
}

fn read_counts(row: &dyn Columns) -> Result<(u64, u64), sqlx::Error> {
    Ok((row.number("attempts")?, row.number("successes")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        assert_eq!((rank(0, 50), rank(1, 50), rank(1, 99)), (0, 0, 0));
        assert_eq!((rank(2, 50), rank(3, 50), rank(100, 50)), (0, 1, 49));
        assert_eq!((rank(100, 99), rank(101, 99), rank(1000, 99)), (98, 99, 989));
    }
}
