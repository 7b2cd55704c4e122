//! The roles that run, as they announce themselves, and which version of the registry each worker acts on.
//!
//! All times are the database's, so that clocks of different hosts are never compared. An announcement is believed for
//! [`ANNOUNCED_MAX`]; a running role announces itself once a second.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _};

use crate::{
    Error, OPERATION_TIMEOUT, Operation, Position, Store,
    database::{Dialect, on_connection},
    statement::{Argument, bind_all},
};

/// How long an announcement is believed.
pub const ANNOUNCED_MAX: Duration = Duration::from_secs(3);

/// How long a role is remembered that has not announced itself.
const REMEMBERED: Duration = Duration::from_hours(30 * 24);

/// What a role tells of itself.
#[derive(Clone, Copy, Debug)]
pub struct Announcement<'a> {
    /// Random, made when the process starts; a worker's name.
    pub process: &'a str,
    /// `worker`, `recorder` or `api`.
    pub role: &'a str,
    /// Where it runs.
    pub host: &'a str,
    /// Every attempt that begins from now on begins with this or something later; the default for roles that make none.
    pub position: Position,
}

/// A worker of which it is not known that it acts on a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerBehind {
    /// Its name among all workers.
    pub process: String,
    /// Where it runs.
    pub host: String,
    /// How long ago it announced itself.
    pub unseen: Duration,
}

impl WorkerBehind {
    /// Whether it has announced itself lately: it runs, and will do so again.
    pub fn is_heard(&self) -> bool {
        self.unseen <= ANNOUNCED_MAX
    }
}

/// `{now}` is the database's clock.
const ANNOUNCE: &str = "INSERT INTO roles (process, role, host, version, change_number, change_stamp, seen_ms) \
    VALUES ($1, $2, $3, $4, $5, $6, {now}) ON CONFLICT (process, role) DO UPDATE SET host = excluded.host, \
    version = excluded.version, change_number = excluded.change_number, change_stamp = excluded.change_stamp, \
    seen_ms = excluded.seen_ms, closed_ms = NULL";

const CLOSE: &str =
    "UPDATE roles SET closed_ms = {now} WHERE process = $1 AND role = $2 AND closed_ms IS NULL";

const FORGET: &str = "DELETE FROM roles WHERE seen_ms < {now} - $1";

/// A worker is behind when its version is an older one, or one of another history: the log of changes does not have what it saw last.
const SELECT_BEHIND: &str = "SELECT process, host, {now} - seen_ms AS unseen_ms FROM roles r \
    WHERE role = 'worker' AND closed_ms IS NULL AND NOT (version >= $1 AND (change_number = 0 OR EXISTS ( \
    SELECT 1 FROM changes c WHERE c.number = r.change_number AND COALESCE(c.nonce, c.at_ms) = r.change_stamp))) \
    ORDER BY host, process";

impl Store {
    /// Says that the role runs, and what it acts on.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn announce_role(&self, announced: &Announcement<'_>) -> Result<(), Error> {
        let Announcement {
            process,
            role,
            host,
            position,
        } = *announced;
        let arguments = [
            process.into(),
            role.into(),
            Argument::outside(host),
            position.version.into(),
            position.change.into(),
            position.stamp.into(),
        ];
        self.write_roles(ANNOUNCE, &arguments).await
    }

    /// Says that the role has ended: nothing is expected of it any more.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn close_role(&self, process: &str, role: &str) -> Result<(), Error> {
        self.write_roles(CLOSE, &[process.into(), role.into()]).await
    }

    /// Forgets roles that have not announced themselves for 30 days.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn forget_old_roles(&self) -> Result<(), Error> {
        let remembered_ms = REMEMBERED.as_millis() as i64;
        self.write_roles(FORGET, &[remembered_ms.into()]).await
    }

    /// Workers that were not closed and are not known to act on this position, or a later one.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn workers_behind(&self, position: &Position) -> Result<Vec<WorkerBehind>, Error> {
        on_connection!(
            &self.database,
            reader,
            &Operation::FindWorkersBehind,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let rows: Vec<(String, String, i64)> = sqlx::query_as(timed(SELECT_BEHIND, dialect))
                    .bind(position.version)
                    .fetch_all(connection)
                    .await?;
                Ok(rows.into_iter().map(WorkerBehind::from).collect())
            }
        )
    }

    async fn write_roles(&self, sql: &'static str, arguments: &[Argument<'_>]) -> Result<(), Error> {
        on_connection!(
            &self.database,
            writer,
            &Operation::AnnounceRole,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                // What a crash takes back is announced again within a second.
                for prepare in dialect.prepare_deletions {
                    sqlx::query(*prepare).execute(&mut *tx).await?;
                }
                let query = bind_all!(sqlx::query(timed(sql, dialect)), arguments);
                query.execute(&mut *tx).await?;
                tx.commit().await?;
                Ok(())
            }
        )
    }
}

impl From<(String, String, i64)> for WorkerBehind {
    fn from((process, host, unseen_ms): (String, String, i64)) -> Self {
        Self {
            process,
            host,
            // A clock that was set back makes it negative, until the next announcement.
            unseen: Duration::from_millis(unseen_ms.try_into().unwrap_or_default()),
        }
    }
}

pub(crate) fn timed(sql: &str, dialect: &Dialect) -> AssertSqlSafe<String> {
    AssertSqlSafe(sql.replace("{now}", dialect.now_ms))
}
