//! What is too old goes, one slice of time after the other.

use webhook::AttemptId;

use super::history;
use crate::{
    Error, Operation, Store,
    statement::{Argument, Statement},
};

/// What a call has deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// How many rows.
    pub rows: u64,
    /// What is older than this is gone, in Unix milliseconds.
    pub until_ms: u64,
}

/// Where a slice ends, and how it is deleted. The bounds are ids of attempts, times elsewhere.
struct Table {
    find_end: &'static str,
    delete: &'static str,
    bound: fn(u64) -> Argument<'static>,
}

/// Events come after deliveries: one stays as long as one of its deliveries does, and be it a resend of yesterday. They are counted,
/// not joined: what is joined PostgreSQL may take for a reason to read all deliveries for each slice.
const TABLES: [Table; 5] = [
    Table {
        find_end: "SELECT began_ms AS at_ms FROM attempts WHERE id >= $1 AND id < $2 ORDER BY id LIMIT 1 OFFSET $3",
        delete: "DELETE FROM attempts WHERE id >= $1 AND id < $2",
        bound: |at_ms| AttemptId::first_at(at_ms).as_str().to_owned().into(),
    },
    Table {
        find_end: "SELECT created_ms AS at_ms FROM deliveries WHERE created_ms >= $1 AND created_ms < $2 \
            ORDER BY created_ms LIMIT 1 OFFSET $3",
        delete: "DELETE FROM deliveries WHERE created_ms >= $1 AND created_ms < $2 AND state <> 0",
        bound: |at_ms| at_ms.into(),
    },
    Table {
        find_end: "SELECT received_ms AS at_ms FROM events WHERE received_ms >= $1 AND received_ms < $2 \
            ORDER BY received_ms LIMIT 1 OFFSET $3",
        delete: "DELETE FROM events WHERE received_ms >= $1 AND received_ms < $2 AND 0 = (SELECT COUNT(*) FROM deliveries d \
            WHERE d.event_id = events.id AND d.organization_id = events.organization_id)",
        bound: |at_ms| at_ms.into(),
    },
    Table {
        find_end: "SELECT rejected_ms AS at_ms FROM rejected WHERE rejected_ms >= $1 AND rejected_ms < $2 \
            ORDER BY rejected_ms LIMIT 1 OFFSET $3",
        delete: "DELETE FROM rejected WHERE rejected_ms >= $1 AND rejected_ms < $2",
        bound: |at_ms| at_ms.into(),
    },
    Table {
        find_end: "SELECT until_ms AS at_ms FROM gaps WHERE until_ms >= $1 AND until_ms < $2 \
            ORDER BY until_ms LIMIT 1 OFFSET $3",
        delete: "DELETE FROM gaps WHERE until_ms >= $1 AND until_ms < $2",
        bound: |at_ms| at_ms.into(),
    },
];

impl Store {
    /// Deletes the attempts, deliveries, events, rejected messages and gaps from `from_ms` on that are older than `before_ms`, but only
    /// the first slice of that time, in which no table has more than `chunk` rows, not counting those of its last millisecond.
    /// Each table is a transaction of its own, so that recorders wait for none for long: go on from
    /// [`until_ms`](Expired::until_ms) until it is `before_ms`. What is deleted already is not looked at again.
    ///
    /// Pending deliveries stay, however old, and so do the events of all deliveries that stay.
    ///
    /// # Errors
    ///
    /// Only the database's; what was deleted before is gone.
    pub async fn delete_expired(&self, from_ms: u64, before_ms: u64, chunk: u32) -> Result<Expired, Error> {
        let mut until_ms = before_ms;
        for Table { find_end, bound, .. } in &TABLES {
            let arguments = [bound(from_ms), bound(until_ms), chunk.saturating_sub(1).into()];
            let found = Statement::with(find_end, arguments);
            for end_ms in self
                .fetch(&Operation::DeleteExpired, found, |row| row.number::<u64>("at_ms"))
                .await?
            {
                until_ms = until_ms.min(end_ms + 1);
            }
        }
        let mut rows = 0;
        for Table { delete, bound, .. } in &TABLES {
            let delete = Statement::with(delete, [bound(from_ms), bound(until_ms)]);
            let operation = Operation::DeleteExpired;
            rows += self
                .execute(&operation, |dialect| dialect.prepare_deletions, delete)
                .await?;
        }
        if until_ms == before_ms {
            let expire = Statement::with(history::EXPIRE, [before_ms.into()]);
            let prepared = self.execute(
                &Operation::DeleteExpired,
                |dialect| dialect.prepare_deletions,
                expire,
            );
            prepared.await?;
        }
        Ok(Expired { rows, until_ms })
    }
}
