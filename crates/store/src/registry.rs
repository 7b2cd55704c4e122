//! The registry: all endpoints at once, and the changes since a position. Workers use it to keep the
//! endpoints in memory.

use std::error::Error as _;

use sqlx::Connection as _;
use webhook::{Endpoint, EndpointId};

use crate::{
    ENDPOINTS_MAX, Error, OPERATION_TIMEOUT, Operation, Store,
    database::on_connection,
    endpoint::row::{Row, columns, decode, id_of, is_deleted, version_of},
    sealing::Keyring,
};

/// The maximum number of endpoints that one call of [`Store::registry_changes`] returns. The next call
/// returns the next ones.
pub const CHANGES_MAX: u32 = 10_000;

/// A position in the registry's history: the value of the counter, and the change in the log that led to it.
///
/// A version alone does not distinguish two histories: a database that was restored from a backup counts
/// again from the time of the backup, and reaches every version that a reader may have seen before. The last
/// change does distinguish them, by its number and its random stamp. A reader whose change is still in the
/// log has missed only what came after it. A reader whose change is not in the log has followed another
/// history and must load everything again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The registry's counter.
    pub version: i64,
    /// The number of the last change in the log; 0 before the first one.
    pub change: i64,
    /// The stamp that identifies that change: a random number, or, if an older version wrote it, its time.
    pub stamp: i64,
}

/// All endpoints in one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The registry's position in this snapshot; pass it to [`Store::registry_changes`].
    pub position: Position,
    /// Every endpoint that is not deleted, including disabled ones, ordered by id.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that exist but that this version cannot read. The cause is in the program's log.
    pub unreadable: Vec<EndpointId>,
}

/// The changes after a position. An endpoint is in at most one of the lists, in the state of its last write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The position up to which all changes are included; pass it to the next call.
    pub position: Position,
    /// Endpoints that were created or changed, in the order of their versions.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that were deleted, in the order of their deletion. The caller may never have seen some of
    /// them.
    pub deleted: Vec<EndpointId>,
    /// Endpoints that were created or changed but that this version cannot read. The caller should keep what
    /// it knew about them before. The cause is in the program's log.
    pub unreadable: Vec<EndpointId>,
}

/// Selects the registry's position as one row. The number and the stamp are those of the last change in the
/// log.
const SELECT_POSITION: &str = "SELECT r.version, r.change_count, COALESCE(c.nonce, c.at_ms, 0) FROM registry r \
    LEFT JOIN changes c ON c.number = r.change_count WHERE r.id = 1";

/// Selects the lowest version from which the list of changes is complete.
const SELECT_LOW_VERSION: &str = "SELECT low_version FROM registry WHERE id = 1";

/// Counts whether the log has the change that a reader has seen last: 1 or 0.
const COUNT_CHANGE_SEEN: &str =
    "SELECT COUNT(*) FROM changes WHERE number = $1 AND COALESCE(nonce, at_ms) = $2";

const SELECT_ALL: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM endpoints WHERE deleted_at_ms IS NULL ORDER BY id LIMIT $1"
);

const SELECT_CHANGED: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM endpoints WHERE version > $1 ORDER BY version LIMIT $2"
);

