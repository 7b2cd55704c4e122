//! What is too old goes, in chunks.

use webhook::AttemptId;

use crate::{Error, Operation, Store, statement::Statement};

const DELETE_ATTEMPTS: &str =
    "DELETE FROM attempts WHERE id IN (SELECT id FROM attempts WHERE id < $1 ORDER BY id LIMIT $2)";

const DELETE_DELIVERIES: &str = "DELETE FROM deliveries WHERE id IN \
    (SELECT id FROM deliveries WHERE created_ms < $1 AND state <> 0 ORDER BY created_ms, id LIMIT $2)";

/// The last: an event stays as long as one of its deliveries does, and be it a resend of yesterday.
const DELETE_EVENTS: &str = "DELETE FROM events WHERE (id, organization_id) IN \
    (SELECT e.id, e.organization_id FROM events e WHERE e.received_ms < $1 AND NOT EXISTS (SELECT 1 FROM deliveries d \
    WHERE d.event_id = e.id AND d.organization_id = e.organization_id) ORDER BY e.received_ms, e.id LIMIT $2)";

const DELETE_REJECTED: &str = "DELETE FROM rejected WHERE id IN \
    (SELECT id FROM rejected WHERE rejected_ms < $1 ORDER BY rejected_ms, id LIMIT $2)";

const DELETE_GAPS: &str = "DELETE FROM gaps WHERE (worker, from_ms) IN \
    (SELECT worker, from_ms FROM gaps WHERE until_ms < $1 ORDER BY worker, from_ms LIMIT $2)";

impl Store {
    /// Deletes at most `chunk` each of the attempts, deliveries, events, rejected messages and gaps that are older than
    /// `before_ms`, and returns how many there were. Each table is a transaction of its own, so that recorders wait for none
    /// for long: repeat it until it returns 0.
    ///
    /// Pending deliveries stay, however old, and so do the events of all deliveries that stay.
    ///
    /// # Errors
    ///
    /// Only the database's; what was deleted before is gone.
    pub async fn delete_expired(&self, before_ms: u64, chunk: u32) -> Result<u64, Error> {
        let first_kept = AttemptId::first_at(before_ms);
        let attempts = Statement::with(DELETE_ATTEMPTS, [first_kept.as_str().into(), chunk.into()]);
        let mut deleted = self.execute(&Operation::DeleteExpired, attempts).await?;
        for sql in [DELETE_DELIVERIES, DELETE_EVENTS, DELETE_REJECTED, DELETE_GAPS] {
            let delete = Statement::with(sql, [before_ms.into(), chunk.into()]);
            deleted += self.execute(&Operation::DeleteExpired, delete).await?;
        }
        Ok(deleted)
    }
}
