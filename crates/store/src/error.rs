//! The errors of the store, and whether a retry can help.

mod advice;
mod operation;
mod transient;

use std::{error, fmt, io, path::PathBuf, time::Duration};

use sqlx::postgres::PgDatabaseError;
use webhook::{ApiKeyId, EndpointId, OrganizationId};

use crate::ENDPOINTS_MAX;

pub use operation::Operation;
use transient::{is_foreign_statement, is_full, is_transient, is_transient_sqlite, sqlite_code};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database URL is invalid. The message does not contain the URL, because it may hold a password.
    #[error("bad database URL: {0}")]
    BadUrl(&'static str),
    /// The URL names PostgreSQL but cannot be parsed.
    #[error("bad PostgreSQL URL")]
    BadPostgresUrl(#[source] Cause),
    /// A PostgreSQL URL has a parameter that would be ignored. The message contains its name only.
    #[error("bad database URL: unknown parameter {name:?} after the ?; the known parameters are {known}")]
    UnknownParameter {
        /// The name of the parameter.
        name: String,
        /// The names of the known parameters.
        known: &'static str,
    },
    /// A parameter of a PostgreSQL URL has a value that cannot be used. The message does not contain it.
    #[error("bad database URL: parameter {name}: expected {expected}")]
    BadParameter {
        /// The name of the parameter.
        name: String,
        /// The values that it may have.
        expected: &'static str,
    },
    /// A certificate or key that a PostgreSQL URL names cannot be read.
    #[error("cannot read {}, which {parameter} in database.url names", path.display())]
    CertificateFile {
        /// The parameter of the URL.
        parameter: String,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// SQLite's database file, or a directory above it, could not be created.
    #[error("could not create the database file {}", path.display())]
    CreateFile {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file with the key that seals secrets could not be created or read.
    #[error("could not use the sealing key file {}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// No sealing key was given for a database server. There, secrets are not sealed with a key that only
    /// this host has.
    #[error(
        "secrets in PostgreSQL need a sealing key, the same for every process; `magnetite secrets new-key` prints one"
    )]
    NoSealingKey,
    /// A secret is sealed, or is to be sealed, with a key that this process does not have.
    #[error(
        "secrets are sealed with key {key}, which is not in {place}: add the key there; without it the secrets are lost"
    )]
    SealingKeyMissing {
        /// The key's id.
        key: String,
        /// The place from which this process takes its keys.
        place: String,
    },
    /// SQLite cannot use a write-ahead log for the file. Network filesystems do not support it.
    #[error("the database file {} is in journal mode {mode}, not wal: put it on a local disk", path.display())]
    NoWriteAheadLog {
        /// The file.
        path: PathBuf,
        /// The journal mode that the file has instead.
        mode: String,
    },
    /// Connecting to the database failed.
    #[error("could not connect to {address}")]
    Connect {
        /// The address, without user or password.
        address: String,
        /// The cause.
        #[source]
        source: Cause,
    },
    /// The server did not answer within the connection timeout.
    #[error("{address} did not answer within {} s", limit.as_secs())]
    ConnectTimedOut {
        /// The address, without user or password.
        address: String,
        /// The timeout.
        limit: Duration,
    },
    /// The address belongs to a pooler that hands out shared connections. On such a connection a prepared
    /// statement may differ from the one that is meant.
    #[error(
        "{address} is a pooler that may run each transaction on a different connection and does not keep prepared statements: set \
         pool_mode = session, or use PgBouncer 1.21 or later with max_prepared_statements above 0"
    )]
    Pooler {
        /// The address, without user or password.
        address: String,
    },
    /// The database, or the connection to it, failed.
    #[error("could not {operation}")]
    Query {
        /// The operation.
        operation: Operation,
        /// The error of the database or its driver.
        #[source]
        source: Cause,
    },
    /// The database took too long. A write may have been applied nevertheless.
    #[error("could not {operation} within {} s", limit.as_secs())]
    TimedOut {
        /// The operation.
        operation: Operation,
        /// The timeout.
        limit: Duration,
    },
    /// A newer Magnetite migrated the database. This version does not know its tables.
    #[error("the database was migrated by a newer version of magnetite ({}); use that version", unknown.join(", "))]
    SchemaNewer {
        /// The names of the unknown migrations.
        unknown: Vec<String>,
    },
    /// A migration was applied with other statements than this binary has under the same name.
    #[error("the database's migrations {} differ from this version's; restore a backup, or use an empty database", altered.join(", "))]
    SchemaAltered {
        /// The names of the migrations.
        altered: Vec<String>,
    },
    /// PostgreSQL's database cannot store every text, because it was created with an encoding other than
    /// UTF-8.
    #[error(
        "the database's encoding is {encoding}, which cannot store every event; create one with UTF-8 (`createdb --encoding=UTF8 \
         --template=template0 NAME`), set database.url to it, and migrate it"
    )]
    NotUtf8 {
        /// The database's encoding.
        encoding: String,
    },
    /// The endpoint does not exist or was deleted.
    #[error("endpoint {id} does not exist")]
    EndpointNotFound {
        /// The requested id.
        id: EndpointId,
    },
    /// The secret from before the last rotation is still valid.
    #[error(
        "the secret of endpoint {id} was rotated already, and the old secret is valid until {until_ms} (Unix milliseconds): wait until \
         then, or revoke the old secret now"
    )]
    RotationOpen {
        /// The endpoint's id.
        id: EndpointId,
        /// When the old secret expires, in Unix milliseconds.
        until_ms: i64,
    },
    /// An endpoint with the id of the new one exists or existed.
    #[error("endpoint {id} exists already")]
    EndpointExists {
        /// The id that is taken.
        id: EndpointId,
    },
    /// The endpoint has changed since the caller read it, and the write was [limited to that
    /// version](crate::Store::if_version).
    #[error("endpoint {id} was changed meanwhile: its version is {found}, not {expected}; read it again")]
    VersionMismatch {
        /// The endpoint's id.
        id: EndpointId,
        /// The version that the caller expects.
        expected: i64,
        /// The endpoint's current version.
        found: i64,
    },
    /// The endpoint is a relay, whose URL cannot be changed.
    #[error("endpoint {id} is a relay, which has no URL to change; create another endpoint with the URL")]
    RelayUrl {
        /// The endpoint's id.
        id: EndpointId,
    },
    /// The API key does not exist.
    #[error("API key {id} does not exist")]
    ApiKeyNotFound {
        /// The requested id.
        id: ApiKeyId,
    },
    /// An API key with the id of the new one, or the same key, exists already.
    #[error("API key {id} exists already")]
    ApiKeyExists {
        /// The id of the new key.
        id: ApiKeyId,
    },
    /// The new API key is of an organization whose id is empty, which marks platform keys in the database.
    #[error("API key {id} was not created: the id of its organization is empty")]
    EmptyOrganization {
        /// The id of the new key.
        id: ApiKeyId,
    },
    /// The organization has its [maximum number of API keys](crate::API_KEYS_MAX) that are not revoked.
    #[error(
        "organization {organization} has {max} API keys that are not revoked, the maximum; revoke those that are no longer used, including \
         expired ones"
    )]
    TooManyApiKeys {
        /// The organization's id.
        organization: OrganizationId,
        /// The maximum number of keys.
        max: u32,
    },
    /// Another endpoint would exceed the number that workers load into memory.
    #[error("there are {ENDPOINTS_MAX} endpoints already, the most that workers load; delete some")]
    TooManyEndpoints,
    /// The organization has reached [its maximum number of endpoints](crate::Store::per_organization_max).
    #[error(
        "organization {organization} has {max} endpoints already, the maximum that endpoints.per_organization_max allows; delete one, or \
         raise the limit"
    )]
    OrganizationFull {
        /// The organization's id.
        organization: OrganizationId,
        /// The maximum number of endpoints.
        max: u32,
    },
    /// A column holds a value that this version cannot read. A newer Magnetite or a manual edit wrote it.
    #[error(
        "cannot read column {column} of endpoint {id}: a newer magnetite or a manual change wrote it; upgrade this process, or correct the row"
    )]
    Undecodable {
        /// The id of the endpoint.
        id: EndpointId,
        /// The name of the column.
        column: &'static str,
        /// The cause; `None` where it would reveal the value.
        #[source]
        source: Option<Box<dyn error::Error + Send + Sync>>,
    },
    /// The registry's history is not the one that the caller has followed: a backup was restored, or a
    /// replica without the last commits took over. The endpoints that the caller has loaded are invalid; it
    /// must [load them again](crate::Store::load_registry).
    #[error(
        "the database's history does not contain version {since} (it is at version {version}): a backup was restored, or a replica took over"
    )]
    RegistryWentBack {
        /// The version that the caller has seen.
        since: i64,
        /// The current version.
        version: i64,
    },
    /// Endpoints were deleted after the version that the caller has seen, and their rows have since been
    /// removed, so the list of changes would lack these deletions. The caller must [load all endpoints
    /// again](crate::Store::load_registry).
    #[error(
        "deletions up to version {low_version} are no longer stored, and this process has read only up to version {since}"
    )]
    RegistryForgot {
        /// The version that the caller has seen.
        since: i64,
        /// The lowest version from which the changes are complete.
        low_version: i64,
    },
}

