//! The running roles, as they announce themselves, and the version of the registry that each worker uses.
//!
//! All times are by the database's clock. A host's own clock is only compared with it, to decide whether the
//! records of that host can be trusted. An announcement is valid for [`ANNOUNCED_MAX`]; a running role
//! announces itself once a second.

use std::time::Duration;

use crate::{
    Error, Operation, Position, Store,
    columns::Columns,
    statement::{Argument, Statement},
};

/// How long an announcement is valid.
pub const ANNOUNCED_MAX: Duration = Duration::from_secs(3);

/// How long a role that no longer announces itself stays in the table.
const REMEMBERED: Duration = Duration::from_hours(30 * 24);

/// An announcement of a role.
#[derive(Clone, Copy, Debug)]
pub struct Announcement<'a> {
    /// The name of the process: random, generated when the process starts. It is also a worker's name.
    pub process: &'a str,
    /// `worker`, `recorder` or `api`.
    pub role: &'a str,
    /// The host on which the role runs.
    pub host: &'a str,
    /// A position of the registry: every attempt that begins from now on uses this position or a later one.
    /// The default for roles that make no attempts.
    pub position: Position,
    /// The totals of the role's journal; the default for roles without one.
    pub journal: JournalTotals,
    /// The number of deliveries that the role has in hand and that were recorded as pending; 0 for roles that
    /// deliver none.
    pub in_hand: u64,
    /// The current time by the host's clock, in Unix milliseconds. The journal contains times of that clock.
    pub now_ms: u64,
}

/// The totals of a worker's journal since its process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalTotals {
    /// The state of dropping records; `None` while the worker records them.
    pub dropping: Option<Dropping>,
    /// The number of the last batch that was confirmed or dropped.
    pub batches_made: u64,
    /// The number of batches that were dropped.
    pub batches_dropped: u64,
    /// The number of records that were confirmed or dropped.
    pub records_made: u64,
    /// The number of records that were dropped.
    pub records_dropped: u64,
}

/// The state of a worker that drops records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropping {
    /// How long the worker has been dropping records.
    pub lasted: Duration,
    /// The number of the first batch that it dropped.
    pub batch: u64,
}

/// A worker that is not known to use a change yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerBehind {
    /// The worker's name, unique among all workers.
    pub process: String,
    /// The host on which it runs.
    pub host: String,
    /// The time since its last announcement.
    pub unseen: Duration,
}

impl WorkerBehind {
    /// Returns whether the last announcement is recent enough to conclude that the worker is running and will
    /// announce itself again.
    pub fn is_heard(&self) -> bool {
        self.unseen <= ANNOUNCED_MAX
    }
}

/// How often a role started and ended on one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restarts {
    /// `worker`, `recorder` or `api`.
    pub role: String,
    /// The host on which the role ran.
    pub host: String,
    /// The number of times that it started and ended.
    pub count: u64,
}

/// `{now}` is the database's clock.
const ANNOUNCE: &str = "INSERT INTO roles (process, role, host, version, change_number, change_stamp, seen_ms, started_ms, \
    dropping_since_ms, dropping_batch, batches_made, batches_dropped, records_made, records_dropped, in_hand, made_ms, ahead_ms) \
    VALUES ($1, $2, $3, $4, $5, $6, {now}, {now}, {now} - CAST($7 AS BIGINT), CAST($8 AS BIGINT), $9, $10, $11, $12, $13, \
    CASE WHEN $9 > 0 THEN {now} END, $14 - {now}) ON CONFLICT (process, role) DO UPDATE SET host = excluded.host, \
    version = excluded.version, change_number = excluded.change_number, change_stamp = excluded.change_stamp, \
    seen_ms = excluded.seen_ms, closed_ms = NULL, dropping_since_ms = excluded.dropping_since_ms, \
    dropping_batch = excluded.dropping_batch, batches_made = excluded.batches_made, \
    batches_dropped = excluded.batches_dropped, records_made = excluded.records_made, \
    records_dropped = excluded.records_dropped, in_hand = excluded.in_hand, ahead_ms = excluded.ahead_ms, \
    made_ms = CASE WHEN excluded.batches_made = roles.batches_made THEN roles.made_ms ELSE excluded.made_ms END";

const CLOSE: &str =
    "UPDATE roles SET closed_ms = {now} WHERE process = $1 AND role = $2 AND closed_ms IS NULL";

const FORGET: &str = "DELETE FROM roles WHERE seen_ms < {now} - $1";

const REMEMBER_DELAY: &str = "INSERT INTO delays (delay_ms, used_ms) VALUES ($1, {now}) \
    ON CONFLICT (delay_ms) DO UPDATE SET used_ms = excluded.used_ms";

const FORGET_DELAYS: &str = "DELETE FROM delays WHERE used_ms < {now} - $1";

/// Selects the most recently used delays. A schedule has fewer than 200, and there are few schedules within
/// 30 days.
const SELECT_DELAYS: &str = "SELECT delay_ms FROM delays ORDER BY used_ms DESC, delay_ms LIMIT 200";

/// Selects the workers that are behind: those whose version is older, or belongs to another history, because
/// the log of changes does not have the change that they saw last.
const SELECT_BEHIND: &str = "SELECT process, host, {now} - seen_ms AS unseen_ms FROM roles r \
    WHERE role = 'worker' AND closed_ms IS NULL AND NOT (version >= $1 AND (change_number = 0 OR EXISTS ( \
    SELECT 1 FROM changes c WHERE c.number = r.change_number AND COALESCE(c.nonce, c.at_ms) = r.change_stamp))) \
    ORDER BY host, process";

