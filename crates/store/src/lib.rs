//! The database layer of Magnetite, on SQLite or PostgreSQL. It stores the endpoints and the journal: the
//! recorded history of every event, delivery and attempt.
//!
//! # Theory of operation
//!
//! The API and the command line write endpoints, each in one transaction. Workers load all endpoints with
//! [`Store::load_registry`] before they consume. Afterwards they poll [`Store::registry_position`] a few
//! times a second and, when the position has changed, read [`Store::registry_changes`]. Processing an event
//! never waits for a query: workers match events against the endpoints that they hold in memory. While the
//! database is unavailable, they deliver to the endpoints that they last loaded.
//!
//! **The counter.** The table `registry` has one row. Every transaction that writes an endpoint first
//! increments the `version` of this row and then stores the new version with the endpoint. The transaction
//! holds the row's lock until it commits, so the next writer gets the next version only after this endpoint
//! is visible. Hence a reader that sees version *n* sees every endpoint with version *n* or less, and a
//! reader that asks for the changes after *n* misses none. Without the lock, a slow transaction could commit
//! version 7 after a reader has seen version 8.
//!
//! **Histories.** A database that is restored from a backup has an older counter, which later counts past the
//! version that a reader has seen. For this reason a reader keeps a [`Position`]: the version, and the number
//! and the random nonce of the last change in the log. If the log does not contain this change, the reader
//! gets [`Error::RegistryWentBack`] and loads everything again. The check is part of the snapshot from which
//! the changes are read.
//!
//! **Deletions.** The row of a deleted endpoint stays, so that readers learn of the deletion.
//! [`Store::delete_expired`] removes the row once the journal has no delivery to the endpoint and the
//! retention period is over. In the same transaction it raises `low_version` in the table `registry` to the
//! version of the removed row. A reader whose version is lower gets [`Error::RegistryForgot`] and loads
//! everything again. The log of changes keeps the deletion, so [`Store::endpoint`] still answers
//! [`Lookup::Deleted`].
//!
//! **The journal.** The recorder writes the workers' records with [`Store::record`], one transaction for each
//! batch, and acknowledges the batch after the commit. Batches arrive in any order, more than once, and
//! through any number of recorders. They are merged with what is stored, so the tables end up the same. The
//! command line and the API read the journal with [`Store::event`], [`Store::deliveries`], [`Store::audit`]
//! and others. A delivery that is to be sent again is [requested](Store::request_resends),
//! [claimed](Store::claim_requested), published, and [marked as sent](Store::mark_sent).
//! [`Store::delete_expired`] deletes rows that are older than the retention period. The caller passes it a
//! time that [`Store::look_at_clocks`] has checked.
//!
//! **Secrets.** The secrets that sign requests are sealed with a key that is not in the database. Each secret
//! is bound to its endpoint. The table `registry` names the key that seals new secrets, so that all processes
//! use the same one. Reading an endpoint opens its secret. Without the key this fails with
//! [`Error::SealingKeyMissing`], also in [`Store::load_registry`], because an endpoint that cannot be read
//! would get no deliveries.
//!
//! **API keys.** The database stores the hash of a key, by which the key is [found](Store::api_key_by_hash),
//! and the key's first characters. Read access to the database does not reveal a key. A key belongs to one
//! organization; a platform key belongs to none. [`Store::delete_expired`] also deletes keys that were
//! revoked, or have expired, before the retention period.
//!
//! **Relays.** An endpoint without a URL has a lease, which is written and removed in the transactions that create and
//! delete the endpoint. The API [renews](Store::renew_relay) the lease, and a recorder
//! [deletes](Store::expire_relay) the endpoint when the lease has expired.
//!
//! **Roles.** Every role announces itself once a second with [`Store::announce_role`]. A worker's
//! announcement contains a position of the registry; all its later attempts use this position or a later one.
//! A process that writes an endpoint polls [`Store::workers_behind`] until no worker is behind.
//!
//! **The log of changes.** Every transaction that writes an endpoint or an API key also adds a row that says
//! who changed what; see [`Store::changes`]. The actor is a property of the handle: [`Store::acting_as`].
//! Deletions by retention add no row.
//!
//! **Operations.** A transaction that disables an endpoint also writes a row for an operational event. The
//! process that publishes the event deletes the row afterwards, so the event is published at least once and
//! always under the same id.
//!
//! **Two databases, one set of statements.** Every statement runs on both databases. Statements use only `$1`
//! placeholders, `RETURNING`, `TEXT`, `BIGINT` and, for bytes, `BYTEA`. The differences (how a transaction
//! begins, how rows are locked, how to read the server's version) are data in one `Dialect` for each
//! database. The journal's text columns are compared byte by byte: they have the collation `BINARY`, which is
//! built into SQLite and which [`Store::migrate`] creates on PostgreSQL.
//!
//! | | SQLite | PostgreSQL |
//! |---|---|---|
//! | for | one host; several processes may share the file | several hosts |
//! | connections | 1 writes, 4 read, 4 for journal queries | 8, and 4 for journal queries |
//! | a write begins | `BEGIN IMMEDIATE` | `BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE` |
//! | a consistent read begins | `BEGIN` | `BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY` |
//! | durability | WAL, `synchronous = FULL` | the server's `synchronous_commit` |
//!
//! # What survives a crash
//!
//! Every write that returned `Ok`. This is why SQLite syncs on every commit: with `synchronous = NORMAL` a
//! power cut could undo the creation of an endpoint whose secret was already shown and cannot be shown again.
//! The exceptions are role announcements and deletions by retention on PostgreSQL: they commit
//! asynchronously, so a crash of the server can undo the last of them. Both are repeated.
//!
//! An `Err` from a write means that the write was not applied, with two exceptions: after
//! [`Error::TimedOut`], and after a connection was lost during the commit, it may or may not have been
//! applied. Every write may be repeated. If the first try was applied after all, the second try reports it as
//! follows:
//!
//! - Creating returns [`Error::EndpointExists`] or [`Error::ApiKeyExists`].
//! - Deleting an endpoint returns [`Error::EndpointNotFound`].
//! - Writing [one version alone](Store::if_version) returns [`Error::VersionMismatch`].
//! - Rotating a secret with an overlap returns [`Error::RotationOpen`].
//! - [`Store::disable_endpoint_unless_changed`] and [`Store::mark_redriven`] return `false`.
//! - Requesting a run returns [`Requested::Open`].
//! - [`Store::claim_requested`] does not return the same runs until the first claim has expired.
//!
//! All other writes have the same effect once more.
//!
//! # Invariants
//!
//! - This is the only crate that uses sqlx; no sqlx type is public.
//! - An endpoint is returned complete or not at all: a row that this version cannot read is an
//!   [`Error::Undecodable`], never a guess. Reading the registry skips such a row, reports its id, and
//!   returns the other endpoints.
//! - A recorded state is never taken back: a delivery's state only advances in the order pending, cancelled,
//!   dead, delivered.
//! - At most one requested run for each event and endpoint is pending.
//! - No error, in `Display` or `Debug`, contains a password, a secret, an API key or an endpoint's URL.
//! - No statement changes or deletes a row of the log of changes, and no row contains a secret, a key or the
//!   path of a URL.
//! - The row of a deleted endpoint contains neither its URL nor its secret.
//! - Every wait is bounded: [`CONNECT_TIMEOUT`], [`ACQUIRE_TIMEOUT`], [`OPERATION_TIMEOUT`],
//!   [`MIGRATION_LOCK_TIMEOUT`].
//!
//! # Deliberately absent
//!
//! - Keys in the database: secrets are sealed with keys that are stored elsewhere. An attacker needs both the
//!   database and the key to read the secrets.
//! - Foreign keys in the journal: an attempt may be recorded before its event, or without it.
//! - A host's clock and random ids: callers pass ids and times as arguments. The crate itself generates only
//!   nonces, the installation's id, SQLite's local sealing key and the shard of the journal's totals. Where
//!   rows need a common clock, such as in the table `roles`, the statements use the database's.
//! - Validation of whether a URL may be contacted or a value has a sensible length: the code that accepts the
//!   value does that.
//! - Retries: [`Error::is_unavailable`] tells the caller whether a retry can help.

