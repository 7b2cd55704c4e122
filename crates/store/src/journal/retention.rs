//! Deletes expired rows, one slice of time after the other.

use sqlx::Connection as _;
use webhook::AttemptId;

use super::{batches, totals};
use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store,
    database::on_connection,
    endpoint::history,
    statement::{Argument, Statement, bind_all},
};

/// The result of one call of [`Store::delete_expired`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The number of deleted rows.
    pub rows: u64,
    /// The end of the deleted slice, in Unix milliseconds: expired rows older than this are deleted.
    pub until_ms: u64,
}

/// The statements for one table and one of its columns: where a slice ends, and how it is deleted. The bounds
/// are ids for attempts, and times for the other tables.
struct Table {
    find_end: &'static str,
    delete: &'static str,
    bound: fn(u64) -> Argument<'static>,
}

/// A [`Table`] whose rows are deleted by the column of times `$at`, if they also meet the conditions.
macro_rules! by_time {
    ($table:literal, $at:literal $(, $conditions:literal)?) => {
        Table {
            find_end: concat!(
                "SELECT ", $at, " AS at_ms FROM ", $table, " WHERE ", $at, " >= $1 AND ", $at, " < $2 ",
                "ORDER BY ", $at, " LIMIT 1 OFFSET $3",
            ),
            delete: concat!("DELETE FROM ", $table, " WHERE ", $at, " >= $1 AND ", $at, " < $2" $(, $conditions)?),
            bound: |at_ms| at_ms.into(),
        }
    };
}

/// The tables in the order of deletion. Events come after deliveries, because an event stays as long as any
/// of its deliveries, even if that is a recent resend. The deliveries are counted instead of joined: with a
/// join PostgreSQL may choose to read all deliveries for each slice.
const TABLES: [Table; 7] = [
    Table {
        find_end: "SELECT began_ms AS at_ms FROM attempts WHERE id >= $1 AND id < $2 ORDER BY id LIMIT 1 OFFSET $3",
        delete: "DELETE FROM attempts WHERE id >= $1 AND id < $2",
        bound: |at_ms| AttemptId::first_at(at_ms).as_str().to_owned().into(),
    },
    by_time!("deliveries", "created_ms", " AND state <> 0"),
    by_time!(
        "events",
        "received_ms",
        " AND 0 = (SELECT COUNT(*) FROM deliveries d \
            WHERE d.event_id = events.id AND d.organization_id = events.organization_id)"
    ),
    by_time!("rejected", "rejected_ms"),
    by_time!("gaps", "until_ms"),
    by_time!("api_keys", "revoked_at_ms"),
    by_time!("api_keys", "expires_at_ms"),
];

/// Finds the end of a slice of deleted endpoints. Their rows are removed last, after the deliveries of the
/// slice: a row stays as long as the journal has a delivery to its endpoint.
const FIND_END_OF_DELETED: &str = "SELECT deleted_at_ms AS at_ms FROM endpoints WHERE deleted_at_ms >= $1 AND deleted_at_ms < $2 \
    ORDER BY deleted_at_ms LIMIT 1 OFFSET $3";

const REMOVE_DELETED: &str = "DELETE FROM endpoints WHERE deleted_at_ms >= $1 AND deleted_at_ms < $2 \
    AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.endpoint_id = endpoints.id) RETURNING version";

/// Raises the lowest complete version. A reader that has seen less may have missed one of these deletions.
const RAISE_LOW_VERSION: &str = "UPDATE registry SET low_version = $1 WHERE id = 1 AND low_version < $1";

impl Store {
    /// Deletes the attempts, deliveries, events, rejected messages and gaps from `from_ms` until before
    /// `before_ms`, the API keys that were revoked or have expired in that time, and the rows of endpoints
    /// that were deleted in that time and have no delivery in the journal.
    ///
    /// One call deletes only the first slice of that time, in which no table has more than `chunk` rows, not
    /// counting those of the slice's last millisecond. Each table is deleted in a transaction of its own, so
    /// that recorders never wait long. Call it again from [`until_ms`](Expired::until_ms) on until that is
    /// `before_ms`; the deleted slices are not read again.
    ///
    /// Pending deliveries stay, however old they are, and so do the events of all deliveries that stay.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails; the tables that were processed before the error stay
    /// deleted.
    pub async fn delete_expired(&self, from_ms: u64, before_ms: u64, chunk: u32) -> Result<Expired, Error> {
        let mut until_ms = before_ms;
        let journal = TABLES.iter().map(|table| (table.find_end, table.bound));
        let deleted: fn(u64) -> Argument<'static> = |at_ms| at_ms.into();
        for (find_end, bound) in journal.chain([(FIND_END_OF_DELETED, deleted)]) {
            let arguments = [bound(from_ms), bound(until_ms), chunk.saturating_sub(1).into()];
            let found = Statement::with(find_end, arguments);
            for end_ms in self
                .fetch(&Operation::DELETE_EXPIRED, found, |row| {
                    row.number::<u64>("at_ms")
                })
                .await?
            {
                until_ms = until_ms.min(end_ms + 1);
            }
        }
        let expire = Statement::with(totals::EXPIRE, [until_ms.into()]);
        self.execute(
            &Operation::DELETE_EXPIRED,
            |dialect| dialect.prepare_deletions,
            expire,
        )
        .await?;
        let mut rows = 0;
        for Table { delete, bound, .. } in &TABLES {
            let delete = Statement::with(delete, [bound(from_ms), bound(until_ms)]);
            let operation = Operation::DELETE_EXPIRED;
            rows += self
                .execute(&operation, |dialect| dialect.prepare_deletions, delete)
                .await?;
        }
        if until_ms == before_ms {
            for expire in [history::EXPIRE, batches::EXPIRE] {
                let expire = Statement::with(expire, [before_ms.into()]);
                self.execute(
                    &Operation::DELETE_EXPIRED,
                    |dialect| dialect.prepare_deletions,
                    expire,
                )
                .await?;
            }
        }
        rows += self.remove_deleted(from_ms, until_ms).await?;
        Ok(Expired { rows, until_ms })
    }

    /// Removes the rows of endpoints that were deleted in this time, and returns their number.
    async fn remove_deleted(&self, from_ms: u64, until_ms: u64) -> Result<u64, Error> {
        let arguments: [Argument<'_>; 2] = [from_ms.into(), until_ms.into()];
        on_connection!(
            &self.database,
            writer,
            &Operation::DELETE_EXPIRED,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                let versions: Vec<i64> = bind_all!(sqlx::query_scalar(REMOVE_DELETED), &arguments)
                    .fetch_all(&mut *tx)
                    .await?;
                if let Some(newest) = versions.iter().max() {
                    sqlx::query(RAISE_LOW_VERSION)
                        .bind(*newest)
                        .execute(&mut *tx)
                        .await?;
                    sqlx::query(history::FORGET_REMOVED).execute(&mut *tx).await?;
                }
                tx.commit().await?;
                Ok(versions.len() as u64)
            }
        )
    }
}
