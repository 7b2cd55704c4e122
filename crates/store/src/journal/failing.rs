//! The endpoints that are failing: those whose last recorded attempt was not answered with a 2xx.

use webhook::{Endpoint, EndpointId, OrganizationId};

use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store,
    columns::Columns,
    database::on_connection,
    endpoint::row::{Row, decode},
    statement::{Argument, Statement, bind_all},
};

/// An endpoint that is failing. Times are in Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// When the last attempt that was answered with a 2xx began; `None` if the journal has none.
    pub last_success_ms: Option<u64>,
    /// When the first failed attempt after that began.
    pub failing_since_ms: u64,
    /// When the last attempt began.
    pub last_failure_ms: u64,
    /// The HTTP status of the last attempt; `None` if there was no response.
    pub last_status: Option<u16>,
    /// The failure of the last attempt, in words.
    pub last_error: String,
    /// The number of attempts that began in the last hour.
    pub attempts_hour: u64,
    /// The number of these attempts that were answered with a 2xx.
    pub successes_hour: u64,
    /// The number of pending deliveries to the endpoint.
    pub pending: u64,
    /// When the oldest pending delivery was created; `None` if none is pending.
    pub oldest_pending_ms: Option<u64>,
}

/// `$1` is one hour ago. Each subquery reads an index of the attempts.
const SELECT: &str = concat!(
    "SELECT ",
    crate::endpoint::row::columns!(),
    ", last_success_ms, last_failure_ms, \
     (SELECT MIN(a.began_ms) FROM attempts a WHERE a.endpoint_id = f.id AND a.ok = 0 AND a.began_ms > COALESCE(f.last_success_ms, -1)) \
     AS failing_since_ms, \
     (SELECT a.status FROM attempts a WHERE a.endpoint_id = f.id AND a.ok = 0 AND a.began_ms = f.last_failure_ms \
     ORDER BY a.id DESC LIMIT 1) AS last_status, \
     (SELECT a.error FROM attempts a WHERE a.endpoint_id = f.id AND a.ok = 0 AND a.began_ms = f.last_failure_ms \
     ORDER BY a.id DESC LIMIT 1) AS last_error, \
     (SELECT COUNT(*) FROM attempts a WHERE a.endpoint_id = f.id AND a.ok = 0 AND a.began_ms >= $1) AS failures_hour, \
     (SELECT COUNT(*) FROM attempts a WHERE a.endpoint_id = f.id AND a.ok = 1 AND a.began_ms >= $1) AS successes_hour FROM \
     (SELECT e.*, (SELECT MAX(s.began_ms) FROM attempts s WHERE s.endpoint_id = e.id AND s.ok = 1) AS last_success_ms, \
     (SELECT MAX(l.began_ms) FROM attempts l WHERE l.endpoint_id = e.id AND l.ok = 0) AS last_failure_ms \
     FROM endpoints e WHERE e.deleted_at_ms IS NULL AND (e.disabled_reason IS NULL OR e.disabled_reason <> 'manual')) f \
     WHERE last_failure_ms > COALESCE(last_success_ms, -1)"
);

/// Counts the pending deliveries of the endpoints whose ids are appended. Pending deliveries are few, and an
/// index of undelivered deliveries finds them.
const COUNT_PENDING: &str = "SELECT endpoint_id, COUNT(*) AS pending, MIN(created_ms) AS oldest_ms FROM deliveries \
    WHERE state = 0 AND state <> 3 AND endpoint_id IN ";

const HOUR_MS: u64 = 3_600_000;

/// An endpoint's id, the number of its pending deliveries, and when the oldest was created.
type Pending = (EndpointId, u64, u64);

impl Store {
    /// Returns at most `limit` endpoints after `after` that are failing as of `now_ms`, ordered by id; of one
    /// organization, or of all. Endpoints that were disabled manually are excluded; endpoints that were
    /// disabled because they failed are not.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, [`Error::SealingKeyMissing`], or
    /// [`Error::Undecodable`].
    pub async fn failing(
        &self,
        organization: Option<&OrganizationId>,
        after: Option<&EndpointId>,
        limit: u32,
        now_ms: u64,
    ) -> Result<Vec<Failing>, Error> {
        let mut select = Statement::with(SELECT, [now_ms.saturating_sub(HOUR_MS).into()]);
        if let Some(organization) = organization {
            select.push_with(" AND organization_id = ", Argument::id(organization.as_str()));
        }
        if let Some(after) = after {
            select.push_with(" AND id > ", after.into());
        }
        select.push_with(" ORDER BY id LIMIT ", limit.into());
        let rows: Vec<(Row, Found)> = on_connection!(
            &self.database,
            journal,
            &Operation::FIND_FAILING,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                Ok(bind_all!(sqlx::query(select.sql(dialect)), &select.arguments)
                    .try_map(|row| {
                        let found = read(&row)?;
                        Ok((sqlx::FromRow::from_row(&row)?, found))
                    })
                    .fetch_all(connection)
                    .await?)
            }
        )?;
        let failing = rows
            .into_iter()
            .map(|(row, found)| Ok(found.of(decode(row, &self.keyring)?)));
        self.with_pending(failing.collect::<Result<_, Error>>()?).await
    }

    async fn with_pending(&self, mut failing: Vec<Failing>) -> Result<Vec<Failing>, Error> {
        if failing.is_empty() {
            return Ok(failing);
        }
        let mut count = Statement::new(COUNT_PENDING);
        count.push_list("", failing.iter().map(|found| Argument::from(&found.endpoint.id)));
        count.push(" GROUP BY endpoint_id");
        let pending = self
            .fetch_from_journal(&Operation::FIND_FAILING, count, read_pending)
            .await?;
        for (id, count, oldest_ms) in pending {
            if let Some(found) = failing.iter_mut().find(|found| found.endpoint.id == id) {
                (found.pending, found.oldest_pending_ms) = (count, Some(oldest_ms));
            }
        }
        Ok(failing)
    }
}

/// The values derived from the attempts.
struct Found {
    last_success_ms: Option<u64>,
    failing_since_ms: u64,
    last_failure_ms: u64,
    last_status: u16,
    last_error: String,
    failures_hour: u64,
    successes_hour: u64,
}

impl Found {
    fn of(self, endpoint: Endpoint) -> Failing {
        Failing {
            endpoint,
            last_success_ms: self.last_success_ms,
            failing_since_ms: self.failing_since_ms,
            last_failure_ms: self.last_failure_ms,
            last_status: (self.last_status > 0).then_some(self.last_status),
            last_error: self.last_error,
            attempts_hour: self.failures_hour + self.successes_hour,
            successes_hour: self.successes_hour,
            pending: 0,
            oldest_pending_ms: None,
        }
    }
}

fn read(row: &dyn Columns) -> Result<Found, sqlx::Error> {
    Ok(Found {
        last_success_ms: row.maybe_number("last_success_ms")?,
        failing_since_ms: row.number("failing_since_ms")?,
        last_failure_ms: row.number("last_failure_ms")?,
        last_status: row.number("last_status")?,
        last_error: row.text("last_error")?,
        failures_hour: row.number("failures_hour")?,
        successes_hour: row.number("successes_hour")?,
    })
}

fn read_pending(row: &dyn Columns) -> Result<Pending, sqlx::Error> {
    let id = EndpointId::new(row.text("endpoint_id")?);
    Ok((id, row.number("pending")?, row.number("oldest_ms")?))
}