mod error;
mod address;
mod database;
mod statement;
mod columns;
mod schema;
mod sealing;
mod operations;
mod endpoint;
mod registry;
mod api_key;
mod changes;
mod relays;
mod roles;
mod troubles;
mod installation;
mod journal;

use std::fmt;

pub use address::is_unverified;
pub use api_key::{ApiKeyRow, NewApiKey};
pub use changes::{Actor, ChangeKind, ChangeRow};
pub use database::{ACQUIRE_TIMEOUT, CONNECT_TIMEOUT, OPERATION_TIMEOUT};
pub use endpoint::{EndpointChange, Lookup, NewEndpoint};
pub use error::{Cause, Error, Operation};
pub use journal::{
    Activity, AttemptRow, Audit, AuditLimits, CLOCK_DIFFERENCE_MAX_MS, Claimed, ClockDoubt, DeliveryCursor,
    DeliveryFilter, DeliveryRow, EndpointCounts, EventCursor, EventFilter, EventRow, Expired, FINDINGS_MAX,
    Failing, Findings, Health, LOST_AFTER_MS, Late, Lost, LostCause, MARK_PREFIX, MINUTE_MS, Overview,
    Pending, RecoverState, Recoverable, Refusal, RejectedCursor, RejectedRow, Requested, RetentionStop,
    SetAside, StateCounts, UNWATCHED_MAX_MS, Unbalanced, Unrecorded, Vanished,
};
pub use operations::OperationRow;
pub use registry::{CHANGES_MAX, Changes, Position, Snapshot};
pub use relays::Renewal;
pub use roles::{ANNOUNCED_MAX, Announcement, Dropping, JournalTotals, Restarts, WorkerBehind};
pub use schema::{MIGRATION_LOCK_TIMEOUT, Schema, SchemaState};
pub use sealing::{BadSealingKey, SealingKey};
pub use troubles::{RoleReport, RunningRole};

