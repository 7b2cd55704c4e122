//! The two databases behind one name: connections, deadlines, and the little in which they differ.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sqlx::{
    ConnectOptions as _, Connection as _, Pool, Postgres, Sqlite,
    pool::{PoolConnection, PoolOptions},
    postgres::{PgConnectOptions, PgConnection},
    sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Error, Operation,
    address::Address,
    error::{Cause, Failure},
};

/// How long [`Store::connect`](crate::Store::connect) waits for a server that is silent.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an operation waits for a free connection, or for a new one.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an operation may take once it has a connection. Longer than every wait that the database bounds
/// itself, so that it expires only when the network, the host or the disk hangs; the connection is then given
/// up.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);

/// How long SQLite waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause between two tries to switch to the write-ahead log: the one lock on which SQLite does not wait by
/// itself.
const WAL_RETRY_PAUSE: Duration = Duration::from_millis(10);

/// SQLite's readers disturb nobody, but more of them than cores gain nothing.
const SQLITE_READERS_MAX: u32 = 4;

/// Few, since every process has as many, and those for the journal: twelve of the hundred that PostgreSQL
/// takes by default.
const POSTGRES_CONNECTIONS_MAX: u32 = 8;

/// Questions about the journal may take seconds, and customers ask them: however many they are, records,
/// endpoints and keys have connections of their own.
const JOURNAL_CONNECTIONS_MAX: u32 = 4;

/// Bounds that PostgreSQL keeps itself. The last one ends the transaction of a client that vanished from the
/// network while it held the registry's lock: nobody could write until TCP gave up. And no compilation of
/// plans: an audit of 100,000 attempts takes 150 ms without, and 200 ms more with it.
const POSTGRES_SESSION: &str = "SET lock_timeout = '10s'; SET statement_timeout = '15s'; \
    SET idle_in_transaction_session_timeout = '15s'; SET jit = off";

/// The differences between the two databases.
pub(crate) struct Dialect {
    /// Begins a transaction that writes. On SQLite it takes the write lock at once: a lock taken later,
    /// after a read, could not be waited for. On PostgreSQL each statement must see what was committed
    /// before it, or the lock on the registry's row would be of no use.
    pub(crate) begin_write: &'static str,
    /// Begins a transaction whose reads all see one moment.
    pub(crate) begin_snapshot: &'static str,
    /// Run first in a transaction that joins much with much. PostgreSQL may know nothing yet of what was
    /// written within the last minute, take it for a handful of rows, and look through all of one side
    /// for each of the other: an audit of 40,000 deliveries did not end within 15 s.
    pub(crate) prepare_joins: &'static [&'static str],
    /// Run first in a transaction that deletes what is too old. PostgreSQL need not wait until that is on
    /// disk: what a crash brings back is deleted again, and the commits of others do not queue behind
    /// it.
    pub(crate) prepare_deletions: &'static [&'static str],
    /// The database's clock, in Unix milliseconds.
    pub(crate) now_ms: &'static str,
    /// Appended to a `SELECT` of a transaction that will write what it has read. SQLite has locked all by
    /// `begin_write`.
    pub(crate) for_update: &'static str,
    /// Appended to a `SELECT` from deliveries `d`: rows that another transaction has locked are left to it.
    pub(crate) skip_locked: &'static str,
    /// Run first in the transaction that migrates, to be alone in it: SQLite is by `begin_write`. The number
    /// is the name that PostgreSQL's lock has: "magnetit" in ASCII. Then PostgreSQL is given the
    /// collation that the tables name and SQLite has.
    pub(crate) prepare_migrations: &'static [&'static str],
    /// Run last in the transaction that migrates. What is only ever added to PostgreSQL leaves alone until a
    /// fifth is new, which of a month is six days. But only what it has looked over is read from indexes
    /// alone, and only what it has counted is planned for.
    pub(crate) finish_migrations: &'static [&'static str],
    /// Counts the tables that list applied migrations: 0 or 1.
    pub(crate) count_migrations_tables: &'static str,
    /// One text: the server's name and version.
    pub(crate) server_version: &'static str,
    /// One text: the encoding of the database's texts.
    pub(crate) encoding: &'static str,
}

