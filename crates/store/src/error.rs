//! The errors of the store, and whether a retry can help.

mod transient;

use std::{error, fmt, io, path::PathBuf, time::Duration};

use webhook::{ApiKeyId, DeliveryId, EndpointId, EventId, OrganizationId};

use crate::ENDPOINTS_MAX;

use transient::{is_foreign_statement, is_full, is_transient, is_transient_sqlite, sqlite_code};

/// The operation that failed. Its `Display` text completes the phrase "could not ...".
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// [`Store::migrate`](crate::Store::migrate).
    Migrate,
    /// [`Store::check`](crate::Store::check).
    Check,
    /// [`Store::create_endpoint`](crate::Store::create_endpoint).
    CreateEndpoint(EndpointId),
    /// [`Store::update_endpoint`](crate::Store::update_endpoint).
    UpdateEndpoint(EndpointId),
    /// [`Store::enable_endpoint`](crate::Store::enable_endpoint).
    EnableEndpoint(EndpointId),
    /// [`Store::disable_endpoint`](crate::Store::disable_endpoint) and
    /// [`Store::disable_endpoint_unless_changed`](crate::Store::disable_endpoint_unless_changed).
    DisableEndpoint(EndpointId),
    /// [`Store::rotate_secret`](crate::Store::rotate_secret).
    RotateSecret(EndpointId),
    /// [`Store::reseal_secrets`](crate::Store::reseal_secrets).
    Reseal,
    /// [`Store::delete_endpoint`](crate::Store::delete_endpoint).
    DeleteEndpoint(EndpointId),
    /// [`Store::endpoint`](crate::Store::endpoint).
    LookUpEndpoint(EndpointId),
    /// [`Store::list_endpoints`](crate::Store::list_endpoints).
    ListEndpoints,
    /// [`Store::registry_position`](crate::Store::registry_position).
    ReadRegistryPosition,
    /// [`Store::load_registry`](crate::Store::load_registry).
    LoadRegistry,
    /// [`Store::registry_changes`](crate::Store::registry_changes).
    ReadRegistryChanges {
        /// The version after which changes were requested.
        since: i64,
    },
    /// [`Store::announce_role`](crate::Store::announce_role),
    /// [`Store::report_role`](crate::Store::report_role) and
    /// [`Store::close_role`](crate::Store::close_role).
    AnnounceRole,
    /// [`Store::workers_behind`](crate::Store::workers_behind).
    FindWorkersBehind,
    /// [`Store::running_roles`](crate::Store::running_roles).
    ListRoles,
    /// [`Store::installation_id`](crate::Store::installation_id).
    ReadInstallation,
    /// [`Store::record`](crate::Store::record).
    Record,
    /// [`Store::events`](crate::Store::events).
    ListEvents,
    /// [`Store::event`](crate::Store::event) and
    /// [`Store::deliveries_of_event`](crate::Store::deliveries_of_event).
    ReadEvent(EventId),
    /// [`Store::deliveries`](crate::Store::deliveries).
    ListDeliveries,
    /// [`Store::delivery`](crate::Store::delivery) and [`Store::attempts`](crate::Store::attempts).
    ReadDelivery(DeliveryId),
    /// [`Store::rejected_messages`](crate::Store::rejected_messages).
    ListRejected,
    /// [`Store::rejected_message`](crate::Store::rejected_message).
    ReadRejected(String),
    /// [`Store::mark_redriven`](crate::Store::mark_redriven).
    MarkRedriven(String),
    /// [`Store::audit`](crate::Store::audit).
    Audit,
    /// [`Store::request_resends`](crate::Store::request_resends) and
    /// [`Store::request_recoveries`](crate::Store::request_recoveries).
    RequestRuns,
    /// [`Store::recoverable`](crate::Store::recoverable).
    FindRecoverable(EndpointId),
    /// [`Store::claim_requested`](crate::Store::claim_requested).
    ClaimRequested,
    /// [`Store::mark_sent`](crate::Store::mark_sent).
    MarkSent,
    /// [`Store::unsent`](crate::Store::unsent).
    CountUnsent,
    /// [`Store::declare_lost`](crate::Store::declare_lost).
    DeclareLost(DeliveryId),
    /// [`Store::endpoint_health`](crate::Store::endpoint_health).
    ReadHealth(EndpointId),
    /// [`Store::failing_endpoints`](crate::Store::failing_endpoints).
    FindFailing,
    /// [`Store::delete_expired`](crate::Store::delete_expired).
    DeleteExpired,
    /// [`Store::look_at_clocks`](crate::Store::look_at_clocks) and
    /// [`Store::retention_stops`](crate::Store::retention_stops).
    LookAtClocks,
    /// [`Store::confirm_time`](crate::Store::confirm_time).
    ConfirmTime,
    /// [`Store::operations`](crate::Store::operations).
    ListOperations,
    /// [`Store::delete_operations`](crate::Store::delete_operations).
    DeleteOperations,
    /// [`Store::announce_expiring`](crate::Store::announce_expiring).
    AnnounceExpiring(EndpointId),
    /// [`Store::create_api_key`](crate::Store::create_api_key).
    CreateApiKey(ApiKeyId),
    /// [`Store::revoke_api_key`](crate::Store::revoke_api_key).
    RevokeApiKey(ApiKeyId),
    /// [`Store::api_key_by_hash`](crate::Store::api_key_by_hash).
    LookUpApiKey,
    /// [`Store::api_keys`](crate::Store::api_keys).
    ListApiKeys,
    /// [`Store::note_api_key_uses`](crate::Store::note_api_key_uses).
    NoteApiKeyUses,
    /// [`Store::changes`](crate::Store::changes).
    ListChanges,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Migrate => f.write_str("migrate the database"),
            Self::Check => f.write_str("check the database"),
            Self::CreateEndpoint(id) => write!(f, "create endpoint {id}"),
            Self::UpdateEndpoint(id) => write!(f, "update endpoint {id}"),
            Self::EnableEndpoint(id) => write!(f, "enable endpoint {id}"),
            Self::DisableEndpoint(id) => write!(f, "disable endpoint {id}"),
            Self::RotateSecret(id) => write!(f, "rotate the secret of endpoint {id}"),
            Self::Reseal => f.write_str("seal the secrets anew"),
            Self::DeleteEndpoint(id) => write!(f, "delete endpoint {id}"),
            Self::LookUpEndpoint(id) => write!(f, "look up endpoint {id}"),
            Self::ListEndpoints => f.write_str("list endpoints"),
            Self::ReadRegistryPosition => f.write_str("read where the registry is"),
            Self::LoadRegistry => f.write_str("load the registry"),
            Self::ReadRegistryChanges { since } => {
                write!(f, "read the registry's changes since version {since}")
            }
            Self::AnnounceRole => f.write_str("announce a role"),
            Self::FindWorkersBehind => f.write_str("find workers that are behind"),
            Self::ListRoles => f.write_str("list the running roles"),
            Self::ReadInstallation => f.write_str("read the installation's id"),
            Self::Record => f.write_str("write to the journal"),
            Self::ListEvents => f.write_str("list events"),
            Self::ReadEvent(id) => write!(f, "read event {id}"),
            Self::ListDeliveries => f.write_str("list deliveries"),
            Self::ReadDelivery(id) => write!(f, "read delivery {id}"),
            Self::ListRejected => f.write_str("list rejected messages"),
            Self::ReadRejected(id) => write!(f, "read rejected message {id}"),
            Self::MarkRedriven(id) => write!(f, "mark rejected message {id} as sent back"),
            Self::Audit => f.write_str("audit the journal"),
            Self::RequestRuns => f.write_str("request that deliveries are made again"),
            Self::FindRecoverable(id) => write!(f, "find what endpoint {id} missed"),
            Self::ClaimRequested => f.write_str("claim requested deliveries"),
            Self::MarkSent => f.write_str("mark requested deliveries as sent"),
            Self::CountUnsent => f.write_str("count requested deliveries"),
            Self::DeclareLost(id) => write!(f, "take delivery {id} for lost"),
            Self::ReadHealth(id) => write!(f, "read the health of endpoint {id}"),
            Self::FindFailing => f.write_str("find failing endpoints"),
            Self::DeleteExpired => f.write_str("delete what is older than the journal keeps"),
            Self::LookAtClocks => f.write_str("compare the clocks"),
            Self::ConfirmTime => f.write_str("confirm the time"),
            Self::ListOperations => f.write_str("list operational events"),
            Self::DeleteOperations => f.write_str("delete operational events"),
            Self::AnnounceExpiring(id) => write!(f, "announce that the certificate of endpoint {id} expires"),
            Self::CreateApiKey(id) => write!(f, "create API key {id}"),
            Self::RevokeApiKey(id) => write!(f, "revoke API key {id}"),
            Self::LookUpApiKey => f.write_str("look up an API key"),
            Self::ListApiKeys => f.write_str("list API keys"),
            Self::NoteApiKeyUses => f.write_str("note when API keys were used"),
            Self::ListChanges => f.write_str("list changes"),
        }
    }
}

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
    #[error("could not use the key that secrets are sealed with, {}", path.display())]
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
        "secrets in a database server need one, the same for every process; `magnetite secrets new-key` prints one"
    )]
    NoSealingKey,
    /// A secret is sealed, or is to be sealed, with a key that this process does not have.
    #[error(
        "secrets are sealed with key {key}, which is not in {place}: add it there; without it they are lost"
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
        "{address} is a pooler that gives each transaction another connection and keeps no prepared statements: set pool_mode = session, or \
         use PgBouncer 1.21 or later with max_prepared_statements above 0"
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
    #[error("the database has migrations that this version does not know ({}); use a newer magnetite", unknown.join(", "))]
    SchemaNewer {
        /// The names of the unknown migrations.
        unknown: Vec<String>,
    },
    /// A migration was applied with other statements than this binary has under the same name.
    #[error("the database was migrated with another text of {}; restore it, or begin with an empty one", altered.join(", "))]
    SchemaAltered {
        /// The names of the migrations.
        altered: Vec<String>,
    },
    /// PostgreSQL's database cannot store every text, because it was created with an encoding other than
    /// UTF-8.
    #[error(
        "the database's encoding is {encoding}, which cannot store every event; create one with UTF-8 (`createdb --encoding=UTF8 \
         --template=template0 NAME`), name it in database.url, and migrate it"
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
        "endpoint {id} was rotated already, and its old secret is valid until {until_ms} (Unix milliseconds): wait, or void it now"
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
    /// Another endpoint would exceed the number that workers load into memory.
    #[error("there are {ENDPOINTS_MAX} endpoints already, the most that workers load; delete some")]
    TooManyEndpoints,
    /// The organization has reached [its maximum number of endpoints](crate::Store::per_organization_max).
    #[error(
        "organization {organization} has {max} endpoints already, the most that endpoints.per_organization_max allows; delete one, or raise it"
    )]
    OrganizationFull {
        /// The organization's id.
        organization: OrganizationId,
        /// The maximum number of endpoints.
        max: u32,
    },
    /// A column holds a value that this version cannot read. A newer Magnetite or a manual edit wrote it.
    #[error("cannot read column {column} of endpoint {id}; was it written by a newer magnetite?")]
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
        "the registry's history changed after version {since}, and is at {version}: was a backup restored?"
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
        "deletions up to version {low_version} of the registry are not kept any more, and version {since} is older"
    )]
    RegistryForgot {
        /// The version that the caller has seen.
        since: i64,
        /// The lowest version from which the changes are complete.
        low_version: i64,
    },
}

impl Error {
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
        self.0.fmt(f)?;
        if is_foreign_statement(&self.0) {
            f.write_str("; is there a pooler in transaction mode? docs/operations.md, \"PgBouncer\", says what it has to be set to")?;
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
        assert!(lost.during(&Operation::LoadRegistry).is_unavailable());
        assert!(
            Error::TimedOut {
                operation: Operation::Check,
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
        let error = Failure::from(sqlx::Error::PoolTimedOut).during(&Operation::DeleteEndpoint(id));
        assert_eq!(error.to_string(), "could not delete endpoint ep_1");
        let cause = error::Error::source(&error).unwrap();
        assert!(cause.to_string().contains("pool timed out"));
        assert!(cause.source().is_none());
    }
}