use address::{Address, parameters};
use database::Database;
use sealing::{Keyring, local_key};

/// The maximum number of endpoints of all organizations together. Every worker holds all of them in memory,
/// at about 1 KiB each.
pub const ENDPOINTS_MAX: u32 = 100_000;

/// The maximum number of an organization's API keys that are not revoked. Expired keys count as well until
/// they are deleted, so that the database can count by an index. Platform keys are not limited, because only
/// the operator creates them.
pub const API_KEYS_MAX: u32 = 100;

/// A handle to the database. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Store {
    database: Database,
    keyring: Keyring,
    /// The actor that the log of changes names for writes of this handle.
    actor: Actor,
    /// The version that an endpoint must have to be written; `None` accepts any version.
    expected_version: Option<i64>,
    /// The maximum number of endpoints of an organization. At this number no further one is created.
    per_organization_max: u32,
    /// The shard of the journal's totals to which this handle adds.
    shard: u64,
    /// The location of the database, without user or password.
    address: String,
}

impl Store {
    /// Connects to the database at `url`. Creates and changes no table: [`Store::migrate`] does that.
    ///
    /// - `sqlite:///var/lib/magnetite/magnetite.db`: an absolute path, taken literally (nothing is
    ///   percent-decoded). A missing file is created with mode 600, missing directories with mode 700.
    /// - `postgres://user:password@host:5432/database?sslmode=verify-full`, or `postgresql://`: with the
    ///   libpq parameters that sqlx supports; others are refused. Without `sslmode`, TLS is used if the server
    ///   offers it, and the server's certificate is not verified.
    ///
    /// `keys` seal and open the secrets of endpoints; see [`SealingKey`]. If no secret has been sealed yet,
    /// the first key is used to seal. Without any key, a SQLite database uses a key in a file beside the
    /// database file, `magnetite.db.key`, which is created if it is missing.
    ///
    /// The store opens one connection before this function returns, so that a wrong address or password is
    /// reported at once. Later connections are opened on demand, up to the size of the pool.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is invalid, a certificate that it names cannot be read, a file cannot be
    /// created or is on a filesystem without support for a write-ahead log, the server does not answer within
    /// [`CONNECT_TIMEOUT`] or is an unsuitable pooler, or no key is given for PostgreSQL. No error contains
    /// the password.
    pub async fn connect(url: &str, keys: &[SealingKey]) -> Result<Self, Error> {
        let address = Address::parse(url)?;
        parameters::check_files(url)?;
        let database = Database::connect(&address).await?;
        let keyring = match (&address, keys) {
            (Address::Sqlite(path), []) => {
                let (key, place) = local_key(path)?;
                Keyring::new(&[key], place.display().to_string())
            }
            (Address::Postgres(_), []) => return Err(Error::NoSealingKey),
            (_, keys) => Keyring::new(keys, "secrets.keys".to_owned()),
        };
        Ok(Self {
            database,
            keyring,
            actor: Actor::Unknown,
            expected_version: None,
            per_organization_max: ENDPOINTS_MAX,
            shard: rand::random::<u64>() % journal::totals::SHARDS,
            address: address.to_string(),
        })
    }

    /// Returns the location of the database, `sqlite:///path` or `postgres://host:port/database`, without
    /// user and password.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Closes all connections, including those of every clone, after their operations have ended.
    ///
    /// SQLite then moves its write-ahead log into the database file.
    pub async fn close(&self) {
        self.database.close().await;
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.address).finish()
    }
}