pub(crate) static SQLITE: Dialect = Dialect {
    begin_write: "BEGIN IMMEDIATE",
    begin_snapshot: "BEGIN",
    prepare_joins: &[],
    prepare_deletions: &[],
    now_ms: "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
    for_update: "",
    skip_locked: "",
    prepare_migrations: &[],
    finish_migrations: &[],
    count_migrations_tables: "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'magnetite_migrations'",
    server_version: "SELECT 'SQLite ' || sqlite_version()",
    // Its texts are Unicode in each of its encodings.
    encoding: "SELECT 'UTF8'",
};

pub(crate) static POSTGRES: Dialect = Dialect {
    begin_write: "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE",
    begin_snapshot: "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    prepare_joins: &["SET LOCAL enable_nestloop = off", "SET LOCAL work_mem = '64MB'"],
    prepare_deletions: &["SET LOCAL synchronous_commit = off"],
    now_ms: "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
    for_update: " FOR UPDATE",
    skip_locked: " FOR UPDATE OF d SKIP LOCKED",
    prepare_migrations: &[
        "SET LOCAL statement_timeout = 0",
        "SET LOCAL lock_timeout = '60s'",
        "SELECT pg_advisory_xact_lock(7881694546721270132)",
        // A table's lock is waited for more briefly: everyone else queues behind this wait.
        "SET LOCAL lock_timeout = '10s'",
        "CREATE COLLATION IF NOT EXISTS \"BINARY\" (PROVIDER = libc, LOCALE = 'C')",
    ],
    finish_migrations: &[
        "ALTER TABLE events SET (autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 20000, \
         autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000)",
        "ALTER TABLE deliveries SET (autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 20000, \
         autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000)",
        "ALTER TABLE attempts SET (autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 20000, \
         autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000)",
    ],
    count_migrations_tables: "SELECT COUNT(*) FROM pg_class WHERE oid = to_regclass('magnetite_migrations')",
    server_version: "SELECT 'PostgreSQL ' || current_setting('server_version')",
    encoding: "SELECT current_setting('server_encoding')",
};

/// Connections to one of the two.
#[derive(Clone)]
pub(crate) enum Database {
    Sqlite(Pools<Sqlite>),
    Postgres(Pools<Postgres>),
}

/// On SQLite one connection writes, so that writers of this process queue in order instead of polling for the
/// lock; on PostgreSQL `reader` and `writer` are the same pool.
pub(crate) struct Pools<DB: sqlx::Database> {
    pub(crate) reader: Pool<DB>,
    pub(crate) writer: Pool<DB>,
    /// For questions about the journal.
    pub(crate) journal: Pool<DB>,
}

/// Not derived: that would ask for `DB: Clone`.
impl<DB: sqlx::Database> Clone for Pools<DB> {
    fn clone(&self) -> Self {
        Self {
            reader: self.reader.clone(),
            writer: self.writer.clone(),
            journal: self.journal.clone(),
        }
    }
}

