//! The one way in which endpoints are written: one statement, in one transaction that advances the registry first.

use sqlx::Connection as _;
use webhook::EndpointId;

use super::row::{Row, columns};
use crate::{ENDPOINTS_MAX, Error, OPERATION_TIMEOUT, Operation, Store, database::on_connection};

/// First in every write: the lock that puts writers in a row, and the number that this write gets.
const ADVANCE_REGISTRY: &str = "UPDATE registry SET version = version + 1, endpoint_count = endpoint_count + $1 \
    WHERE id = 1 RETURNING version, endpoint_count";

pub(super) const INSERT: &str = concat!(
    "INSERT INTO endpoints (version, id, created_at_ms, updated_at_ms, organization_id, project_id, url, subscription, \
     secret) VALUES ($1, $2, $3, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING RETURNING ",
    columns!()
);

pub(super) const UPDATE: &str = concat!(
    "UPDATE endpoints SET version = $1, updated_at_ms = $3, url = COALESCE($4, url), \
     subscription = COALESCE($5, subscription), \
     project_id = CASE WHEN $6 = 1 THEN $7 ELSE project_id END \
     WHERE id = $2 AND deleted_at_ms IS NULL RETURNING ",
    columns!()
);

pub(super) const ENABLE: &str = concat!(
    "UPDATE endpoints SET version = $1, updated_at_ms = $3, disabled_reason = NULL, disabled_at_ms = NULL \
     WHERE id = $2 AND deleted_at_ms IS NULL RETURNING ",
    columns!()
);

pub(super) const DISABLE: &str = concat!(
    "UPDATE endpoints SET version = $1, updated_at_ms = $3, disabled_reason = $4, disabled_at_ms = $3 \
     WHERE id = $2 AND deleted_at_ms IS NULL RETURNING ",
    columns!()
);

pub(super) const DISABLE_UNLESS_CHANGED: &str = concat!(
    "UPDATE endpoints SET version = $1, updated_at_ms = $3, disabled_reason = $4, disabled_at_ms = $3 \
     WHERE id = $2 AND deleted_at_ms IS NULL AND version = $5 RETURNING ",
    columns!()
);

pub(super) const DELETE: &str = concat!(
    "UPDATE endpoints SET version = $1, updated_at_ms = $3, deleted_at_ms = $3, url = NULL, secret = NULL \
     WHERE id = $2 AND deleted_at_ms IS NULL RETURNING ",
    columns!()
);

/// One statement that writes one endpoint. Its `$1` is the new version; the arguments begin at `$2`.
pub(super) struct Write<'a> {
    pub(super) sql: &'static str,
    pub(super) arguments: Vec<Argument<'a>>,
    /// By how many endpoints there are more after it: 1, 0 or -1.
    pub(super) growth: i64,
}

/// A value on its way into a statement, before it is known which database's.
pub(super) enum Argument<'a> {
    Text(Option<&'a str>),
    Integer(i64),
}

impl<'a> From<&'a str> for Argument<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Some(text))
    }
}

impl<'a> From<&'a EndpointId> for Argument<'a> {
    fn from(id: &'a EndpointId) -> Self {
        Self::Text(Some(id.as_str()))
    }
}

impl<'a> From<Option<&'a str>> for Argument<'a> {
    fn from(text: Option<&'a str>) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Argument<'_> {
    fn from(integer: i64) -> Self {
        Self::Integer(integer)
    }
}

impl Store {
    pub(super) async fn write_existing<T>(
        &self,
        id: &EndpointId,
        operation: &Operation,
        write: Write<'_>,
        decode: fn(Row) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let written = self.write(operation, write, decode).await?;
        written.ok_or_else(|| Error::EndpointNotFound { id: id.clone() })
    }

    /// The one way in which endpoints are written. `None` when the statement found nothing to write; nothing is changed then,
    /// the counter neither. What cannot be decoded is not committed.
    pub(super) async fn write<T>(
        &self,
        operation: &Operation,
        write: Write<'_>,
        decode: fn(Row) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let Write {
            sql,
            arguments,
            growth,
        } = write;
        on_connection!(
            &self.database,
            writer,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                let (version, endpoint_count): (i64, i64) = sqlx::query_as(ADVANCE_REGISTRY)
                    .bind(growth)
                    .fetch_one(&mut *tx)
                    .await?;
                if growth > 0 && endpoint_count > i64::from(ENDPOINTS_MAX) {
                    return Err(Error::TooManyEndpoints.into());
                }
                let mut query = sqlx::query_as(sql).bind(version);
                for argument in arguments {
                    query = match argument {
                        Argument::Text(text) => query.bind(text),
                        Argument::Integer(integer) => query.bind(integer),
                    };
                }
                let Some(row) = query.fetch_optional(&mut *tx).await? else {
                    tx.rollback().await?;
                    return Ok(None);
                };
                let written = decode(row)?;
                tx.commit().await?;
                Ok(Some(written))
            }
        )
    }
}
