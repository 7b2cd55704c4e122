//! Queries for rejected messages, which could not be processed and were quarantined.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{
    Error, Operation, Store,
    columns::Columns,
    statement::{Argument, Statement, UNPREPARED},
};

/// A message that was quarantined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// `rej_` and 32 hexadecimal digits; see [`RejectedRow::id_of`].
    pub id: String,
    /// When the message was rejected, in Unix milliseconds.
    pub rejected_ms: u64,
    /// The queue that the message came from: `events`, `due`, `journal` or `dead`.
    pub source: String,
    /// The reason in one word.
    pub reason: String,
    /// The reason in a sentence.
    pub detail: String,
    /// The AMQP property `message_id`; `None` if the message has none.
    pub message_id: Option<String>,
    /// The AMQP property `type`; `None` if the message has none.
    pub event_type: Option<String>,
    /// The message's headers as a JSON object.
    pub headers: String,
    /// The message's body.
    pub body: Bytes,
    /// When the message was sent back to the queue that it came from, in Unix milliseconds; `None` if it was
    /// not. [`Store::record`] ignores this field.
    pub redriven_ms: Option<u64>,
}

/// A position in a listing of rejected messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedCursor {
    /// When the message was rejected, in Unix milliseconds.
    pub rejected_ms: u64,
    /// The message's id, to order messages rejected in the same millisecond.
    pub id: String,
}

impl From<&RejectedRow> for RejectedCursor {
    fn from(rejected: &RejectedRow) -> Self {
        Self {
            rejected_ms: rejected.rejected_ms,
            id: rejected.id.clone(),
        }
    }
}

impl RejectedRow {
    /// Returns the id of a rejected message. It is the same each time the message is read from its queue, and
    /// differs if the message was redriven and rejected again. The id contains the first 128 bits of a
    /// SHA-256 over the parts, each preceded by its length.
    pub fn id_of(
        rejected_ms: u64,
        source: &str,
        message_id: Option<&str>,
        headers: &str,
        body: &[u8],
    ) -> String {
        let mut hash = Sha256::new();
        hash.update(rejected_ms.to_be_bytes());
        let message_id = message_id.unwrap_or_default();
        for part in [source.as_bytes(), message_id.as_bytes(), headers.as_bytes(), body] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        format!("rej_{}", hex::encode(&hash.finalize()[..16]))
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, rejected_ms, source, reason, detail, message_id, event_type, headers, body, redriven_ms \
             FROM rejected r WHERE ",
            $rest
        )
    };
}

const COUNT_BY_REASON: &str = "SELECT reason, COUNT(*) AS messages FROM rejected WHERE rejected_ms >= $1 AND rejected_ms < $2 \
     AND redriven_ms IS NULL GROUP BY reason ORDER BY COUNT(*) DESC, reason";
const MARK_REDRIVEN: &str = "UPDATE rejected SET redriven_ms = $2 WHERE id = $1 AND redriven_ms IS NULL";

impl Store {
    /// Returns at most `limit` messages before `before`, newest first, that were rejected at `since_ms` or
    /// later and before `until_ms`. `redriven` selects the messages that were redriven, those that were not,
    /// or, if it is `None`, all of them.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn rejected_messages(
        &self,
        since_ms: Option<u64>,
        until_ms: Option<u64>,
        redriven: Option<bool>,
        before: Option<&RejectedCursor>,
        limit: u32,
    ) -> Result<Vec<RejectedRow>, Error> {
        let mut select = Statement::new(select!("1 = 1"));
        if let Some(since_ms) = since_ms {
            select.push_with(" AND r.rejected_ms >= ", since_ms.into());
        }
        if let Some(until_ms) = until_ms {
            select.push_with(" AND r.rejected_ms < ", until_ms.into());
        }
        match redriven {
            None => {}
            Some(true) => select.push(" AND r.redriven_ms IS NOT NULL"),
            Some(false) => select.push(" AND r.redriven_ms IS NULL"),
        }
        if let Some(before) = before {
            let before = [before.rejected_ms.into(), Argument::id(&before.id)];
            select.push_list(" AND (r.rejected_ms, r.id) < ", before);
        }
        select.push_with(" ORDER BY r.rejected_ms DESC, r.id DESC LIMIT ", limit.into());
        self.fetch_from_journal(&Operation::LIST_REJECTED, select, read)
            .await
    }

    /// Returns for each reason how many messages were rejected at `since_ms` or later and before `until_ms`
    /// and have not been redriven, most frequent reason first.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn count_rejected(&self, since_ms: u64, until_ms: u64) -> Result<Vec<(String, u64)>, Error> {
        let select = Statement::with(COUNT_BY_REASON, [since_ms.into(), until_ms.into()]);
        self.fetch_from_journal(&Operation::LIST_REJECTED, select, |row| {
            Ok((row.text("reason")?, row.number("messages")?))
        })
        .await
    }

    /// Returns one rejected message, or `None` if it is unknown.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn rejected_message(&self, id: &str) -> Result<Option<RejectedRow>, Error> {
        let select = Statement::with(select!("r.id = $1"), [Argument::id(id)]);
        let operation = Operation::on("read rejected message", id);
        Ok(self
            .fetch_from_journal(&operation, select, read)
            .await?
            .into_iter()
            .next())
    }

    /// Notes that the message was sent back to its queue. Returns `false` if that was noted before or the
    /// message is unknown.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn mark_redriven(&self, id: &str, now_ms: u64) -> Result<bool, Error> {
        let update = Statement::with(MARK_REDRIVEN, [Argument::id(id), now_ms.into()]);
        let marked = self
            .execute(
                &Operation::on("record the redrive of rejected message", id),
                UNPREPARED,
                update,
            )
            .await?;
        Ok(marked > 0)
    }
}

fn read(row: &dyn Columns) -> Result<RejectedRow, sqlx::Error> {
    Ok(RejectedRow {
        id: row.text("id")?,
        rejected_ms: row.number("rejected_ms")?,
        source: row.text("source")?,
        reason: row.text("reason")?,
        detail: row.text("detail")?,
        message_id: row.maybe_text("message_id")?,
        event_type: row.maybe_text("event_type")?,
        headers: row.text("headers")?,
        body: row.bytes("body")?.into(),
        redriven_ms: row.maybe_number("redriven_ms")?,
    })
}
