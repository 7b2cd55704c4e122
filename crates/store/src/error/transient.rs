//! Classification of database errors: transient errors, a full disk, and errors that show a pooler.

/// Returns whether the same statement may succeed later.
pub(super) fn is_transient(error: &sqlx::Error) -> bool {
    use sqlx::{Error as E, migrate::MigrateError};

    match error {
        E::Io(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed
        // sqlx believes that a transaction is still open on this connection. A new connection has none.
        | E::InvalidSavePointStatement | E::BeginFailed => true,
        E::Database(database) => match sqlite_code(error) {
            Some(code) => is_transient_sqlite(code),
            None => is_transient_postgres(database.code().as_deref().unwrap_or_default()),
        },
        E::Migrate(error) => match &**error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => is_transient(error),
            _ => false,
        },
        _ => false,
    }
}

/// Returns whether the database's disk is full.
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => match sqlite_code(error) {
            // SQLITE_FULL, and SQLITE_IOERR_WRITE, which a disk quota causes.
            Some(code) => code & 0xff == 13 || code == 778,
            None => database.code().as_deref() == Some("53100"),
        },
        _ => false,
    }
}

/// Returns whether the connection is shared with other clients: a prepared statement exists before this
/// connection has prepared it, or is missing although this connection has prepared it.
pub(super) fn is_foreign_statement(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => matches!(database.code().as_deref(), Some("42P05" | "26000")),
        _ => false,
    }
}

/// Returns SQLite's extended result code, or `None` if the error is not SQLite's.
pub(super) fn sqlite_code(error: &sqlx::Error) -> Option<i32> {
    let error = error.as_database_error()?;
    error.try_downcast_ref::<sqlx::sqlite::SqliteError>()?;
    Some(
        error
            .code()
            .and_then(|code| code.parse().ok())
            .unwrap_or_default(),
    )
}

/// Returns whether SQLite's extended result code is transient: busy, locked, out of memory, interrupted, I/O
/// error, disk full, cannot open (also when out of file descriptors), locking protocol. Source:
/// <https://www.sqlite.org/rescode.html>.
pub(super) fn is_transient_sqlite(extended_code: i32) -> bool {
    matches!(extended_code & 0xff, 5 | 6 | 7 | 9 | 10 | 13 | 14 | 15)
}

/// Returns whether an SQLSTATE is transient. Source:
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn is_transient_postgres(sqlstate: &str) -> bool {
    // Connection exceptions, insufficient resources, system errors outside of PostgreSQL.
    let class = ["08", "53", "58"].iter().any(|class| sqlstate.starts_with(class));
    class
        || matches!(
            sqlstate,
            // Serialization failure, deadlock, lock timeout.
            "40001" | "40P01" | "55P03"
            // Statement timeout or cancel; shutdown by an administrator, after a crash, during startup; idle
            // session.
            | "57014" | "57P01" | "57P02" | "57P03" | "57P05"
            // Idle in a transaction; the server became a replica.
            | "25P03" | "25006"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_away_by_itself_is_told_from_what_does_not() {
        // SQLITE_BUSY, _BUSY_SNAPSHOT, _LOCKED_SHAREDCACHE, _IOERR_WRITE, _FULL, _CANTOPEN.
        for code in [5, 517, 262, 778, 13, 14] {
            assert!(is_transient_sqlite(code), "{code}");
        }
        // No such table, permission, read-only, corrupt, unique constraint, not a database.
        for code in [0, 1, 3, 8, 11, 2067, 26] {
            assert!(!is_transient_sqlite(code), "{code}");
        }
        for state in [
            "08006", "53300", "53100", "57P01", "57P03", "40001", "40P01", "55P03", "57014", "25006",
        ] {
            assert!(is_transient_postgres(state), "{state}");
        }
        // Unique violation, no such table, wrong password, no such database, permission denied, no code at
        // all.
        for state in ["23505", "42P01", "28P01", "3D000", "42501", ""] {
            assert!(!is_transient_postgres(state), "{state}");
        }
    }
}