/// Counts the roles that started within this time and have ended. A role that was killed has announced no end.
const COUNT_RESTARTS: &str = "SELECT role, host, COUNT(*) AS ended FROM roles \
    WHERE started_ms >= {now} - $1 AND (closed_ms IS NOT NULL OR seen_ms < {now} - $2) \
    GROUP BY role, host ORDER BY ended DESC, role, host LIMIT 100";

impl Store {
    /// Announces that the role runs, and what it works with.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn announce_role(&self, announced: &Announcement<'_>) -> Result<(), Error> {
        let Announcement {
            process,
            role,
            host,
            position,
            journal,
            in_hand,
            now_ms,
        } = *announced;
        let dropping = journal.dropping;
        let arguments = [
            process.into(),
            role.into(),
            Argument::outside(host),
            position.version.into(),
            position.change.into(),
            position.stamp.into(),
            dropping.map(|dropping| dropping.lasted.as_millis() as u64).into(),
            dropping.map(|dropping| dropping.batch).into(),
            journal.batches_made.into(),
            journal.batches_dropped.into(),
            journal.records_made.into(),
            journal.records_dropped.into(),
            in_hand.into(),
            now_ms.into(),
        ];
        self.write_roles(&Operation::new("announce a role"), ANNOUNCE, arguments)
            .await
    }

    /// Announces that the role has ended, so that it is no longer expected to announce itself.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn close_role(&self, process: &str, role: &str) -> Result<(), Error> {
        let operation = Operation::new("announce the end of a role");
        self.write_roles(&operation, CLOSE, [process.into(), role.into()])
            .await
    }

    /// Deletes roles that have not announced themselves for 30 days, and delays that no worker has started
    /// with in that time.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn forget_old_roles(&self) -> Result<(), Error> {
        let remembered_ms = REMEMBERED.as_millis() as u64;
        let operation = Operation::new("delete old roles");
        self.write_roles(&operation, FORGET, [remembered_ms.into()])
            .await?;
        let operation = Operation::new("delete the delays of old retry schedules");
        self.write_roles(&operation, FORGET_DELAYS, [remembered_ms.into()])
            .await
    }

    /// Stores for 30 days that a worker has started with a retry schedule of these delays.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn remember_delays(&self, delays: &[Duration]) -> Result<(), Error> {
        let operation = Operation::new("store the delays of a retry schedule");
        for delay in delays {
            let delay_ms = delay.as_millis() as u64;
            self.write_roles(&operation, REMEMBER_DELAY, [delay_ms.into()])
                .await?;
        }
        Ok(())
    }

    /// Returns the delays of all retry schedules that workers have started with in the last 30 days; if there
    /// are more than 200, the most recently used ones.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn delays(&self) -> Result<Vec<Duration>, Error> {
        let select = Statement::new(SELECT_DELAYS);
        let operation = Operation::new("read the delays of retry schedules");
        self.fetch(&operation, select, |row| {
            Ok(Duration::from_millis(row.number("delay_ms")?))
        })
        .await
    }

    /// Returns the workers that have not ended and are not known to use this position or a later one.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn workers_behind(&self, position: &Position) -> Result<Vec<WorkerBehind>, Error> {
        let select = Statement::with(SELECT_BEHIND, [position.version.into()]);
        self.fetch(
            &Operation::new("find workers that are behind"),
            select,
            read_behind,
        )
        .await
    }

    /// Returns how often each role started and ended on each host within this time; at most 100 roles, those
    /// with the most restarts first. A role has ended if it announced that, or has not announced itself for
    /// the time `unheard`.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn restarts(&self, within: Duration, unheard: Duration) -> Result<Vec<Restarts>, Error> {
        let (within_ms, unheard_ms) = (within.as_millis() as u64, unheard.as_millis() as u64);
        let select = Statement::with(COUNT_RESTARTS, [within_ms.into(), unheard_ms.into()]);
        self.fetch(&Operation::new("count restarts of roles"), select, read_restarts)
            .await
    }

    /// Executes the statement in a transaction that, on PostgreSQL, does not wait for the disk. An
    /// announcement that a crash takes back is repeated within a second.
    async fn write_roles<'a>(
        &self,
        operation: &Operation,
        sql: &'static str,
        arguments: impl IntoIterator<Item = Argument<'a>>,
    ) -> Result<(), Error> {
        let write = Statement::with(sql, arguments);
        self.execute(operation, |dialect| dialect.prepare_deletions, write)
            .await?;
        Ok(())
    }
}

fn read_restarts(row: &dyn Columns) -> Result<Restarts, sqlx::Error> {
    Ok(Restarts {
        role: row.text("role")?,
        host: row.text("host")?,
        count: row.number("ended")?,
    })
}

fn read_behind(row: &dyn Columns) -> Result<WorkerBehind, sqlx::Error> {
    Ok(WorkerBehind {
        process: row.text("process")?,
        host: row.text("host")?,
        // The value is negative until the next announcement if the clock was set back.
        unseen: Duration::from_millis(row.integer("unseen_ms")?.try_into().unwrap_or_default()),
    })
}
