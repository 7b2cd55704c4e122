//! All endpoints at once, and what has changed since: how workers keep them in memory.

use std::error::Error as _;

use sqlx::Connection as _;
use webhook::{Endpoint, EndpointId};

use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store,
    database::on_connection,
    endpoint::row::{Row, columns, decode, id_of, is_deleted, version_of},
    sealing::Keyring,
};

/// The most endpoints there can be, all organizations together: every worker holds them all in memory, at about 1 KiB each.
pub const ENDPOINTS_MAX: u32 = 100_000;

/// The most endpoints that one [`Store::registry_changes`] returns; the next call returns the next ones.
pub const CHANGES_MAX: u32 = 10_000;

/// All endpoints at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The registry's counter at that moment: ask for changes since it.
    pub version: i64,
    /// Every endpoint that is not deleted, disabled ones included, ordered by id.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that exist and that this version cannot read. The log says why.
    pub unreadable: Vec<EndpointId>,
}

/// What was written after some version. An endpoint is in one of the lists at most, as it was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Every change up to this version is contained: ask for changes since it next.
    pub version: i64,
    /// Endpoints created or changed, in the order of their versions.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints deleted, in the order in which they were; possibly some that the caller never saw.
    pub deleted: Vec<EndpointId>,
    /// Endpoints created or changed that this version cannot read: what was known of them is the best there is. The log
    /// says why.
    pub unreadable: Vec<EndpointId>,
}

const SELECT_VERSION: &str = "SELECT version FROM registry WHERE id = 1";

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
    /// The registry's counter: it has grown if, and only if, an endpoint was written. Starts at 0.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn registry_version(&self) -> Result<i64, Error> {
        let operation = &Operation::ReadRegistryVersion;
        on_connection!(
            &self.database,
            reader,
            operation,
            OPERATION_TIMEOUT,
            |connection, _dialect| { Ok(sqlx::query_scalar(SELECT_VERSION).fetch_one(connection).await?) }
        )
    }

    /// Loads every endpoint, at most [`ENDPOINTS_MAX`], as of one moment.
    ///
    /// # Errors
    ///
    /// The database's; [`Error::TooManyEndpoints`]. A row that cannot be read is none: it is logged and left out.
    pub async fn load_registry(&self) -> Result<Snapshot, Error> {
        let limit = i64::from(ENDPOINTS_MAX) + 1;
        let (version, rows) = self
            .read_registry(&Operation::LoadRegistry, SELECT_ALL, &[limit])
            .await?;
        if rows.len() > ENDPOINTS_MAX as usize {
            return Err(Error::TooManyEndpoints);
        }
        let (endpoints, unreadable) = decode_each(rows, &self.keyring)?;
        Ok(Snapshot {
            version,
            endpoints,
            unreadable,
        })
    }

    /// What was written after version `since`, as of one moment: at most [`CHANGES_MAX`] endpoints, those written
    /// first. There are more if the returned version is less than [`Store::registry_version`].
    ///
    /// # Errors
    ///
    /// The database's; [`Error::RegistryWentBack`] when `since` is yet to come. A row that cannot be read is none: it is
    /// logged and left out.
    pub async fn registry_changes(&self, since: i64) -> Result<Changes, Error> {
        let operation = Operation::ReadRegistryChanges { since };
        let arguments = [since, i64::from(CHANGES_MAX)];
        let (newest, rows) = self.read_registry(&operation, SELECT_CHANGED, &arguments).await?;
        if newest < since {
            return Err(Error::RegistryWentBack {
                since,
                version: newest,
            });
        }
        let version = match rows.last() {
            Some(last) if rows.len() == CHANGES_MAX as usize => version_of(last),
            _ => newest,
        };
        let (deleted, kept): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_deleted);
        let (endpoints, unreadable) = decode_each(kept, &self.keyring)?;
        Ok(Changes {
            version,
            endpoints,
            deleted: deleted.into_iter().map(id_of).collect(),
            unreadable,
        })
    }

    /// The counter and the endpoints that `select` finds, both as of one moment.
    async fn read_registry(
        &self,
        operation: &Operation,
        select: &'static str,
        arguments: &[i64],
    ) -> Result<(i64, Vec<Row>), Error> {
        on_connection!(
            &self.database,
            reader,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_snapshot).await?;
                let version = sqlx::query_scalar(SELECT_VERSION).fetch_one(&mut *tx).await?;
                let mut query = sqlx::query_as(select);
                for argument in arguments {
                    query = query.bind(*argument);
                }
                let rows = query.fetch_all(&mut *tx).await?;
                tx.commit().await?;
                Ok((version, rows))
            }
        )
    }
}

/// Reads each row for itself: one that a newer version wrote, or somebody by hand, must not hide the others.
fn decode_each(rows: Vec<Row>, keyring: &Keyring) -> Result<(Vec<Endpoint>, Vec<EndpointId>), Error> {
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
                    "an endpoint cannot be read: what was known of it stays in force, or else it gets nothing from here"
                );
                unreadable.push(id);
            }
        }
    }
    Ok((endpoints, unreadable))
}
