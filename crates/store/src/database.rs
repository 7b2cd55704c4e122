//! Connections to SQLite or PostgreSQL, timeouts, and the differences between the two databases.

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

/// How long [`Store::connect`](crate::Store::connect) waits for a server that does not answer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an operation waits for a free or a new connection.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an operation may take once it has a connection. The timeout is longer than every wait that the
/// database limits itself, so it expires only when the network, the host or the disk hangs. The connection is
/// then closed.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);

/// How long SQLite waits for a lock of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause between two tries to switch to the write-ahead log. This is the only lock for which SQLite does
/// not wait by itself.
const WAL_RETRY_PAUSE: Duration = Duration::from_millis(10);

/// The maximum number of SQLite connections that read. Readers do not block other connections, but more
/// readers than cores gain nothing.
const SQLITE_READERS_MAX: u32 = 4;

/// The maximum number of PostgreSQL connections of a process, without those for the journal. It is small
/// because every process opens as many: together with those for the journal they are twelve of the hundred
/// that PostgreSQL accepts by default.
const POSTGRES_CONNECTIONS_MAX: u32 = 8;

/// The maximum number of connections for queries of the journal. Such queries can take seconds, and customers
/// send them. With a pool of their own, any number of them leaves the connections for records, endpoints and
/// keys free.
const JOURNAL_CONNECTIONS_MAX: u32 = 4;

/// Limits that PostgreSQL enforces itself. The last timeout ends the transaction of a client that vanished
/// from the network while it held the registry's lock; otherwise all writes would wait until TCP gives up.
/// JIT compilation is off: an audit of 100,000 attempts takes 150 ms without it, and 200 ms more with it.
const POSTGRES_SESSION: &str = "SET lock_timeout = '10s'; SET statement_timeout = '15s'; \
    SET idle_in_transaction_session_timeout = '15s'; SET jit = off";

/// The differences between the two databases, as SQL.
pub(crate) struct Dialect {
    /// Begins a transaction that writes. On SQLite it takes the write lock at once, because SQLite does not
    /// wait for a lock that is taken later, after a read. On PostgreSQL each statement must see what was
    /// committed before the statement; otherwise the lock on the registry's row would be useless.
    pub(crate) begin_write: &'static str,
    /// Begins a transaction whose reads all use the same snapshot.
    pub(crate) begin_snapshot: &'static str,
    /// Selects the name under which another connection can read the snapshot of a transaction, until that
    /// transaction ends. `None` on SQLite, which cannot do this.
    pub(crate) export_snapshot: Option<&'static str>,
    /// Statements that begin a transaction with joins of large tables. PostgreSQL may have no statistics yet
    /// about rows of the last minute, expect only a few rows, and scan all of one side for each row of the
    /// other: an audit of 40,000 deliveries did not finish within 15 s.
    pub(crate) prepare_joins: &'static [&'static str],
    /// Statements that begin a transaction that deletes expired rows. PostgreSQL need not wait until the
    /// deletion is on disk: a deletion that a crash undoes is repeated, and the commits of other transactions
    /// do not queue behind it.
    pub(crate) prepare_deletions: &'static [&'static str],
    /// An expression for the database's clock, in Unix milliseconds.
    pub(crate) now_ms: &'static str,
    /// Appended to a `SELECT` in a transaction that will write the rows that it has read. Empty on SQLite,
    /// where `begin_write` has locked the whole database.
    pub(crate) for_update: &'static str,
    /// Appended to a `SELECT` from deliveries `d` to skip rows that another transaction has locked.
    pub(crate) skip_locked: &'static str,
    /// Statements that begin the transaction that migrates and that exclude other migrating processes; on
    /// SQLite `begin_write` does that. The number identifies PostgreSQL's advisory lock: "magnetit" in ASCII.
    /// They also create the collation that the tables name, which is built into SQLite.
    pub(crate) prepare_migrations: &'static [&'static str],
    /// Statements that end the transaction that migrates. They adjust autovacuum for tables that mostly
    /// receive inserts. By default PostgreSQL vacuums such a table only when a fifth of its rows is new,
    /// which with a month of data takes six days. But index-only scans need vacuumed pages, and good query
    /// plans need statistics.
    pub(crate) finish_migrations: &'static [&'static str],
    /// Counts the tables that list applied migrations: 0 or 1.
    pub(crate) count_migrations_tables: &'static str,
    /// Selects one text: the server's name and version.
    pub(crate) server_version: &'static str,
    /// Selects one text: the encoding of the database's texts.
    pub(crate) encoding: &'static str,
}

pub(crate) static SQLITE: Dialect = Dialect {
    begin_write: "BEGIN IMMEDIATE",
    begin_snapshot: "BEGIN",
    export_snapshot: None,
    prepare_joins: &[],
    prepare_deletions: &[],
    now_ms: "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
    for_update: "",
    skip_locked: "",
    prepare_migrations: &[],
    finish_migrations: &[],
    count_migrations_tables: "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'magnetite_migrations'",
    server_version: "SELECT 'SQLite ' || sqlite_version()",
    // SQLite stores Unicode with each of its encodings.
    encoding: "SELECT 'UTF8'",
};

