//! What Magnetite keeps in a database, SQLite or PostgreSQL: endpoints, and the journal of what became of
//! every event.
//!
//! # Theory of operation
//!
//! The API and the command line write endpoints, one transaction each. Workers load all of them with
//! [`Store::load_registry`] before they consume, and then follow them: they ask for
//! [`Store::registry_position`] a few times a second and, when it has moved, for [`Store::registry_changes`].
//! No event waits for a query: workers deliver from memory, and a database that is away makes them deliver to
//! the endpoints they knew last.
//!
//! **The counter.** The table `registry` has one row. Every transaction that writes an endpoint begins by
//! adding one to the row's `version` and stamps the endpoint with the sum. The row's lock is held until the
//! commit: the next writer gets the next number only after this one's endpoint can be seen. Hence a reader
//! that sees version *n* sees every endpoint stamped with *n* or less, and whoever asks for "after *n*"
//! misses nothing. Without that lock a slow transaction could commit number 7 after a reader has seen 8.
//!
//! **Histories.** A restored backup has an old counter, and later counts past what a reader has seen. So a
//! reader keeps a [`Position`]: the version, and the number and random nonce of the last change in the log. A
//! reader that goes on from a position that the log does not have is told [`Error::RegistryWentBack`], in the
//! snapshot that would have been read, and loads everything again.
//!
//! **Deletions.** The row of a deleted endpoint stays, so that readers learn of the deletion. It is removed
//! once the journal has no delivery to the endpoint and the retention is over: [`Store::delete_expired`] then
//! raises the registry's `low_version` to the version of the row in the same transaction. A reader that has
//! seen less is told [`Error::RegistryForgot`], and loads everything again. The log of changes
//! keeps the deletion: [`Store::endpoint`] answers [`Lookup::Deleted`] from there.
//!
//! **The journal.** The recorder writes what workers recorded with [`Store::record`], one transaction for
//! each batch, and acks after it. Batches come in any order, more than once, and through any number of
//! recorders; what is stored is merged, so that the tables end up the same. The command line and the API ask:
//! [`Store::event`], [`Store::deliveries`], [`Store::audit`] and the others. What is to be sent again is
//! [requested](Store::request_resends), [claimed](Store::claim_requested), published, and [marked as
//! sent](Store::mark_sent). [`Store::delete_expired`] deletes what is too old, by a clock that
//! [`Store::look_at_clocks`] has no reason to doubt.
//!
//! **Secrets.** What signs requests is sealed with a key that is not in the database, for its endpoint alone.
//! Which of the configured keys seals stands in the table `registry`, so that all processes agree. Who reads
//! an endpoint opens its secret: without the key that is [`Error::SealingKeyMissing`], also of
//! [`Store::load_registry`], since an endpoint that cannot be read would get nothing.
//!
//! **API keys.** Of a key its hash is stored, by which it is [found](Store::api_key_by_hash): who reads the
//! database has no key.
//!
//! **Roles.** Every role announces itself once a second with [`Store::announce_role`], a worker with the
//! position of the registry that every later attempt begins with. A process that writes an endpoint asks for
//! [`Store::workers_behind`] until no worker is.
//!
//! **The log of changes.** Every transaction that writes an endpoint or an API key also adds a row that says
//! who did what: [`Store::changes`]. Who writes is a property of the handle: [`Store::acting_as`].
//!
//! **Operations.** A transaction that disables an endpoint also writes a row that says so. Whoever publishes
//! it deletes the row afterwards: the platform is told at least once, under one id.
//!
//! **Two databases, one set of statements.** Every statement runs on both: `$1` placeholders, `RETURNING`,
//! `TEXT`, `BIGINT` and, for bytes, `BYTEA` only. What differs (how a transaction begins, how rows are
//! locked, how to ask for the server's version) is data in one `Dialect` for each. The journal's texts are
//! compared byte by byte: their columns have the collation `BINARY`, which SQLite brings along and PostgreSQL
//! is given by [`Store::migrate`].
//!
//! | | SQLite | PostgreSQL |
//! |---|---|---|
//! | for | one host; several processes may share the file | several hosts |
//! | connections | 1 that writes, 4 that read | 8 |
//! | a write begins | `BEGIN IMMEDIATE` | `BEGIN ISOLATION LEVEL READ COMMITTED` |
//! | a consistent read begins | `BEGIN` | `BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY` |
//! | durability | WAL, `synchronous = FULL` | the server's `synchronous_commit` |
//!
//! # What survives a crash
//!
//! All that was answered with `Ok`. That is why SQLite syncs on every commit: with `NORMAL` a power cut could
//! take back an endpoint whose secret was shown, and cannot be shown again.
//!
//! An `Err` of a write says that it was not applied, with two exceptions: [`Error::TimedOut`], and a
//! connection lost during the commit, leave it open. Every write may be repeated. Should the first try have
//! succeeded after all, the second is told so by [`Error::EndpointExists`] or [`Error::ApiKeyExists`] when
//! creating, [`Error::EndpointNotFound`] when deleting, [`Error::VersionMismatch`] when writing [one version
//! alone](Store::if_version), `false` from [`Store::disable_endpoint_unless_changed`] and
//! [`Store::mark_redriven`], and [`Requested::Open`] from requests; [`Store::claim_requested`] must wait for
//! its first claim to end. The others do the same thing once more.
//!
//! # Invariants
//!
//! - This is the only crate that names sqlx; no sqlx type is public.
//! - An endpoint is returned whole or not at all: a row that this version cannot read is an
//!   [`Error::Undecodable`], never a guess. Reading the registry leaves it out and names it, and goes on with
//!   the others.
//! - What was recorded is never taken back: a delivery only goes from pending to cancelled, dead or
//!   delivered, and only in this order.
//! - At most one requested run of an event at an endpoint is pending.
//! - No error, in `Display` or `Debug`, contains a password, a secret, an API key or an endpoint's URL.
//! - Nothing changes or deletes a row of the log of changes, and none holds a secret, a key or the path of a
//!   URL.
//! - A deleted endpoint's URL and secret are gone from its row.
//! - Every wait is bounded: [`CONNECT_TIMEOUT`], [`ACQUIRE_TIMEOUT`], [`OPERATION_TIMEOUT`],
//!   [`MIGRATION_LOCK_TIMEOUT`].
//!
//! # Deliberately absent
//!
//! - A key in the database: secrets are sealed with keys that are elsewhere. Who has both has the secrets.
//! - Foreign keys in the journal: an attempt may be recorded before its event, or without it.
//! - A clock, and a random source but for nonces and the installation's id: other ids and times are
//!   arguments.
//! - Whether a URL may be reached, or a value is of a sensible length: whoever accepts it decides.
//! - Retries: [`Error::is_unavailable`] tells the caller whether one can help.

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
mod roles;
mod troubles;
mod installation;
mod journal;