impl Store {
    /// Returns the registry's current position. A reader that has seen this position is up to date. The
    /// version starts at 0 and grows if and only if an endpoint is written.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn registry_position(&self) -> Result<Position, Error> {
        let operation = &Operation::new("read the registry's version");
        on_connection!(
            &self.database,
            reader,
            operation,
            OPERATION_TIMEOUT,
            |connection, _dialect| {
                let row: PositionRow = sqlx::query_as(SELECT_POSITION).fetch_one(connection).await?;
                Ok(row.into())
            }
        )
    }

    /// Loads all endpoints, at most [`ENDPOINTS_MAX`], in one snapshot.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, [`Error::SealingKeyMissing`], or
    /// [`Error::TooManyEndpoints`]. A row that cannot be read is not an error: it is logged and skipped.
    pub async fn load_registry(&self) -> Result<Snapshot, Error> {
        let limit = i64::from(ENDPOINTS_MAX) + 1;
        let (position, rows) = self
            .read_registry(&Operation::new("load the registry"), None, SELECT_ALL, &[limit])
            .await?;
        if rows.len() > ENDPOINTS_MAX as usize {
            return Err(Error::TooManyEndpoints);
        }
        let (endpoints, unreadable) = decode_each(rows, &self.keyring)?;
        Ok(Snapshot {
            position,
            endpoints,
            unreadable,
        })
    }

    /// Returns the changes after `since` in one snapshot: at most [`CHANGES_MAX`] endpoints, in the order in
    /// which they were written. There are more if the returned version is lower than that of
    /// [`Store::registry_position`].
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, [`Error::SealingKeyMissing`],
    /// [`Error::RegistryWentBack`] if `since` is not a position of this history, or [`Error::RegistryForgot`]
    /// if `since` is so old that deletions may be missing. A row that cannot be read is not an error: it is
    /// logged and skipped.
    pub async fn registry_changes(&self, since: &Position) -> Result<Changes, Error> {
        let operation = Operation::on("read the registry's changes since version", since.version);
        let arguments = [since.version, i64::from(CHANGES_MAX)];
        let (newest, rows) = self
            .read_registry(&operation, Some(since), SELECT_CHANGED, &arguments)
            .await?;
        let position = match rows.last() {
            // The page is not complete. Keep the newest change, so that the next page is read only from a
            // history that includes everything this page was read from.
            Some(last) if rows.len() == CHANGES_MAX as usize => Position {
                version: version_of(last),
                ..newest
            },
            _ => newest,
        };
        let (deleted, kept): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_deleted);
        let (endpoints, unreadable) = decode_each(kept, &self.keyring)?;
        Ok(Changes {
            position,
            endpoints,
            deleted: deleted.into_iter().map(id_of).collect(),
            unreadable,
        })
    }

    /// Returns the registry's position and the endpoints that `select` finds, in one snapshot, for a reader
    /// that has seen `since`.
    async fn read_registry(
        &self,
        operation: &Operation,
        since: Option<&Position>,
        select: &'static str,
        arguments: &[i64],
    ) -> Result<(Position, Vec<Row>), Error> {
        on_connection!(
            &self.database,
            reader,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_snapshot).await?;
                let row: PositionRow = sqlx::query_as(SELECT_POSITION).fetch_one(&mut *tx).await?;
                let position = Position::from(row);
                if let Some(since) = since {
                    let seen: i64 = sqlx::query_scalar(COUNT_CHANGE_SEEN)
                        .bind(since.change)
                        .bind(since.stamp)
                        .fetch_one(&mut *tx)
                        .await?;
                    since.is_followed_by(&position, seen > 0)?;
                    let low_version = sqlx::query_scalar(SELECT_LOW_VERSION).fetch_one(&mut *tx).await?;
                    since.is_kept_from(low_version)?;
                }
                let mut query = sqlx::query_as(select);
                for argument in arguments {
                    query = query.bind(*argument);
                }
                let rows = query.fetch_all(&mut *tx).await?;
                tx.commit().await?;
                Ok((position, rows))
            }
        )
    }
}

/// A row of [`SELECT_POSITION`].
type PositionRow = (i64, i64, i64);

impl From<PositionRow> for Position {
    fn from((version, change, stamp): PositionRow) -> Self {
        Self {
            version,
            change,
            stamp,
        }
    }
}

impl Position {
    /// Returns an error if this history never had the position. `seen` is whether the log has its change;
    /// before the first change there is none.
    fn is_followed_by(&self, newest: &Self, seen: bool) -> Result<(), Error> {
        if newest.version >= self.version && (seen || self.change == 0) {
            return Ok(());
        }
        Err(Error::RegistryWentBack {
            since: self.version,
            version: newest.version,
        })
    }

    /// Returns an error if deletions after the position may be missing.
    fn is_kept_from(&self, low_version: i64) -> Result<(), Error> {
        if self.version >= low_version {
            return Ok(());
        }
        Err(Error::RegistryForgot {
            since: self.version,
            low_version,
        })
    }
}

/// Decodes each row separately: a row that a newer version or a manual edit wrote must not hide the others.
pub(crate) fn decode_each(
    rows: Vec<Row>,
    keyring: &Keyring,
) -> Result<(Vec<Endpoint>, Vec<EndpointId>), Error> {
    let (mut endpoints, mut unreadable) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let id = EndpointId::new(row.0.as_str());
        match decode(row, keyring) {
            Ok(endpoint) => endpoints.push(endpoint),
            // The cause is not this row but a missing key, which most likely affects many rows.
            Err(error @ Error::SealingKeyMissing { .. }) => return Err(error),
            Err(error) => {
                tracing::error!(
                    endpoint.id = %id, %error, cause = error.source().map(ToString::to_string),
                    "cannot read an endpoint: workers that have loaded it before keep that version; other endpoints are not affected"
                );
                unreadable.push(id);
            }
        }
    }
    Ok((endpoints, unreadable))
}
