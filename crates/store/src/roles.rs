//! The roles that run, as they announce themselves, and which version of the registry each worker acts on.
//!
//! All times are the database's: a host's own clock is only compared with it, to tell whether its records can
//! be trusted. An announcement is believed for [`ANNOUNCED_MAX`]; a running role announces itself once a
//! second.

use std::time::Duration;

use crate::{
    Error, Operation, Position, Store,
    columns::Columns,
    statement::{Argument, Statement},
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
    /// Every attempt that begins from now on begins with this or something later; the default for roles that
    /// make none.
    pub position: Position,
    /// What became of its journal; the default for roles that keep none.
    pub journal: JournalTotals,
    /// How many deliveries it has in hand that were recorded as pending; 0 for roles that deliver none.
    pub in_hand: u64,
    /// Now by its host's clock, in Unix milliseconds: the journal has times of that clock.
    pub now_ms: u64,
}

/// What became of the journal of a worker's run, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalTotals {
    /// Since when it drops records instead of recording them, if it does.
    pub dropping: Option<Dropping>,
    /// The number of the last batch that was confirmed or dropped.
    pub batches_made: u64,
    /// How many batches were dropped.
    pub batches_dropped: u64,
    /// How many records were confirmed or dropped.
    pub records_made: u64,
    /// How many records were dropped.
    pub records_dropped: u64,
}

/// A worker drops records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropping {
    /// For how long it has.
    pub lasted: Duration,
    /// The number of the first batch that it dropped.
    pub batch: u64,
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

/// A schedule has fewer, and within 30 days there are few schedules.
const SELECT_DELAYS: &str = "SELECT delay_ms FROM delays ORDER BY used_ms DESC, delay_ms LIMIT 200";

/// A worker is behind when its version is an older one, or one of another history: the log of changes does
/// not have what it saw last.
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
        self.write_roles(ANNOUNCE, arguments).await
    }

    /// Says that the role has ended: nothing is expected of it any more.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn close_role(&self, process: &str, role: &str) -> Result<(), Error> {
        self.write_roles(CLOSE, [process.into(), role.into()]).await
    }

    /// Forgets roles that have not announced themselves for 30 days, and delays that no worker began with
    /// since.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn forget_old_roles(&self) -> Result<(), Error> {
        let remembered_ms = REMEMBERED.as_millis() as u64;
        self.write_roles(FORGET, [remembered_ms.into()]).await?;
        self.write_roles(FORGET_DELAYS, [remembered_ms.into()]).await
    }

    /// Remembers that a worker begins with a schedule of these delays, for 30 days.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn remember_delays(&self, delays: &[Duration]) -> Result<(), Error> {
        for delay in delays {
            let delay_ms = delay.as_millis() as u64;
            self.write_roles(REMEMBER_DELAY, [delay_ms.into()]).await?;
        }
        Ok(())
    }

    /// The delays of all schedules that workers began with in the last 30 days; of more than 200 the latest.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn delays(&self) -> Result<Vec<Duration>, Error> {
        let select = Statement::new(SELECT_DELAYS);
        self.fetch(&Operation::Audit, select, |row| {
            Ok(Duration::from_millis(row.number("delay_ms")?))
        })
        .await
    }

    /// Workers that were not closed and are not known to act on this position, or a later one.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn workers_behind(&self, position: &Position) -> Result<Vec<WorkerBehind>, Error> {
        let select = Statement::with(SELECT_BEHIND, [position.version.into()]);
        self.fetch(&Operation::FindWorkersBehind, select, read_behind)
            .await
    }

    /// Not synchronously where that takes time: what a crash takes back is announced again within a second.
    async fn write_roles<'a>(
        &self,
        sql: &'static str,
        arguments: impl IntoIterator<Item = Argument<'a>>,
    ) -> Result<(), Error> {
        let write = Statement::with(sql, arguments);
        self.execute(
            &Operation::AnnounceRole,
            |dialect| dialect.prepare_deletions,
            write,
        )
        .await?;
        Ok(())
    }
}

fn read_behind(row: &dyn Columns) -> Result<WorkerBehind, sqlx::Error> {
    Ok(WorkerBehind {
        process: row.text("process")?,
        host: row.text("host")?,
        // A clock that was set back makes it negative, until the next announcement.
        unseen: Duration::from_millis(row.integer("unseen_ms")?.try_into().unwrap_or_default()),
    })
}
