//! Writes books: in one transaction, with rows in the order of their keys, merged with the stored rows.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use sqlx::Connection as _;
use webhook::{
    DeliveryId, Event, FailureKind,
    journal::{AttemptRecord, Books, DeliveryEntry, EventEntry, Gap, Numbers},
};

use super::{
    batches::write_numbers,
    events::{event_columns, read_event},
    rejected::RejectedRow,
    totals::{Added, add_totals},
};
use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store,
    columns::Columns,
    database::on_connection,
    statement::{Argument, Insert, Statement, bind_all, insert_all, stored_id},
};

/// The columns of a [`Standing`](webhook::journal::Standing), in the order in which they are compared.
const STANDING: [&str; 7] = [
    "state",
    "attempts",
    "updated_ms",
    "next_ms",
    "reason",
    "last_status",
    "last_error",
];

static INSERT_EVENTS: LazyLock<Insert<13>> = LazyLock::new(|| {
    let columns = [
        "id",
        "organization_id",
        "project_id",
        "lead_id",
        "event_type",
        "timestamp_ms",
        "received_ms",
        "traceparent",
        "body",
        "considered",
        "matched",
        "mark",
        "seen",
    ];
    Insert::new(
        "events",
        columns,
        "ON CONFLICT (id, organization_id) DO NOTHING RETURNING organization_id, id",
    )
});

static INSERT_DELIVERIES: LazyLock<Insert<16>> = LazyLock::new(|| {
    let columns = [
        "id",
        "organization_id",
        "event_id",
        "endpoint_id",
        "run",
        "trigger",
        "created_ms",
        "mark",
        "recorded",
        STANDING[0],
        STANDING[1],
        STANDING[2],
        STANDING[3],
        STANDING[4],
        STANDING[5],
        STANDING[6],
    ];
    let row = |table: &str| STANDING.map(|column| format!("{table}.{column}")).join(", ");
    let further = format!("({}) > ({})", row("excluded"), row("deliveries"));
    let earlier = "excluded.created_ms < deliveries.created_ms";
    let take = |column: &str, condition: &str| {
        format!("{column} = CASE WHEN {condition} THEN excluded.{column} ELSE deliveries.{column} END")
    };
    let standing = STANDING.map(|column| take(column, &further)).join(", ");
    let created = take("created_ms", earlier);
    let recorded = "deliveries.recorded | excluded.recorded";
    // Without the WHERE clause, recording the same delivery again would rewrite its row.
    let tail = format!(
        "ON CONFLICT (id) DO UPDATE SET {standing}, {created}, recorded = {recorded}, replaced_ms = deliveries.created_ms \
         WHERE {further} OR {earlier} OR ({recorded}) <> deliveries.recorded RETURNING created_ms, replaced_ms"
    );
    Insert::new("deliveries", columns, &tail)
});

static INSERT_ATTEMPTS: LazyLock<Insert<15>> = LazyLock::new(|| {
    let columns = [
        "id",
        "delivery_id",
        "endpoint_id",
        "ok",
        "number",
        "began_ms",
        "duration_ms",
        "status",
        "phase",
        "failure",
        "error",
        "response",
        "outcome",
        "next_ms",
        "reason",
    ];
    Insert::new("attempts", columns, "ON CONFLICT (id) DO NOTHING RETURNING id")
});

static INSERT_REJECTED: LazyLock<Insert<9>> = LazyLock::new(|| {
    let columns = [
        "id",
        "rejected_ms",
        "source",
        "reason",
        "detail",
        "message_id",
        "event_type",
        "headers",
        "body",
    ];
    Insert::new("rejected", columns, "ON CONFLICT (id) DO NOTHING")
});

