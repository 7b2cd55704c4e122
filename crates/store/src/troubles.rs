//! The roles that run, with what each has noticed that a person should know of.

use sqlx::Connection as _;

use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store,
    database::on_connection,
    statement::{Argument, bind_all, timed},
};

/// How long after its last announcement a role is taken to run. Longer than announcements are believed for, because here a role that runs
/// and is not listed would be worse than one that has just ended.
const LISTED_MS: i64 = 10_000;

/// A role that runs, as it announced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningRole {
    /// Random, made when the process started.
    pub process: String,
    /// `worker`, `recorder` or `api`.
    pub role: String,
    /// Where it runs.
    pub host: String,
    /// How long ago it announced itself, in milliseconds by the database's clock; negative if the clock of its announcement is ahead.
    /// With SQLite that clock is each host's own.
    pub unseen_ms: i64,
    /// What it has noticed: a JSON array of objects with `kind`, `subject` and `detail`, all texts.
    pub troubles: Option<String>,
}

const REPORT: &str = "UPDATE roles SET troubles = $1 WHERE process = $2";

const SELECT_RUNNING: &str = "SELECT process, role, host, {now} - seen_ms AS unseen_ms, troubles FROM roles \
    WHERE closed_ms IS NULL AND seen_ms >= {now} - $1 ORDER BY role, host, process";

impl Store {
    /// Says what the process has noticed. False when none of its roles has announced itself yet.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn report_troubles(&self, process: &str, troubles: Option<&str>) -> Result<bool, Error> {
        let arguments = [Argument::maybe_outside(troubles), process.into()];
        on_connection!(
            &self.database,
            writer,
            &Operation::AnnounceRole,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                let query = bind_all!(sqlx::query(REPORT), &arguments);
                let reported = query.execute(&mut *tx).await?.rows_affected();
                tx.commit().await?;
                Ok(reported > 0)
            }
        )
    }

    /// The roles that run, by role and host.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn running_roles(&self) -> Result<Vec<RunningRole>, Error> {
        type Row = (String, String, String, i64, Option<String>);
        on_connection!(
            &self.database,
            reader,
            &Operation::ListRoles,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let rows: Vec<Row> = sqlx::query_as(timed(SELECT_RUNNING, dialect))
                    .bind(LISTED_MS)
                    .fetch_all(connection)
                    .await?;
                let role = |(process, role, host, unseen_ms, troubles)| RunningRole {
                    process,
                    role,
                    host,
                    unseen_ms,
                    troubles,
                };
                Ok(rows.into_iter().map(role).collect())
            }
        )
    }
}