/// Runs `$steps` on one connection of `$pool` (a field of [`Pools`]) of whichever database it is, and
/// evaluates to its `Result<_, Failure>` with [`Failure`] turned into [`Error`]. The steps are compiled once
/// for each database, with `$connection` as its connection and `$dialect` as its [`Dialect`]; `?` and
/// `return` leave the steps.
///
/// When `$limit` passes, the connection is closed rather than returned to the pool, which would wait for a
/// host that is gone to answer. So it is after an error on which SQLite may have rolled back by itself: see
/// [`Error::spoils_connection`]. [`clean_pool`] does the same for steps whose future is dropped.
macro_rules! on_connection {
    ($database:expr, $pool:ident, $operation:expr, $limit:expr, |$connection:ident, $dialect:ident| $steps:block) => {
        match $database {
            $crate::database::Database::Sqlite(pools) => {
                let $dialect = &$crate::database::SQLITE;
                on_connection!(@run pools.$pool, $operation, $limit, |$connection| $steps)
            }
            $crate::database::Database::Postgres(pools) => {
                let $dialect = &$crate::database::POSTGRES;
                on_connection!(@run pools.$pool, $operation, $limit, |$connection| $steps)
            }
        }
    };
    (@run $pool:expr, $operation:expr, $limit:expr, |$connection:ident| $steps:block) => {{
        let mut pooled = $crate::database::acquire(&$pool, $operation).await?;
        let $connection = &mut *pooled;
        match $crate::database::bounded($limit, $operation, async move { $steps }).await {
            Some(result) => {
                if result.as_ref().is_err_and($crate::Error::spoils_connection) {
                    pooled.close_on_drop();
                }
                result
            }
            None => {
                pooled.close_on_drop();
                Err($crate::Error::TimedOut { operation: $operation.clone(), limit: $limit })
            }
        }
    }};
}
pub(crate) use on_connection;

/// Options of a pool that never hands out a connection of which sqlx believes that a transaction is still
/// open. That happens when SQLite has rolled back by itself (disk full, I/O error, out of memory,
/// interrupted): sqlx's own `ROLLBACK` then fails, and every later transaction of the connection would be
/// refused.
fn clean_pool<DB: sqlx::Database>() -> PoolOptions<DB> {
    PoolOptions::new()
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .before_acquire(|connection: &mut DB::Connection, _| {
            let is_clean = !connection.is_in_transaction();
            Box::pin(async move { Ok(is_clean) })
        })
}

pub(crate) async fn acquire<DB: sqlx::Database>(
    pool: &Pool<DB>,
    operation: &Operation,
) -> Result<PoolConnection<DB>, Error> {
    pool.acquire()
        .await
        .map_err(|error| Failure::from(error).during(operation))
}

/// The steps' result, or `None` when the limit has passed.
pub(crate) async fn bounded<T>(
    limit: Duration,
    operation: &Operation,
    steps: impl Future<Output = Result<T, Failure>>,
) -> Option<Result<T, Error>> {
    let result = timeout(limit, steps).await.ok()?;
    Some(result.map_err(|failure| failure.during(operation)))
}

impl Database {
    pub(crate) async fn connect(address: &Address) -> Result<Self, Error> {
        match address {
            Address::Sqlite(path) => connect_sqlite(path, address).await.map(Self::Sqlite),
            Address::Postgres(options) => connect_postgres(options, address).await.map(Self::Postgres),
        }
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pools) => {
                pools.journal.close().await;
                pools.reader.close().await;
                // Last: whoever closes SQLite's last connection empties the log, which a reader may not.
                pools.writer.close().await;
            }
            Self::Postgres(pools) => {
                pools.journal.close().await;
                pools.writer.close().await;
            }
        }
    }
}

async fn connect_sqlite(path: &Path, address: &Address) -> Result<Pools<Sqlite>, Error> {
    create_private_file(path)?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .synchronous(SqliteSynchronous::Full)
        // Overwrites what is deleted, such as secrets, where that costs no extra I/O.
        .pragma("secure_delete", "FAST");
    let mut first = options
        .connect()
        .await
        .map_err(|error| no_connection(address, error))?;
    switch_to_wal(&mut first, path, address).await?;

    // Opening a file costs nothing and files do not restart: connections stay.
    let pool = || clean_pool().idle_timeout(None).max_lifetime(None);
    let readers = |count| {
        let options = options.clone().pragma("query_only", "ON");
        pool().max_connections(count).connect_lazy_with(options)
    };
    let pools = Pools {
        reader: readers(SQLITE_READERS_MAX),
        journal: readers(JOURNAL_CONNECTIONS_MAX),
        writer: pool().max_connections(1).connect_lazy_with(options.clone()),
    };
    first
        .close()
        .await
        .map_err(|error| no_connection(address, error))?;
    Ok(pools)
}

