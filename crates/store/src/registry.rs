//! All endpoints at once, and what has changed since: how workers keep them in memory.

use std::error::Error as _;

use sqlx::Connection as _;
use webhook::{Endpoint, EndpointId};

use crate::{
    ENDPOINTS_MAX, Error, OPERATION_TIMEOUT, Operation, Store,
    database::on_connection,
    endpoint::row::{Row, columns, decode, id_of, is_deleted, version_of},
    sealing::Keyring,
};

/// The most endpoints that one [`Store::registry_changes`] returns; the next call returns the next ones.
pub const CHANGES_MAX: u32 = 10_000;

/// A point in the registry's history: the counter's value, and the change in the log that led to it.
///
/// A version alone does not tell two histories apart: a database that was restored from a backup counts again
/// from where the backup was made, and reaches every version that a reader may have seen before. The last
/// change does tell them apart, by its number and its stamp, which is random. A reader whose change is still
/// in the log has missed nothing but what came after it; one whose change is not there has followed another
/// history, and has to load everything again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The registry's counter.
    pub version: i64,
    /// The number of the last change in the log; 0 before the first one.
    pub change: i64,
    /// What that change is told by: random, or the time at which an older version of this program wrote it.
    pub stamp: i64,
}

/// All endpoints at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where the registry was at that moment: ask for changes since it.
    pub position: Position,
    /// Every endpoint that is not deleted, disabled ones included, ordered by id.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that exist and that this version cannot read. The log says why.
    pub unreadable: Vec<EndpointId>,
}

/// What was written after some version. An endpoint is in one of the lists at most, as it was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Every change up to here is contained: ask for changes since it next.
    pub position: Position,
    /// Endpoints created or changed, in the order of their versions.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints deleted, in the order in which they were; possibly some that the caller never saw.
    pub deleted: Vec<EndpointId>,
    /// Endpoints created or changed that this version cannot read: what was known of them is the best there
    /// is. The log says why.
    pub unreadable: Vec<EndpointId>,
}

/// In one row: the number and the stamp are those of the log's last change.
const SELECT_POSITION: &str = "SELECT r.version, r.change_count, COALESCE(c.nonce, c.at_ms, 0) FROM registry r \
    LEFT JOIN changes c ON c.number = r.change_count WHERE r.id = 1";

/// Changes after this version, or a later one, are complete.
const SELECT_LOW_VERSION: &str = "SELECT low_version FROM registry WHERE id = 1";

/// Whether the log has the change that a reader saw last.
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
    /// Where the registry is: a reader that has seen this very position is up to date. Its version starts at
    /// 0, and grows if, and only if, an endpoint is written.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn registry_position(&self) -> Result<Position, Error> {
        let operation = &Operation::ReadRegistryPosition;
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

    /// Loads every endpoint, at most [`ENDPOINTS_MAX`], as of one moment.
    ///
    /// # Errors
    ///
    /// The database's; [`Error::TooManyEndpoints`]. A row that cannot be read is none: it is logged and left
    /// out.
    pub async fn load_registry(&self) -> Result<Snapshot, Error> {
        let limit = i64::from(ENDPOINTS_MAX) + 1;
        let (position, rows) = self
            .read_registry(&Operation::LoadRegistry, None, SELECT_ALL, &[limit])
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

    /// What was written after `since`, as of one moment: at most [`CHANGES_MAX`] endpoints, those written
    /// first. There are more if the returned version is less than that of [`Store::registry_position`].
    ///
    /// # Errors
    ///
    /// The database's; [`Error::RegistryWentBack`] when `since` is no position of this history;
    /// [`Error::RegistryForgot`] when it is so old that deletions may be missing. A row that cannot be
    /// read is none: it is logged and left out.
    pub async fn registry_changes(&self, since: &Position) -> Result<Changes, Error> {
        let operation = Operation::ReadRegistryChanges { since: since.version };
        let arguments = [since.version, i64::from(CHANGES_MAX)];
        let (newest, rows) = self
            .read_registry(&operation, Some(since), SELECT_CHANGED, &arguments)
            .await?;
        let position = match rows.last() {
            // Read on from here only in a history that has all of what this page was read from.
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

    /// The registry's position and the endpoints that `select` finds, both as of one moment, for a reader
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
    /// Refuses a position that this history never had. `seen` says whether the log has its change; before the
    /// first one there is none.
    fn is_followed_by(&self, newest: &Self, seen: bool) -> Result<(), Error> {
        if newest.version >= self.version && (seen || self.change == 0) {
            return Ok(());
        }
        Err(Error::RegistryWentBack {
            since: self.version,
            version: newest.version,
        })
    }

    /// Refuses a position after which deletions may be missing.
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

/// Reads each row for itself: one that a newer version wrote, or somebody by hand, must not hide the others.
pub(crate) fn decode_each(
    rows: Vec<Row>,
    keyring: &Keyring,
) -> Result<(Vec<Endpoint>, Vec<EndpointId>), Error> {
    let (mut endpoints, mut unreadable) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let id = EndpointId::new(row.0.as_str());
        match decode(row, keyring) {
            Ok(endpoint) => endpoints.push(endpoint),
            // Not the row's fault, and most likely true of many.
            Err(error @ Error::SealingKeyMissing { .. }) => return Err(error),
            Err(error) => {
                tracing::error!(
                    endpoint.id = %id, %error, cause = error.source().map(ToString::to_string),
                    "an endpoint cannot be read: what a worker knew of it stays in force there; everything else goes on without it"
                );
                unreadable.push(id);
            }
        }
    }
    Ok((endpoints, unreadable))
}