impl Error {
    /// Returns whether the database URL itself is invalid, so that nothing was connected to.
    pub fn is_bad_url(&self) -> bool {
        matches!(
            self,
            Self::BadUrl(_)
                | Self::BadPostgresUrl(_)
                | Self::UnknownParameter { .. }
                | Self::BadParameter { .. }
        )
    }

    /// Returns what to do about an error of [`Store::connect`](crate::Store::connect).
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Connect { source, .. } => advice::on_connect(&source.0),
            Self::ConnectTimedOut { .. } => advice::UNREACHABLE,
            Self::Pooler { .. } => {
                "change the pooler's setting that is named, or set database.url to PostgreSQL itself"
            }
            Self::CertificateFile { .. } => {
                "correct the path in database.url, or let this user read the file"
            }
            Self::CreateFile { .. } | Self::NoWriteAheadLog { .. } => {
                "set database.url to a file on a local disk that this user can write"
            }
            Self::KeyFile { .. } => "let this user read and write the key file",
            _ if self.is_bad_url() => "correct database.url (MAGNETITE_DATABASE__URL)",
            _ => advice::UNKNOWN,
        }
    }

    /// Returns whether the database is unavailable, busy or overloaded, so that the same call may succeed
    /// later.
    ///
    /// `false` means that waiting does not help: the password is wrong, a table is missing, a constraint is
    /// violated, or an endpoint does not exist.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Connect { source, .. } | Self::Query { source, .. } => source.is_transient(),
            Self::ConnectTimedOut { .. } | Self::TimedOut { .. } => true,
            _ => false,
        }
    }

    /// Returns whether the database's disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Connect { source, .. } | Self::Query { source, .. } => is_full(&source.0),
            _ => false,
        }
    }

    /// Returns whether the connection must not be used again. On some errors (full disk, I/O error, out of
    /// memory, busy, interrupted) SQLite rolls back by itself, and sqlx does not notice.
    pub(crate) fn spoils_connection(&self) -> bool {
        match self {
            Self::Query { source, .. } => sqlite_code(&source.0).is_some_and(is_transient_sqlite),
            _ => false,
        }
    }
}