pub(crate) static POSTGRES: Dialect = Dialect {
    begin_write: "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE",
    begin_snapshot: "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    export_snapshot: Some("SELECT pg_export_snapshot()"),
    prepare_joins: &["SET LOCAL enable_nestloop = off", "SET LOCAL work_mem = '64MB'"],
    prepare_deletions: &["SET LOCAL synchronous_commit = off"],
    now_ms: "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
    for_update: " FOR UPDATE",
    skip_locked: " FOR UPDATE OF d SKIP LOCKED",
    prepare_migrations: &[
        "SET LOCAL statement_timeout = 0",
        "SET LOCAL lock_timeout = '60s'",
        "SELECT pg_advisory_xact_lock(7881694546721270132)",
        // The wait for a table's lock is shorter, because all other transactions queue behind it.
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

/// The connections to one of the two databases.
#[derive(Clone)]
pub(crate) enum Database {
    Sqlite(Pools<Sqlite>),
    Postgres(Pools<Postgres>),
}

/// The connection pools. On SQLite a single connection writes, so that the writers of this process queue in
/// order instead of polling for the lock. On PostgreSQL `reader` and `writer` are the same pool.
pub(crate) struct Pools<DB: sqlx::Database> {
    pub(crate) reader: Pool<DB>,
    pub(crate) writer: Pool<DB>,
    /// Connections for queries of the journal.
    pub(crate) journal: Pool<DB>,
}

/// Not derived, because the derive would require `DB: Clone`.
impl<DB: sqlx::Database> Clone for Pools<DB> {
    fn clone(&self) -> Self {
        Self {
            reader: self.reader.clone(),
            writer: self.writer.clone(),
            journal: self.journal.clone(),
        }
    }
}

/// Runs `$steps` on one connection of `$pool` (a field of [`Pools`]) of the current database, and evaluates
/// to their `Result<_, Failure>` with the [`Failure`] converted to an [`Error`]. The steps are compiled once
/// for each database, with `$connection` as its connection and `$dialect` as its [`Dialect`]; `?` and
/// `return` leave the steps.
///
/// When `$limit` passes, the macro closes the connection instead of returning it to the pool, because the
/// pool would wait for an answer of a host that may be gone. It also closes the connection after an error on
/// which SQLite may have rolled back by itself; see [`Error::spoils_connection`]. [`clean_pool`] does the
/// same for steps whose future is dropped.
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

/// Returns the options of a pool that never hands out a connection on which sqlx believes that a transaction
/// is still open. That happens when SQLite has rolled back by itself (disk full, I/O error, out of memory,
/// interrupted): sqlx's own `ROLLBACK` then fails, and every later transaction on the connection would be
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

/// Runs the steps and returns their result, or `None` if the limit has passed.
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
                // The writer closes last: the connection that closes last moves the write-ahead log into the
                // database file, which a read-only connection must not do.
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
        // Overwrites deleted data, such as secrets, where that costs no extra I/O.
        .pragma("secure_delete", "FAST");
    let mut first = options
        .connect()
        .await
        .map_err(|error| no_connection(address, error))?;
    switch_to_wal(&mut first, path, address).await?;

    // Opening a file is cheap and files do not restart, so connections never expire.
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

/// Creates the file and the directories above it, if missing, with access for their owner only.
fn create_private_file(path: &Path) -> Result<(), Error> {
    // Closing any descriptor of a file drops all locks that this process holds on it, including SQLite's. For
    // this reason the file is opened here only if it is new, and the mutex ensures that no other thread of
    // this process opens it before it is closed.
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
        tracing::warn!(path = %path.display(), mode, "other users can access the database file, which holds secrets: run chmod 600 on it");
    }
}

/// Switches the file to the write-ahead log. The journal mode is a property of the file, so the first process
/// switches it for all.
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
    refuse_pooler(options, address).await?;
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

/// Connects, and refuses a pooler that shares connections: on a connection that is new on the server as well, no
/// statement prepared by this library exists yet.
///
/// The first connection leaves a statement for the second one, which most likely gets the same connection of the
/// server from a pooler. Otherwise the first process that ever connects would find none, and would migrate the
/// database.
async fn refuse_pooler(options: &PgConnectOptions, address: &Address) -> Result<(), Error> {
    for _ in 0..2 {
        // Without the pool of this library, which would retry until its own timeout and then not report the cause.
        let mut connection = in_time(address, options.connect()).await?;
        let is_shared = in_time(address, has_statements(&mut connection)).await?;
        // The connection has served its purpose. An error while closing it is irrelevant.
        let _ = timeout(CONNECT_TIMEOUT, connection.close()).await;
        if is_shared {
            return Err(Error::Pooler {
                address: address.to_string(),
            });
        }
    }
    Ok(())
}

/// Returns whether statements of this library exist on a new connection. If there are none, prepares one.
async fn has_statements(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    const STATEMENTS: &str = "SELECT name FROM pg_prepared_statements WHERE name LIKE 'sqlx\\_s\\_%' LIMIT 1";
    let found = sqlx::raw_sql(STATEMENTS).fetch_optional(&mut *connection).await?;
    if found.is_none() {
        sqlx::query("SELECT 1").execute(connection).await?;
    }
    Ok(found.is_some())
}

async fn in_time<T>(
    address: &Address,
    step: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    let done = timeout(CONNECT_TIMEOUT, step).await;
    let done = done.map_err(|_| Error::ConnectTimedOut {
        address: address.to_string(),
        limit: CONNECT_TIMEOUT,
    })?;
    done.map_err(|error| no_connection(address, error))
}

fn no_connection(address: &Address, error: sqlx::Error) -> Error {
    Error::Connect {
        address: address.to_string(),
        source: error.into(),
    }
}
