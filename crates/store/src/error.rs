//! What can go wrong, and whether trying again can help.

mod transient;

use std::{error, fmt, io, path::PathBuf, time::Duration};

use webhook::{ApiKeyId, DeliveryId, EndpointId, EventId, OrganizationId};

use crate::ENDPOINTS_MAX;

use transient::{is_foreign_statement, is_full, is_transient, is_transient_sqlite, sqlite_code};

/// What was being done. Reads as the end of "could not ...".
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
    /// [`Store::disable_endpoint`](crate::Store::disable_endpoint) and its careful sibling.
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
        /// The version that was asked from.
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

/// Why the store could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database's URL makes no sense. The URL itself is not shown: it may hold a password.
    #[error("bad database URL: {0}")]
    BadUrl(&'static str),
    /// The URL is meant for PostgreSQL but cannot be read.
    #[error("bad PostgreSQL URL")]
    BadPostgresUrl(#[source] Cause),
    /// SQLite's file, or a directory above it, could not be created.
    #[error("could not create the database file {}", path.display())]
    CreateFile {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file with the key that seals secrets could not be made or read.
    #[error("could not use the key that secrets are sealed with, {}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// On a server, secrets are not sealed with a key of this host's alone.
    #[error(
        "secrets in a database server need one, the same for every process; `magnetite secrets new-key` prints one"
    )]
    NoSealingKey,
    /// A secret is sealed, or is to be sealed, with a key that this process was not given.
    #[error(
        "secrets are sealed with key {key}, which is not in {place}: add it there; without it they are lost"
    )]
    SealingKeyMissing {
        /// The key's id.
        key: String,
        /// Where this process's keys are from.
        place: String,
    },
    /// SQLite's write-ahead log is refused where the file is: network filesystems cannot do it.
    #[error("the database file {} is in journal mode {mode}, not wal: put it on a local disk", path.display())]
    NoWriteAheadLog {
        /// The file.
        path: PathBuf,
        /// The journal mode it stays in.
        mode: String,
    },
    /// No connection.
    #[error("could not connect to {address}")]
    Connect {
        /// Where to, without user or password.
        address: String,
        /// Why not.
        #[source]
        source: Cause,
    },
    /// The server took the connection and then said nothing.
    #[error("{address} did not answer within {} s", limit.as_secs())]
    ConnectTimedOut {
        /// Who, without user or password.
        address: String,
        /// How long was waited.
        limit: Duration,
    },
    /// A pooler hands out connections of others, on which a prepared statement may be another than the one
    /// that is meant.
    #[error(
        "{address} is a pooler that gives each transaction another connection and keeps no prepared statements: set pool_mode = session, or \
         use PgBouncer 1.21 or later with max_prepared_statements above 0"
    )]
    Pooler {
        /// Who, without user or password.
        address: String,
    },
    /// The database, or the way to it, failed.
    #[error("could not {operation}")]
    Query {
        /// What was being done.
        operation: Operation,
        /// What the database said.
        #[source]
        source: Cause,
    },
    /// The database took too long. A write may have been applied nevertheless.
    #[error("could not {operation} within {} s", limit.as_secs())]
    TimedOut {
        /// What was being done.
        operation: Operation,
        /// How long was waited.
        limit: Duration,
    },
    /// The database was migrated by a newer Magnetite, whose tables this one does not know.
    #[error("the database has migrations that this version does not know ({}); use a newer magnetite", unknown.join(", "))]
    SchemaNewer {
        /// Names of the migrations.
        unknown: Vec<String>,
    },
    /// A migration was applied with other statements than this binary has under its name.
    #[error("the database was migrated with another text of {}; restore it, or begin with an empty one", altered.join(", "))]
    SchemaAltered {
        /// Names of the migrations.
        altered: Vec<String>,
    },
    /// PostgreSQL's database cannot store every text: it was created with another encoding than UTF-8.
    #[error(
        "the database's encoding is {encoding}, which cannot store every event; create one with UTF-8 (`createdb --encoding=UTF8 \
         --template=template0 NAME`), name it in database.url, and migrate it"
    )]
    NotUtf8 {
        /// The encoding that it has.
        encoding: String,
    },
    /// No such endpoint, or it was deleted.
    #[error("endpoint {id} does not exist")]
    EndpointNotFound {
        /// The id asked for.
        id: EndpointId,
    },
    /// The secret before the last rotation is still valid.
    #[error(
        "endpoint {id} was rotated already, and its old secret is valid until {until_ms} (Unix milliseconds): wait, or void it now"
    )]
    RotationOpen {
        /// Which endpoint.
        id: EndpointId,
        /// Until when, in Unix milliseconds.
        until_ms: i64,
    },
    /// There is, or was, an endpoint with the id of the new one.
    #[error("endpoint {id} exists already")]
    EndpointExists {
        /// The id that is taken.
        id: EndpointId,
    },
    /// The endpoint was changed since the caller has seen it: its write was [for that
    /// version](crate::Store::if_version) alone.
    #[error("endpoint {id} was changed meanwhile: its version is {found}, not {expected}; read it again")]
    VersionMismatch {
        /// Which endpoint.
        id: EndpointId,
        /// The version that the caller has seen.
        expected: i64,
        /// The version that it has.
        found: i64,
    },
    /// No such API key.
    #[error("API key {id} does not exist")]
    ApiKeyNotFound {
        /// The id asked for.
        id: ApiKeyId,
    },
    /// There is an API key with the id of the new one, or the very same key.
    #[error("API key {id} exists already")]
    ApiKeyExists {
        /// The id of the new one.
        id: ApiKeyId,
    },
    /// One more endpoint than workers are ready to hold in memory.
    #[error("there are {ENDPOINTS_MAX} endpoints already, the most that workers load; delete some")]
    TooManyEndpoints,
    /// The organization has as many endpoints as [one may have](crate::Store::per_organization_max).
    #[error(
        "organization {organization} has {max} endpoints already, the most that endpoints.per_organization_max allows; delete one, or raise it"
    )]
    OrganizationFull {
        /// Which organization.
        organization: OrganizationId,
        /// The most that it may have.
        max: u32,
    },
    /// A newer Magnetite, or somebody by hand, wrote what this version cannot read.
    #[error("cannot read column {column} of endpoint {id}; was it written by a newer magnetite?")]
    Undecodable {
        /// Whose row.
        id: EndpointId,
        /// Which column.
        column: &'static str,
        /// Why, where saying so gives nothing away.
        #[source]
        source: Option<Box<dyn error::Error + Send + Sync>>,
    },
    /// The registry's history is not the one that the caller has followed: a backup was restored, or a
    /// replica without the last commits took over. What was loaded before is not to be trusted: [load it
    /// again](crate::Store::load_registry).
    #[error(
        "the registry's history changed after version {since}, and is at {version}: was a backup restored?"
    )]
    RegistryWentBack {
        /// The version that the caller has seen.
        since: i64,
        /// The version now.
        version: i64,
    },
    /// Endpoints that were deleted after the version that the caller has seen have no rows any more, so that
    /// they would be missing among the changes. [Load everything again](crate::Store::load_registry).
    #[error(
        "deletions up to version {low_version} of the registry are not kept any more, and version {since} is older"
    )]
    RegistryForgot {
        /// The version that the caller has seen.
        since: i64,
        /// The least version from which changes are complete.
        low_version: i64,
    },
}