/// The error of the database or its driver, including its causes.
///
/// `Debug` prints the same text as `Display`: the driver's own `Debug` would add PostgreSQL's details, which
/// can quote a whole row, including its secret.
pub struct Cause(Box<sqlx::Error>);

impl Cause {
    pub(crate) fn is_transient(&self) -> bool {
        is_transient(&self.0)
    }
}

impl From<sqlx::Error> for Cause {
    fn from(error: sqlx::Error) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.0.as_database_error();
        match error.and_then(|error| error.try_downcast_ref::<PgDatabaseError>()) {
            // Its `Display` adds the line of PostgreSQL's source code that reported the error.
            Some(error) => write!(f, "error returned from database: {}", error.message())?,
            None => self.0.fmt(f)?,
        }
        if let sqlx::Error::Io(_) | sqlx::Error::Tls(_) = &*self.0
            && let Some(advice) = advice::on_tls(&self.0.to_string())
        {
            write!(f, ": {advice}")?;
        }
        if is_foreign_statement(&self.0) {
            f.write_str("; if a pooler runs in transaction mode, see docs/operations.md, \"PgBouncer\", for the settings that it needs")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Has no source: sqlx's `Display` has printed the causes already.
impl error::Error for Cause {}

/// The error type of an operation's steps: a database error that does not have the operation's name yet, or
/// an [`Error`].
pub(crate) enum Failure {
    Database(sqlx::Error),
    Store(Error),
}

impl Failure {
    pub(crate) fn during(self, operation: &Operation) -> Error {
        match self {
            Self::Database(error) => Error::Query {
                operation: operation.clone(),
                source: error.into(),
            },
            Self::Store(error) => error,
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<sqlx::migrate::MigrateError> for Failure {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        Self::Database(error.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_unavailable_and_a_missing_endpoint_is_not() {
        let lost = Failure::from(sqlx::Error::from(io::Error::from(io::ErrorKind::ConnectionReset)));
        assert!(lost.during(&Operation::new("load the registry")).is_unavailable());
        assert!(
            Error::TimedOut {
                operation: Operation::new("check the database"),
                limit: Duration::from_secs(1)
            }
            .is_unavailable()
        );
        assert!(
            !Error::EndpointNotFound {
                id: EndpointId::new("ep_1")
            }
            .is_unavailable()
        );
    }

    #[test]
    fn an_error_names_the_operation_and_leaves_the_cause_to_its_source() {
        let id = EndpointId::new("ep_1");
        let error = Failure::from(sqlx::Error::PoolTimedOut).during(&Operation::on("delete endpoint", id));
        assert_eq!(error.to_string(), "could not delete endpoint ep_1");
        let cause = error::Error::source(&error).unwrap();
        assert!(cause.to_string().contains("pool timed out"));
        assert!(cause.source().is_none());
    }
}
