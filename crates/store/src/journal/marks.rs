//! Marks in the journal, which show whether the recorders have written everything that its queue held.
//!
//! An audit publishes a batch without records under a worker name of its own. A recorder writes it like any
//! other batch, after all batches that were published before it.

use std::collections::BTreeMap;

use super::batches;
use crate::{
    Error, Operation, Store,
    columns::Columns,
    statement::{Argument, Statement, UNPREPARED},
};

/// The prefix of a mark's name. No worker's name begins with it.
pub const MARK_PREFIX: &str = "audit-";

const COUNT: &str = "SELECT COUNT(*) AS marks FROM batches WHERE worker = $1";

/// Deletes this mark, and old marks that an interrupted audit did not delete.
const FORGET: &str =
    "DELETE FROM batches WHERE worker = $1 OR (worker >= 'audit-' AND worker < 'audit.' AND until_ms < $2)";

/// How long a mark is kept that its audit did not delete, in milliseconds.
const KEPT_MS: u64 = 3_600_000;

impl Store {
    /// Returns whether a recorder has written the mark.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn is_marked(&self, mark: &str) -> Result<bool, Error> {
        let select = Statement::with(COUNT, [Argument::id(mark)]);
        let read = |row: &dyn Columns| row.number::<u64>("marks");
        let counts = self.fetch(&Operation::AUDIT, select, read).await?;
        Ok(counts.first().is_some_and(|count| *count > 0))
    }

    /// Returns how many batches each worker has announced as confirmed by the broker or dropped.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn batches_made(&self) -> Result<BTreeMap<String, u64>, Error> {
        let select = batches::select_made();
        let made = self.fetch(&Operation::AUDIT, select, batches::read_made).await?;
        Ok(made.into_iter().collect())
    }

    /// Deletes the mark, and all marks that are older than an hour.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn forget_mark(&self, mark: &str, now_ms: u64) -> Result<(), Error> {
        let before_ms = now_ms.saturating_sub(KEPT_MS);
        let delete = Statement::with(FORGET, [Argument::id(mark), before_ms.into()]);
        self.execute(&Operation::AUDIT, UNPREPARED, delete).await?;
        Ok(())
    }
}