static INSERT_GAPS: LazyLock<Insert<4>> = LazyLock::new(|| {
    let columns = ["worker", "from_ms", "until_ms", "record_count"];
    let greatest = |column: &str| {
        format!(
            "{column} = CASE WHEN excluded.{column} > gaps.{column} THEN excluded.{column} ELSE gaps.{column} END"
        )
    };
    let (until, count) = (greatest("until_ms"), greatest("record_count"));
    let tail = format!("ON CONFLICT (worker, from_ms) DO UPDATE SET {until}, {count}");
    Insert::new("gaps", columns, &tail)
});

const SELECT_EVENT: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM events WHERE id = $1 AND organization_id = $2"
);

const UPDATE_EVENT: &str = "UPDATE events SET project_id = $3, lead_id = $4, event_type = $5, timestamp_ms = $6, \
    received_ms = $7, traceparent = $8, body = $9, considered = $10, matched = $11, mark = $12, seen = $13 \
    WHERE id = $1 AND organization_id = $2";

/// Inserts rows and evaluates to the values that the statement returns for each row that it wrote. For use
/// inside [`on_connection!`].
macro_rules! insert_returning {
    ($tx:ident, $insert:expr, $rows:expr, $returned:ty) => {{
        let mut returned: Vec<$returned> = Vec::new();
        let mut rows = &$rows[..];
        while let Some((sql, chunk, rest)) = $insert.next(rows) {
            let query = bind_all!(sqlx::query_as(sql), chunk.iter().flatten());
            let written: Vec<$returned> = query.fetch_all(&mut *$tx).await?;
            returned.extend(written);
            rows = rest;
        }
        returned
    }};
}

/// Inserts events and evaluates to the keys of the new ones. For use inside [`on_connection!`].
macro_rules! insert_events {
    ($tx:ident, $rows:expr) => {
        insert_returning!($tx, INSERT_EVENTS, $rows, (String, String))
            .into_iter()
            .collect::<HashSet<_>>()
    };
}

/// Merges an event into its row. For use inside [`on_connection!`].
macro_rules! merge_event {
    ($tx:ident, $dialect:ident, $entry:expr, $added:ident) => {{
        let entry: &EventEntry = $entry;
        let key = [
            Argument::id(entry.event.id.as_str()),
            Argument::id(entry.event.organization_id.as_str()),
        ];
        let mut select = Statement::with(SELECT_EVENT, key);
        select.push($dialect.for_update);
        let query = bind_all!(sqlx::query(select.sql($dialect)), &select.arguments);
        let row = query.fetch_optional(&mut *$tx).await?;
        if let Some((merged, stored)) = row.and_then(|row| merged(&row, entry)) {
            let row = EventRow::new(&merged);
            bind_all!(sqlx::query(UPDATE_EVENT), &row.row())
                .execute(&mut *$tx)
                .await?;
            if let Some((received_ms, matched)) = stored {
                $added.event_gone(received_ms, matched);
                $added.event(merged.received_ms, row.matched);
            }
        }
    }};
}