impl Error {
    /// Whether the database is away, busy or overloaded, so that the same call may succeed later.
    ///
    /// `false` means that waiting helps nobody: a wrong password, a missing table, a broken constraint, an
    /// endpoint that is not there.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Connect { source, .. } | Self::Query { source, .. } => source.is_transient(),
            Self::ConnectTimedOut { .. } | Self::TimedOut { .. } => true,
            _ => false,
        }
    }

    /// Whether the database has no room left: its disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Connect { source, .. } | Self::Query { source, .. } => is_full(&source.0),
            _ => false,
        }
    }

    /// Whether the connection is not to be used again: SQLite rolls back by itself on some errors (full disk,
    /// I/O error, out of memory, busy, interrupted), of which sqlx knows nothing.
    pub(crate) fn spoils_connection(&self) -> bool {
        match self {
            Self::Query { source, .. } => sqlite_code(&source.0).is_some_and(is_transient_sqlite),
            _ => false,
        }
    }
}

/// What the database or its driver said, causes included.
///
/// `Debug` is the same text as `Display`: the driver's own would add PostgreSQL's details, which can quote a
/// whole row, secret included.
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

/// Without a source: sqlx's `Display` has printed it already.
impl error::Error for Cause {}

/// What the steps of an operation return: the database's error, which still lacks the operation's name, or
/// ours.
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