/// Makes the file and the directories above it, if missing, for their owner alone.
fn create_private_file(path: &Path) -> Result<(), Error> {
    // Closing any descriptor of a file drops all locks that this process holds on it, SQLite's included. So
    // the file is opened here only when it is new, and nobody else in this process can have opened it
    // before it is closed.
    static CREATING: Mutex<()> = Mutex::new(());

    let failed = |path: &Path, source| Error::CreateFile {
        path: path.to_owned(),
        source,
    };
    let _creating = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(directory) = path.parent() {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(directory)
            .map_err(|error| failed(directory, error))?;
    }
    match fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            warn_if_public(path);
            Ok(())
        }
        Err(error) => Err(failed(path, error)),
    }
}

fn warn_if_public(path: &Path) {
    let Ok(metadata) = fs::metadata(path) else { return };
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o077 != 0 {
        let mode = format!("{mode:o}");
        tracing::warn!(path = %path.display(), mode, "others may open the database file, which holds secrets: chmod 600");
    }
}

/// The mode is a property of the file: whoever comes first switches, for all.
async fn switch_to_wal(
    connection: &mut SqliteConnection,
    path: &Path,
    address: &Address,
) -> Result<(), Error> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let mode = sqlx::query_scalar("PRAGMA journal_mode = WAL")
            .fetch_one(&mut *connection)
            .await;
        match mode.map_err(Cause::from) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(Error::NoWriteAheadLog {
                    path: path.to_owned(),
                    mode,
                });
            }
            Err(cause) if cause.is_transient() && Instant::now() < deadline => sleep(WAL_RETRY_PAUSE).await,
            Err(source) => {
                return Err(Error::Connect {
                    address: address.to_string(),
                    source,
                });
            }
        }
    }
}

async fn connect_postgres(options: &PgConnectOptions, address: &Address) -> Result<Pools<Postgres>, Error> {
    // Not by the pool: it would try again until its own timeout, and then not say why.
    let mut first = timeout(CONNECT_TIMEOUT, options.connect())
        .await
        .map_err(|_| Error::ConnectTimedOut {
            address: address.to_string(),
            limit: CONNECT_TIMEOUT,
        })?
        .map_err(|error| no_connection(address, error))?;
    refuse_pooler(&mut first, address).await?;
    // It has shown what it was for. Whether the goodbye arrives matters to nobody.
    let _ = timeout(CONNECT_TIMEOUT, first.close()).await;

    let pool = |connections_max| {
        clean_pool()
            .max_connections(connections_max)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    sqlx::raw_sql(POSTGRES_SESSION)
                        .execute(connection)
                        .await
                        .map(drop)
                })
            })
            .connect_lazy_with(options.clone())
    };
    let all = pool(POSTGRES_CONNECTIONS_MAX);
    Ok(Pools {
        reader: all.clone(),
        writer: all,
        journal: pool(JOURNAL_CONNECTIONS_MAX),
    })
}

/// A connection that is new to PostgreSQL as well has no statement of this library's yet.
async fn refuse_pooler(first: &mut PgConnection, address: &Address) -> Result<(), Error> {
    const STATEMENTS: &str = "SELECT name FROM pg_prepared_statements WHERE name LIKE 'sqlx\\_s\\_%' LIMIT 1";
    let asked = timeout(CONNECT_TIMEOUT, sqlx::raw_sql(STATEMENTS).fetch_optional(first));
    let found = asked.await.map_err(|_| Error::ConnectTimedOut {
        address: address.to_string(),
        limit: CONNECT_TIMEOUT,
    })?;
    match found.map_err(|error| no_connection(address, error))? {
        Some(_) => Err(Error::Pooler {
            address: address.to_string(),
        }),
        None => Ok(()),
    }
}

fn no_connection(address: &Address, error: sqlx::Error) -> Error {
    Error::Connect {
        address: address.to_string(),
        source: error.into(),
    }
}