impl Store {
    /// Writes books and rejected messages, all of them or none. They are merged with the stored rows in the
    /// same way as [`Books`] are merged: in whatever order, how often, and by however many recorders at once
    /// they are written, the tables end up the same.
    ///
    /// U+0000 in texts, which PostgreSQL does not accept, is stored as U+FFFD. An id of more than 255 bytes
    /// is shortened.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails. If two recorders write at the same time, PostgreSQL
    /// can abort one of them because of a deadlock, which also counts as
    /// [unavailable](Error::is_unavailable).
    pub async fn record(&self, books: &Books, rejected: &[RejectedRow]) -> Result<(), Error> {
        let operation = &Operation::new("write to the journal");
        let events: Vec<_> = books.events.values().map(EventRow::new).collect();
        let event_rows: Vec<_> = events.iter().map(EventRow::row).collect();
        let attempt_ids: Vec<_> = books
            .attempts
            .values()
            .map(|attempt| attempt.delivery.id())
            .collect();
        let mut recorded: HashMap<&DeliveryId, i64> = HashMap::with_capacity(attempt_ids.len());
        for (id, attempt) in attempt_ids.iter().zip(books.attempts.values()) {
            *recorded.entry(id).or_default() |= recorded_bit(attempt.number);
        }
        let deliveries = books.deliveries.iter();
        let deliveries: Vec<_> = deliveries
            .map(|(id, entry)| delivery_row(id, entry, recorded.get(id).copied().unwrap_or_default()))
            .collect();
        let attempts = books.attempts.values().zip(&attempt_ids).map(attempt_row);
        let attempts: Vec<_> = attempts.collect();
        let mut rejected: Vec<_> = rejected.iter().collect();
        rejected.sort_by(|one, other| one.id.cmp(&other.id));
        let rejected: Vec<_> = rejected.into_iter().map(rejected_row).collect();
        let gaps: Vec<_> = books.gaps.values().map(gap_row).collect();
        let events = &events;

        on_connection!(
            &self.database,
            writer,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                let mut added = Added::default();
                let new = insert_events!(tx, event_rows);
                for event in events {
                    if new.contains(&event.key()) {
                        added.event(event.entry.received_ms, event.matched);
                    } else {
                        merge_event!(tx, dialect, event.entry, added);
                    }
                }
                for (created_ms, replaced_ms) in
                    insert_returning!(tx, INSERT_DELIVERIES, deliveries, (i64, Option<i64>))
                {
                    added.delivery(unsigned(created_ms), replaced_ms.map(unsigned));
                }
                for (id,) in insert_returning!(tx, INSERT_ATTEMPTS, attempts, (String,)) {
                    added.attempt(&id);
                }
                insert_all!(tx, INSERT_REJECTED, rejected);
                insert_all!(tx, INSERT_GAPS, gaps);
                for (worker, came) in &books.batches {
                    let gaps = write_numbers!(tx, dialect, worker, came);
                    let gaps: Vec<_> = gaps.iter().map(gap_row).collect();
                    insert_all!(tx, INSERT_GAPS, gaps);
                }
                add_totals!(tx, added, self.shard);
                tx.commit().await?;
                Ok(())
            }
        )
    }
}

/// An event in the form of a row to be written.
struct EventRow<'a> {
    entry: &'a EventEntry,
    considered: String,
    seen: String,
    matched: u64,
    mark: u64,
}

impl<'a> EventRow<'a> {
    fn new(entry: &'a EventEntry) -> Self {
        let Event {
            organization_id, id, ..
        } = &*entry.event;
        let matched = entry.considered.matched();
        let marks = matched.map(|endpoint| mark(&DeliveryId::derive(organization_id, id, endpoint, 0)));
        Self {
            entry,
            considered: entry.considered.to_string(),
            seen: entry.seen.map_or_else(String::new, |seen| seen.to_string()),
            matched: entry.considered.matched().count() as u64,
            mark: marks.sum(),
        }
    }

    /// Returns the key as [`INSERT_EVENTS`] returns it.
    fn key(&self) -> (String, String) {
        let event = &self.entry.event;
        let (organization, id) = (event.organization_id.as_str(), event.id.as_str());
        (stored_id(organization).into_owned(), stored_id(id).into_owned())
    }

    fn row(&self) -> [Argument<'_>; 13] {
        let event = &self.entry.event;
        [
            Argument::id(event.id.as_str()),
            Argument::id(event.organization_id.as_str()),
            Argument::id(event.project_id.as_str()),
            Argument::id(event.lead_id.as_str()),
            event.event_type.as_str().into(),
            event.timestamp_ms.into(),
            self.entry.received_ms.into(),
            Argument::maybe_outside(event.traceparent.as_deref()),
            event.body[..].into(),
            Argument::outside(&self.considered),
            self.matched.into(),
            self.mark.into(),
            self.seen.as_str().into(),
        ]
    }
}

