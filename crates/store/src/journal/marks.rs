//! Marks in the journal: whether the recorders have written all that its queue held.
//!
//! An audit publishes a batch without records under a name of its own. A recorder writes it like any other,
//! behind all that came before.

use std::collections::BTreeMap;

use super::batches;
use crate::{
    Error, Operation, Store,
    statement::{Argument, Statement, UNPREPARED},
};

/// How the name of a mark begins. No worker has one like it.
pub const MARK_PREFIX: &str = "audit-";

const COUNT: &str = "SELECT COUNT(*) AS marks FROM batches WHERE worker = $1";

/// This one, and what an audit left behind that did not live to see its own.
const FORGET: &str =
    "DELETE FROM batches WHERE worker = $1 OR (worker >= 'audit-' AND worker < 'audit.' AND until_ms < $2)";

/// How long a mark is kept whose audit did not delete it, in milliseconds.
const KEPT_MS: u64 = 3_600_000;

impl Store {
    /// Whether a recorder has written the mark.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn is_marked(&self, mark: &str) -> Result<bool, Error> {
        let select = Statement::with(COUNT, [Argument::id(mark)]);
        let counts = self.fetch(&Operation::Audit, select, |row| row.number::<u64>("marks"));
        Ok(counts.await?.first().is_some_and(|count| *count > 0))
    }

    /// How many batches each worker said last that the broker had taken, or that it had dropped.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn batches_made(&self) -> Result<BTreeMap<String, u64>, Error> {
        let made = self.fetch(&Operation::Audit, batches::select_made(), batches::read_made);
        Ok(made.await?.into_iter().collect())
    }

    /// Deletes the mark, and those that are older than an hour.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn forget_mark(&self, mark: &str, now_ms: u64) -> Result<(), Error> {
        let before_ms = now_ms.saturating_sub(KEPT_MS);
        let delete = Statement::with(FORGET, [Argument::id(mark), before_ms.into()]);
        self.execute(&Operation::Audit, UNPREPARED, delete).await?;
        Ok(())
    }
}