use std::fmt;

pub use address::is_unverified;
pub use api_key::{ApiKeyRow, NewApiKey};
pub use changes::{Actor, ChangeKind, ChangeRow, UnknownChangeKind};
pub use database::{ACQUIRE_TIMEOUT, CONNECT_TIMEOUT, OPERATION_TIMEOUT};
pub use endpoint::{EndpointChange, Lookup, NewEndpoint};
pub use error::{Cause, Error, Operation};
pub use journal::{
    AttemptRow, Audit, AuditLimits, CLOCK_DIFFERENCE_MAX_MS, Claimed, ClockDoubt, DeliveryCursor,
    DeliveryFilter, DeliveryRow, EventCursor, EventFilter, EventRow, Expired, FINDINGS_MAX, Failing,
    Findings, Health, LOST_AFTER_MS, Late, Lost, LostCause, MARK_PREFIX, MINUTE_MS, Overview, Pending,
    RecoverState, Recoverable, Refusal, Rejected, RejectedCursor, Requested, RetentionStop, SetAside,
    StateCounts, UNWATCHED_MAX_MS, Unbalanced, Unrecorded, Vanished,
};
pub use operations::OperationRow;
pub use registry::{CHANGES_MAX, Changes, Position, Snapshot};
pub use roles::{ANNOUNCED_MAX, Announcement, Dropping, JournalTotals, WorkerBehind};
pub use schema::{MIGRATION_LOCK_TIMEOUT, Schema, SchemaState};
pub use sealing::{BadSealingKey, SealingKey};
pub use troubles::{RoleReport, RunningRole};

use address::Address;
use database::Database;
use sealing::{Keyring, local_key};

/// The most endpoints there can be, all organizations together: every worker holds them all in memory, at
/// about 1 KiB each.
pub const ENDPOINTS_MAX: u32 = 100_000;

/// A handle to the database. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Store {
    database: Database,
    keyring: Keyring,
    /// Who writes.
    actor: Actor,
    /// The one version of an endpoint that is written over; `None`: whatever is there.
    expected_version: Option<i64>,
    /// How many endpoints an organization may have for another one to be created.
    per_organization_max: u32,
    /// The shard of the journal's totals that this store adds to.
    shard: u64,
    /// Where the database is, without user or password.
    address: String,
}

impl Store {
    /// Connects to the database at `url`, without creating or changing any table: that is
    /// [`Store::migrate`]'s.
    ///
    /// - `sqlite:///var/lib/magnetite/magnetite.db`: an absolute path, taken literally (nothing is
    ///   percent-decoded). A missing file is created with mode 600, missing directories with mode 700.
    /// - `postgres://user:password@host:5432/database?sslmode=verify-full`, or `postgresql://`: with the
    ///   parameters of libpq that sqlx knows. Without `sslmode`, TLS is used if the server offers it, and
    ///   nobody is verified.
    ///
    /// `keys` seal and open the endpoints' secrets; see [`SealingKey`]. The first one seals where none has
    /// sealed yet. Without any, SQLite has one in a file of its own beside the database's,
    /// `magnetite.db.key`, which is made when it is missing.
    ///
    /// One connection is made before this returns, so that a wrong address or password is known at once;
    /// later ones are made when needed, at most as many as the pool holds.
    ///
    /// # Errors
    ///
    /// When the URL cannot be read, a file cannot be made, the server does not answer within
    /// [`CONNECT_TIMEOUT`], or PostgreSQL is given no key.
    /// No error shows the password.
    pub async fn connect(url: &str, keys: &[SealingKey]) -> Result<Self, Error> {
        let address = Address::parse(url)?;
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

    /// Where the database is: `sqlite:///path`, or `postgres://host:port/database`, without user and
    /// password.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Closes all connections, also those of every clone, after their operations have ended.
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
