//! The roles that run, with what each reports of itself.

use std::time::Duration;

use crate::{
    ANNOUNCED_MAX, Error, Operation, Store,
    columns::Columns,
    statement::{Argument, Statement, UNPREPARED},
};

/// A role that has announced itself, and has not said that it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningRole {
    /// Random, made when the process started.
    pub process: String,
    /// `worker`, `recorder` or `api`.
    pub role: String,
    /// Where it runs.
    pub host: String,
    /// How long ago it announced itself, in milliseconds by the database's clock; negative if the clock of
    /// its announcement is ahead. With SQLite that clock is each host's own.
    pub unseen_ms: i64,
    /// What it reported of itself last.
    pub report: RoleReport,
}

/// What a role reports of itself. A field is `None` while there is nothing to report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleReport {
    /// Why it cannot do its main job.
    pub waits_for: Option<String>,
    /// What it works without.
    pub degraded: Option<String>,
    /// What its process has noticed: a JSON array of objects with `kind`, `subject` and `detail`, all texts.
    pub troubles: Option<String>,
}

impl RunningRole {
    /// Returns whether it has announced itself within the last three seconds.
    pub fn is_heard(&self) -> bool {
        self.unseen() <= ANNOUNCED_MAX
    }

    /// Returns how long ago it announced itself; zero if the clock of its announcement is ahead.
    pub fn unseen(&self) -> Duration {
        Duration::from_millis(self.unseen_ms.try_into().unwrap_or_default())
    }
}

const REPORT: &str =
    "UPDATE roles SET waits_for = $3, degraded = $4, troubles = $5 WHERE process = $1 AND role = $2";

const SELECT_RUNNING: &str = "SELECT process, role, host, {now} - seen_ms AS unseen_ms, waits_for, degraded, troubles FROM roles \
    WHERE closed_ms IS NULL AND seen_ms >= {now} - $1 ORDER BY role, host, process LIMIT 1000";

fn read_running(row: &dyn Columns) -> Result<RunningRole, sqlx::Error> {
    Ok(RunningRole {
        process: row.text("process")?,
        role: row.text("role")?,
        host: row.text("host")?,
        unseen_ms: row.integer("unseen_ms")?,
        report: RoleReport {
            waits_for: row.maybe_text("waits_for")?,
            degraded: row.maybe_text("degraded")?,
            troubles: row.maybe_text("troubles")?,
        },
    })
}

impl Store {
    /// Stores what a role reports of itself. Returns false when it has not announced itself yet.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn report_role(&self, process: &str, role: &str, report: &RoleReport) -> Result<bool, Error> {
        let arguments = [
            process.into(),
            role.into(),
            Argument::maybe_outside(report.waits_for.as_deref()),
            Argument::maybe_outside(report.degraded.as_deref()),
            Argument::maybe_outside(report.troubles.as_deref()),
        ];
        let report = Statement::with(REPORT, arguments);
        let reported = self.execute(&Operation::AnnounceRole, UNPREPARED, report).await?;
        Ok(reported > 0)
    }

    /// Returns the roles that announced themselves within this time and have not said that they ended, by
    /// role and host; the first 1,000.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn running_roles(&self, within: Duration) -> Result<Vec<RunningRole>, Error> {
        let select = Statement::with(SELECT_RUNNING, [(within.as_millis() as u64).into()]);
        self.fetch(&Operation::ListRoles, select, read_running).await
    }
}
