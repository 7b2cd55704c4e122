//! Batches of the journal and dead letters that recorders could not store as records, and keep among the
//! rejected messages.

use crate::{columns::Columns, statement::Statement};

/// The reason for records that the database refused. Each such message contains one record of the journal, or
/// is one dead letter.
const UNRECORDABLE: &str = "unrecordable";

/// Batches of the journal, or dead letters, that were set aside for one reason and have not been redriven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// `journal` or `dead`.
    pub source: String,
    /// The reason in one word.
    pub reason: String,
    /// The number of messages.
    pub messages: u64,
    /// When the first of them was set aside, in Unix milliseconds.
    pub from_ms: u64,
    /// When the last of them was set aside, in Unix milliseconds.
    pub until_ms: u64,
}

impl SetAside {
    /// Returns the number of records or dead letters in the messages; `None` if no recorder could read them.
    pub fn records(&self) -> Option<u64> {
        (self.reason == UNRECORDABLE || self.source == "dead").then_some(self.messages)
    }
}

const SELECT: &str = "SELECT source, reason, COUNT(*) AS messages, MIN(rejected_ms) AS from_ms, MAX(rejected_ms) AS until_ms \
    FROM rejected WHERE rejected_ms >= $1 AND rejected_ms < $2 AND redriven_ms IS NULL AND source IN ('journal', 'dead') \
    GROUP BY source, reason ORDER BY source, reason LIMIT 100";

pub(super) fn select(since_ms: u64, until_ms: u64) -> Statement<'static> {
    Statement::with(SELECT, [since_ms.into(), until_ms.into()])
}

/// Selects when messages were set aside, grouped by ten minutes, so that these periods do not explain what is
/// missing between them.
const SELECT_SPANS: &str = "SELECT MIN(rejected_ms) AS from_ms, MAX(rejected_ms) AS until_ms FROM rejected \
    WHERE rejected_ms >= $1 AND rejected_ms < $2 AND redriven_ms IS NULL AND source IN ('journal', 'dead') \
    GROUP BY rejected_ms / 600000 ORDER BY from_ms LIMIT 10000";

pub(super) fn select_spans(since_ms: u64, until_ms: u64) -> Statement<'static> {
    Statement::with(SELECT_SPANS, [since_ms.into(), until_ms.into()])
}

pub(super) fn read_span(row: &dyn Columns) -> Result<(u64, u64), sqlx::Error> {
    Ok((row.number("from_ms")?, row.number("until_ms")?))
}

pub(super) fn read(row: &dyn Columns) -> Result<SetAside, sqlx::Error> {
    Ok(SetAside {
        source: row.text("source")?,
        reason: row.text("reason")?,
        messages: row.number("messages")?,
        from_ms: row.number("from_ms")?,
        until_ms: row.number("until_ms")?,
    })
}
