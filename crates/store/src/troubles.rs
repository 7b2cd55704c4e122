//! The running roles and their reports.

use std::time::Duration;

use crate::{
    ANNOUNCED_MAX, Error, Operation, Store,
    columns::Columns,
    statement::{Argument, Statement, UNPREPARED},
};

/// A role that has announced itself and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningRole {
    /// The name of the process: random, generated when the process started.
    pub process: String,
    /// `worker`, `recorder` or `api`.
    pub role: String,
    /// The host on which the role runs.
    pub host: String,
    /// The time since its last announcement, in milliseconds by the database's clock; negative if the clock
    /// at the announcement was ahead. With SQLite that clock is each host's own.
    pub unseen_ms: i64,
    /// The role's last report.
    pub report: RoleReport,
}

/// A report of a role about itself. A field is `None` while there is nothing to report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleReport {
    /// Why the role cannot do its main job.
    pub waits_for: Option<String>,
    /// What the role currently works without.
    pub degraded: Option<String>,
    /// The problems that its process has noticed: a JSON array of objects with the text fields `kind`,
    /// `subject` and `detail`.
    pub troubles: Option<String>,
}

impl RunningRole {
    /// Returns whether the role has announced itself within the last three seconds.
    pub fn is_heard(&self) -> bool {
        self.unseen() <= ANNOUNCED_MAX
    }

    /// Returns the time since the role's last announcement; zero if the clock at the announcement was ahead.
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
    /// Stores a role's report about itself. Returns `false` if the role has not announced itself yet.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn report_role(&self, process: &str, role: &str, report: &RoleReport) -> Result<bool, Error> {
        let arguments = [
            process.into(),
            role.into(),
            Argument::maybe_outside(report.waits_for.as_deref()),
            Argument::maybe_outside(report.degraded.as_deref()),
            Argument::maybe_outside(report.troubles.as_deref()),
        ];
        let report = Statement::with(REPORT, arguments);
        let reported = self
            .execute(&Operation::new("store the report of a role"), UNPREPARED, report)
            .await?;
        Ok(reported > 0)
    }

    /// Returns the roles that announced themselves within this time and have not ended, ordered by role and
    /// host; at most 1,000.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn running_roles(&self, within: Duration) -> Result<Vec<RunningRole>, Error> {
        let select = Statement::with(SELECT_RUNNING, [(within.as_millis() as u64).into()]);
        self.fetch(&Operation::new("list the running roles"), select, read_running)
            .await
    }
}