/// Converts a time or number of the database.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// Returns the merged event to write over the row, and when the row's event was received and how many
/// endpoints it matched. Returns `None` if the row is to stay unchanged. A row that was edited and can no
/// longer be read must not block the rows after it, so it is overwritten.
fn merged(row: &dyn Columns, entry: &EventEntry) -> Option<(EventEntry, Option<(u64, u64)>)> {
    let Ok(stored) = read_event(row) else {
        return Some((entry.clone(), None));
    };
    let mut merged = stored.clone();
    merged.merge(entry.clone());
    let was = (stored.received_ms, stored.considered.matched().count() as u64);
    (merged != stored).then_some((merged, Some(was)))
}

/// Returns the mark of a delivery: the first 32 bits of the hash in its id.
pub(super) fn mark(id: &DeliveryId) -> u64 {
    let digits = id.as_str().split_once('_').and_then(|(_, hash)| hash.get(..8));
    digits.map_or(0, |digits| u64::from_str_radix(digits, 16).unwrap_or_default())
}

/// Returns the bit of `deliveries.recorded` that stands for an attempt; 0 for an attempt number that has no
/// bit.
fn recorded_bit(number: u32) -> i64 {
    /// With 63 attempts, an audit would compute 2^63, which does not fit into a BIGINT.
    const NUMBERS: std::ops::RangeInclusive<u32> = 1..=62;
    if NUMBERS.contains(&number) {
        1 << (number - 1)
    } else {
        0
    }
}

fn delivery_row<'a>(id: &'a DeliveryId, entry: &'a DeliveryEntry, recorded: i64) -> [Argument<'a>; 16] {
    let DeliveryEntry {
        delivery,
        created_ms,
        standing,
    } = entry;
    [
        Argument::id(id.as_str()),
        Argument::id(delivery.organization_id.as_str()),
        Argument::id(delivery.event_id.as_str()),
        Argument::id(delivery.endpoint_id.as_str()),
        delivery.run.into(),
        delivery.trigger.as_str().into(),
        (*created_ms).into(),
        mark(id).into(),
        recorded.into(),
        standing.state.rank().into(),
        standing.attempts.into(),
        standing.updated_ms.into(),
        standing.next_ms.into(),
        Argument::outside(&standing.reason),
        u32::from(standing.last_status).into(),
        Argument::outside(&standing.last_error),
    ]
}

fn attempt_row<'a>((attempt, delivery_id): (&'a AttemptRecord, &'a DeliveryId)) -> [Argument<'a>; 15] {
    let then = attempt.then;
    [
        Argument::id(attempt.id.as_str()),
        delivery_id.as_str().into(),
        Argument::id(attempt.delivery.endpoint_id.as_str()),
        i64::from(attempt.is_success()).into(),
        attempt.number.into(),
        attempt.began_ms.into(),
        attempt.duration_ms.into(),
        u32::from(attempt.status.unwrap_or_default()).into(),
        attempt
            .phase
            .map_or_else(String::new, |phase| phase.to_string())
            .into(),
        attempt.failure.map_or("", FailureKind::as_str).into(),
        Argument::outside(&attempt.error),
        attempt.response[..].into(),
        then.kind().as_str().into(),
        then.next_ms().unwrap_or_default().into(),
        then.reason().unwrap_or_default().into(),
    ]
}

fn rejected_row(rejected: &RejectedRow) -> [Argument<'_>; 9] {
    [
        Argument::id(&rejected.id),
        rejected.rejected_ms.into(),
        Argument::outside(&rejected.source),
        Argument::outside(&rejected.reason),
        Argument::outside(&rejected.detail),
        Argument::maybe_outside(rejected.message_id.as_deref()),
        Argument::maybe_outside(rejected.event_type.as_deref()),
        Argument::outside(&rejected.headers),
        rejected.body[..].into(),
    ]
}

fn gap_row(gap: &Gap) -> [Argument<'_>; 4] {
    [
        Argument::id(&gap.worker),
        gap.from_ms.into(),
        gap.until_ms.into(),
        gap.count.into(),
    ]
}
