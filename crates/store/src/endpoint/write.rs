//! The one way in which endpoints are written: one statement, in one transaction that advances the registry first.

use signature::Secret;
use sqlx::Connection as _;
use webhook::{DisabledReason, EndpointId};

use super::row::columns;
use crate::{
    ENDPOINTS_MAX, Error, OPERATION_TIMEOUT, Operation, Store,
    database::on_connection,
    endpoint::row::Decode,
    journal::operations::{ANNOUNCE_DISABLED, operation_id},
    sealing::{CHOOSE_SEALING_KEY, Owner},
    statement::{Argument, bind_all},
};

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
    "UPDATE endpoints SET version = $1, updated_at_ms = $3, deleted_at_ms = $3, url = NULL, secret = NULL, \
     previous_secret = NULL, previous_until_ms = NULL \
     WHERE id = $2 AND deleted_at_ms IS NULL RETURNING ",
    columns!()
);

/// `$4` is until when the old secret is valid, 0 when it is not any more. Nothing is written while an earlier one's time runs.
pub(super) const ROTATE_SECRET: &str = concat!(
    "UPDATE endpoints SET version = $1, updated_at_ms = $3, secret = $5, \
     previous_secret = CASE WHEN $4 > 0 THEN secret END, previous_until_ms = CASE WHEN $4 > 0 THEN $4 END \
     WHERE id = $2 AND deleted_at_ms IS NULL AND ($4 = 0 OR previous_until_ms IS NULL OR previous_until_ms <= $3) RETURNING ",
    columns!()
);

/// One statement that writes one endpoint. Its `$1` is the new version; the arguments begin at `$2`.
pub(super) struct Write<'a> {
    pub(super) sql: &'static str,
    pub(super) arguments: Vec<Argument<'a>>,
    /// Sealed, it becomes the last argument.
    pub(super) secret: Option<(&'a Secret, Owner<'a>)>,
    /// By how many endpoints there are more after it: 1, 0 or -1.
    pub(super) growth: i64,
    /// What it tells the platform in the same transaction.
    pub(super) announcement: Option<Announcement<'a>>,
}

/// That an endpoint is about to be disabled. Nothing is told when it is disabled already, for the same reason.
pub(super) struct Announcement<'a> {
    pub(super) id: &'a EndpointId,
    pub(super) reason: DisabledReason,
    /// Only if this is its version.
    pub(super) version_seen: Option<i64>,
    pub(super) now_ms: i64,
}

impl<'a> Announcement<'a> {
    /// The arguments of [`ANNOUNCE_DISABLED`], when the endpoint's new version is `version`.
    fn arguments(&self, version: i64) -> [Argument<'a>; 5] {
        [
            operation_id(self.id, version).into(),
            self.id.into(),
            self.reason.as_str().into(),
            self.now_ms.into(),
            // No endpoint has version 0.
            self.version_seen.unwrap_or_default().into(),
        ]
    }
}

impl Store {
    pub(super) async fn write_existing<T>(
        &self,
        id: &EndpointId,
        operation: &Operation,
        write: Write<'_>,
        decode: Decode<T>,
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
        decode: Decode<T>,
    ) -> Result<Option<T>, Error> {
        let Write {
            sql,
            mut arguments,
            secret,
            growth,
            announcement,
        } = write;
        let keyring = &self.keyring;
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
                if let Some((secret, owner)) = secret {
                    let key: String = sqlx::query_scalar(CHOOSE_SEALING_KEY)
                        .bind(keyring.first())
                        .fetch_one(&mut *tx)
                        .await?;
                    arguments.push(keyring.seal(&key, secret, owner)?.into());
                }
                if let Some(announcement) = announcement {
                    let arguments = announcement.arguments(version);
                    bind_all!(sqlx::query(ANNOUNCE_DISABLED), &arguments)
                        .execute(&mut *tx)
                        .await?;
                }
                let query = bind_all!(sqlx::query_as(sql).bind(version), &arguments);
                let Some(row) = query.fetch_optional(&mut *tx).await? else {
                    tx.rollback().await?;
                    return Ok(None);
                };
                let written = decode(row, keyring)?;
                tx.commit().await?;
                Ok(Some(written))
            }
        )
    }
}
