//! The batches of each worker's run that are accounted for, and the records that are lost although no gap
//! names them.
//!
//! The numbers of recorded batches are written together with their records. Losses are derived from these
//! numbers and from the workers' announcements; see [`Lost`]. A run that ended without an announcement and
//! dropped nothing has lost nothing: it had not acknowledged the messages whose records were not confirmed.
//! So its last numbers are missing permanently, and no later number reveals that.

use std::collections::BTreeMap;

use webhook::journal::{Gap, Hole, Numbers, Span};

use crate::{
    columns::Columns,
    statement::{Argument, Statement},
};

/// The maximum number of spans that are kept of one run. A span ends where batches are lost that the worker
/// did not drop, which is rare. When there are more, the oldest two are merged, and a gap with an unknown
/// number of records is written for the numbers between them.
const SPANS_MAX: usize = 1_000;

/// How long a batch number may be missing, in milliseconds, before its records are lost. A batch that was
/// published before a recorded one has left the queue, so at most a recorder still holds it.
pub const LOST_AFTER_MS: u64 = 60_000;

/// The maximum number of spans, and of runs, that one audit reads.
const READ_MAX: u32 = 100_000;

/// Records that are lost although no gap of their worker names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The worker's name.
    pub worker: String,
    /// The earliest time at which the first of them was made, in Unix milliseconds.
    pub from_ms: u64,
    /// The latest time at which the last of them was made, in Unix milliseconds.
    pub until_ms: u64,
    /// How they were lost.
    pub cause: LostCause,
    /// The number of milliseconds until the loss is certain, unless the records arrive before; 0 if it is
    /// certain.
    pub certain_in_ms: u64,
}

/// How records were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostCause {
    /// Batches that the broker confirmed or the worker dropped are not recorded, but later ones are.
    Missing {
        /// The number of missing batches.
        batches: u64,
    },
    /// Batches that the broker confirmed or the worker dropped are not recorded, and neither is any later
    /// one.
    MissingInTheEnd {
        /// The number of missing batches.
        batches: u64,
    },
    /// The worker drops records, or was dropping them when it last announced itself, and has recorded nothing
    /// since.
    Dropping {
        /// The minimum number of dropped records.
        records_min: u64,
        /// Whether the worker still announces itself.
        is_heard: bool,
    },
}

/// A row of the table `batches`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) span: Span,
    settled: u64,
    recorded_ms: u64,
}

/// A worker's run as of its last announcement. Times are by the database's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    worker: String,
    now_ms: u64,
    started_ms: u64,
    seen_ms: u64,
    closed_ms: Option<u64>,
    dropping_since_ms: Option<u64>,
    dropping_batch: u64,
    made: u64,
    made_ms: u64,
    records_dropped: u64,
}

/// The changes that add newly recorded numbers to the table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Spans that are new or longer, each with the highest settled number.
    pub(super) written: Vec<(Span, u64)>,
    /// Rows that another span covers.
    pub(super) covered: Vec<Span>,
    /// The numbers between spans that were merged.
    pub(super) gaps: Vec<Hole>,
}

const SELECT: &str = "SELECT first_number, last_number, from_ms, until_ms, settled, recorded_ms FROM batches \
    WHERE worker = $1 ORDER BY first_number";

/// Extends the span that ends immediately before the new numbers, as it does while batches arrive in order.
/// Changes no row if there is no such span, or if another span would adjoin or overlap the longer one.
const EXTEND: &str = "UPDATE batches SET last_number = $3, \
    from_ms = CASE WHEN $4 < from_ms THEN $4 ELSE from_ms END, until_ms = CASE WHEN $5 > until_ms THEN $5 ELSE until_ms END, \
    settled = CASE WHEN $6 > settled THEN $6 ELSE settled END WHERE worker = $1 AND last_number = $2 - 1 \
    AND NOT EXISTS (SELECT 1 FROM batches other WHERE other.worker = $1 AND other.first_number BETWEEN $2 AND $3 + 1)";

/// `{now}` is the database's clock.
const WRITE: &str = "INSERT INTO batches (worker, first_number, last_number, from_ms, until_ms, settled, recorded_ms) \
    VALUES ($1, $2, $3, $4, $5, $6, {now}) ON CONFLICT (worker, first_number) DO UPDATE SET \
    last_number = CASE WHEN excluded.last_number > batches.last_number THEN excluded.last_number ELSE batches.last_number END, \
    from_ms = CASE WHEN excluded.from_ms < batches.from_ms THEN excluded.from_ms ELSE batches.from_ms END, \
    until_ms = CASE WHEN excluded.until_ms > batches.until_ms THEN excluded.until_ms ELSE batches.until_ms END, \
    settled = CASE WHEN excluded.settled > batches.settled THEN excluded.settled ELSE batches.settled END";

/// Deletes a covered row, unless another recorder has extended it meanwhile.
const DELETE: &str = "DELETE FROM batches WHERE worker = $1 AND first_number = $2 AND last_number = $3";

/// Deletes only whole runs, and only of workers that are no longer in the table `roles`. If a run lost only
/// its beginning, the missing numbers would look like a hole.
pub(super) const EXPIRE: &str = "DELETE FROM batches WHERE until_ms < $1 AND worker IN \
    (SELECT worker FROM batches GROUP BY worker HAVING MAX(until_ms) < $1) \
    AND worker NOT IN (SELECT process FROM roles WHERE role = 'worker')";

const SELECT_SINCE: &str = "SELECT worker, first_number, last_number, from_ms, until_ms, settled, recorded_ms FROM batches \
    WHERE worker IN (SELECT worker FROM batches WHERE until_ms >= $1 UNION SELECT process FROM roles WHERE role = 'worker' \
    AND seen_ms >= $1) ORDER BY worker, first_number LIMIT $2";

/// Selects the number of batches that each worker has announced.
pub(super) const SELECT_MADE: &str = "SELECT process, batches_made FROM roles WHERE role = 'worker' AND batches_made > 0 ORDER BY process LIMIT $1";

const SELECT_RUNS: &str = "SELECT process, {now} AS now_ms, COALESCE(started_ms, 0) AS started_ms, seen_ms, closed_ms, \
    dropping_since_ms, COALESCE(dropping_batch, 0) AS dropping_batch, batches_made, COALESCE(made_ms, 0) AS made_ms, \
    records_dropped FROM roles WHERE role = 'worker' AND seen_ms >= $1 ORDER BY process LIMIT $2";

/// Selects the spans of runs that made batches or announced themselves since a time, ordered by worker.
pub(super) fn select_since(since_ms: u64) -> Statement<'static> {
    Statement::with(SELECT_SINCE, [since_ms.into(), READ_MAX.into()])
}

/// Selects the runs that announced themselves since a time.
pub(super) fn select_runs(since_ms: u64) -> Statement<'static> {
    Statement::with(SELECT_RUNS, [since_ms.into(), READ_MAX.into()])
}

/// Selects how many batches each worker has announced as made.
pub(super) fn select_made() -> Statement<'static> {
    Statement::with(SELECT_MADE, [READ_MAX.into()])
}

pub(super) fn read_made(row: &dyn Columns) -> Result<(String, u64), sqlx::Error> {
    Ok((row.text("process")?, row.number("batches_made")?))
}

pub(super) fn read_row(row: &dyn Columns) -> Result<Row, sqlx::Error> {
    Ok(Row {
        span: Span {
            first: row.number("first_number")?,
            last: row.number("last_number")?,
            from_ms: row.number("from_ms")?,
            until_ms: row.number("until_ms")?,
        },
        settled: row.number("settled")?,
        recorded_ms: row.number("recorded_ms")?,
    })
}

pub(super) fn read_worker_row(row: &dyn Columns) -> Result<(String, Row), sqlx::Error> {
    Ok((row.text("worker")?, read_row(row)?))
}

pub(super) fn read_run(row: &dyn Columns) -> Result<Run, sqlx::Error> {
    Ok(Run {
        worker: row.text("process")?,
        now_ms: row.number("now_ms")?,
        started_ms: row.number("started_ms")?,
        seen_ms: row.number("seen_ms")?,
        closed_ms: row.maybe_number("closed_ms")?,
        dropping_since_ms: row.maybe_number("dropping_since_ms")?,
        dropping_batch: row.number("dropping_batch")?,
        made: row.number("batches_made")?,
        made_ms: row.number("made_ms")?,
        records_dropped: row.number("records_dropped")?,
    })
}

/// Selects the spans of a worker.
pub(super) fn select(worker: &str) -> Statement<'_> {
    about(SELECT, worker, [])
}

/// Returns the statement that extends a span by numbers that follow it. Returns `None` if there are numbers
/// missing between the new ones.
pub(super) fn extend<'a>(worker: &'a str, came: &Numbers) -> Option<Statement<'a>> {
    let [span] = came.spans() else { return None };
    let numbers = [span.first, span.last, span.from_ms, span.until_ms, came.settled()];
    Some(about(EXTEND, worker, numbers))
}

fn about<'a, const N: usize>(sql: &'static str, worker: &'a str, numbers: [u64; N]) -> Statement<'a> {
    let numbers = numbers.map(Argument::from);
    Statement::with(sql, [Argument::id(worker)].into_iter().chain(numbers))
}

fn numbers(rows: &[Row]) -> Numbers {
    let mut numbers = Numbers::default();
    for row in rows {
        numbers.add(row.span);
        numbers.settle(row.settled);
    }
    numbers
}

impl Change {
    /// Returns the change that adds the recorded numbers in `came` to the stored rows of a run.
    pub(super) fn new(stored: &[Row], came: &Numbers) -> Self {
        let mut numbers = numbers(stored);
        numbers.merge(came);
        let mut gaps = Vec::new();
        while let [first, second, ..] = numbers.spans()
            && numbers.spans().len() > SPANS_MAX
        {
            let between = Hole {
                first: first.last + 1,
                last: second.first - 1,
                from_ms: first.until_ms.min(second.from_ms),
                until_ms: first.until_ms.max(second.from_ms),
            };
            numbers.add(Span {
                first: between.first,
                last: between.last,
                from_ms: between.from_ms,
                until_ms: between.until_ms,
            });
            gaps.push(between);
        }
        let settled = numbers.settled();
        let has = |span: &Span| stored.iter().any(|row| row.span == *span);
        let kept = |row: &Row| numbers.spans().iter().any(|span| span.first == row.span.first);
        Self {
            written: numbers
                .spans()
                .iter()
                .filter(|span| !has(span))
                .map(|span| (*span, settled))
                .collect(),
            covered: stored
                .iter()
                .filter(|row| !kept(row))
                .map(|row| row.span)
                .collect(),
            gaps,
        }
    }

    /// Returns the statements that make the change.
    pub(super) fn statements<'a>(&self, worker: &'a str) -> impl Iterator<Item = Statement<'a>> {
        let write = move |(span, settled): &(Span, u64)| {
            let numbers = [span.first, span.last, span.from_ms, span.until_ms, *settled];
            about(WRITE, worker, numbers)
        };
        let delete = move |span: &Span| about(DELETE, worker, [span.first, span.last]);
        self.written
            .iter()
            .map(write)
            .chain(self.covered.iter().map(delete))
    }

    /// Returns a gap with an unknown number of records for the numbers between spans that were merged.
    pub(super) fn unknown_gaps(&self, worker: &str) -> Vec<Gap> {
        let gap = |hole: &Hole| Gap {
            worker: worker.to_owned(),
            from_ms: hole.from_ms,
            until_ms: hole.until_ms,
            count: 0,
            batches: None,
        };
        self.gaps.iter().map(gap).collect()
    }
}

/// Returns the lost records, ordered by time. `rows` are ordered by worker. `due` is the number of batches of
/// each worker that must be recorded by now if none is lost.
pub(super) fn lost(
    rows: &[(String, Row)],
    runs: &[Run],
    due: &BTreeMap<String, u64>,
    now_ms: u64,
) -> Vec<Lost> {
    let mut lost = Vec::new();
    let of = |worker: &str| runs.iter().find(|run| run.worker == worker);
    for chunk in rows.chunk_by(|one, other| one.0 == other.0) {
        let (worker, rows) = (&chunk[0].0, chunk.iter().map(|(_, row)| *row).collect::<Vec<_>>());
        let run = of(worker);
        lost.extend(missing(worker, &rows, run.map_or(now_ms, |run| run.now_ms)));
        lost.extend(run.and_then(|run| in_the_end(run, &numbers(&rows), due)));
    }
    let is_recorded = |run: &&Run| rows.iter().any(|(worker, _)| *worker == run.worker);
    let unrecorded = runs.iter().filter(|run| !is_recorded(run));
    lost.extend(unrecorded.filter_map(|run| in_the_end(run, &Numbers::default(), due)));
    lost.sort_by(|one, other| (one.from_ms, &one.worker).cmp(&(other.from_ms, &other.worker)));
    lost
}

/// Writes which batches of a worker have arrived, and evaluates to the gaps that this makes. For use inside
/// [`on_connection!`](crate::database::on_connection), after all other rows of the books: several recorders
/// may write batches of one worker at the same time, and the second waits for the first.
macro_rules! write_numbers {
    ($tx:ident, $dialect:ident, $worker:expr, $came:expr) => {{
        use $crate::{
            journal::batches,
            statement::{bind_all, fetch_all},
        };
        let (worker, came): (&str, &Numbers) = ($worker, $came);
        let mut extended = 0;
        if let Some(extend) = batches::extend(worker, came) {
            let query = bind_all!(sqlx::query(extend.sql($dialect)), &extend.arguments);
            extended = query.execute(&mut *$tx).await?.rows_affected();
        }
        let mut gaps = Vec::new();
        if extended == 0 {
            let stored = fetch_all!($tx, $dialect, batches::select(worker), batches::read_row);
            let change = batches::Change::new(&stored, came);
            for statement in change.statements(worker) {
                let query = bind_all!(sqlx::query(statement.sql($dialect)), &statement.arguments);
                query.execute(&mut *$tx).await?;
            }
            gaps = change.unknown_gaps(worker);
        }
        gaps
    }};
}
pub(super) use write_numbers;

/// Evaluates to the records that are [`lost`] since a time. For use inside
/// [`on_connection!`](crate::database::on_connection).
macro_rules! fetch_lost {
    ($tx:ident, $dialect:ident, $since_ms:expr, $due:expr, $now_ms:expr) => {{
        use $crate::{journal::batches, statement::fetch_all};
        let since_ms = $since_ms;
        let rows = fetch_all!(
            $tx,
            $dialect,
            batches::select_since(since_ms),
            batches::read_worker_row
        );
        let runs = fetch_all!($tx, $dialect, batches::select_runs(since_ms), batches::read_run);
        batches::lost(&rows, &runs, $due, $now_ms)
    }};
}
pub(super) use fetch_lost;

/// Returns the SQL for `{gaps}` in [`in_gaps!`](super::audit): the table of gaps, and in addition the periods
/// in `more`, which are given as first and last Unix milliseconds.
pub(super) fn gaps_with(mut more: Vec<(u64, u64)>) -> String {
    /// The maximum number of periods in the SQL. All further ones are merged into the last one.
    const LISTED_MAX: usize = 256;
    more.sort_unstable();
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for (from_ms, until_ms) in more {
        let is_full = spans.len() == LISTED_MAX;
        match spans.last_mut() {
            Some((_, last_ms)) if is_full || from_ms <= *last_ms => *last_ms = until_ms.max(*last_ms),
            _ => spans.push((from_ms, until_ms)),
        }
    }
    if spans.is_empty() {
        return "gaps".to_owned();
    }
    let spans = spans.iter().map(|(from_ms, until_ms)| {
        let most = i64::MAX as u64;
        format!(
            " UNION ALL SELECT {}, {}",
            from_ms.min(&most),
            until_ms.min(&most)
        )
    });
    format!(
        "(SELECT from_ms, until_ms FROM gaps{})",
        spans.collect::<String>()
    )
}

/// Returns the holes between the recorded numbers. Batches of recent holes may still be held by a recorder.
fn missing(worker: &str, rows: &[Row], now_ms: u64) -> Vec<Lost> {
    let numbers = numbers(rows);
    let recorded_ms = |hole: &Hole| {
        let after = rows.iter().filter(|row| row.span.first > hole.last);
        after.map(|row| row.recorded_ms).min().unwrap_or(now_ms)
    };
    let holes = numbers.holes().into_iter();
    holes
        .map(|hole| Lost {
            worker: worker.to_owned(),
            from_ms: hole.from_ms,
            until_ms: hole.until_ms,
            cause: LostCause::Missing {
                batches: hole.batches(),
            },
            certain_in_ms: certain_in_ms(recorded_ms(&hole), now_ms),
        })
        .collect()
}

fn certain_in_ms(since_ms: u64, now_ms: u64) -> u64 {
    since_ms.saturating_add(LOST_AFTER_MS).saturating_sub(now_ms)
}

/// Returns what is lost after the last number that is accounted for.
fn in_the_end(run: &Run, numbers: &Numbers, due: &BTreeMap<String, u64>) -> Option<Lost> {
    let last_ms = numbers.spans().last().map(|span| span.until_ms);
    let known = numbers.settled().max(numbers.last());
    let ended_ms = run.closed_ms.unwrap_or(run.seen_ms);
    let lost = |from_ms: u64, until_ms: u64, cause, certain_in_ms| {
        Some(Lost {
            worker: run.worker.clone(),
            from_ms: from_ms.min(until_ms),
            until_ms: until_ms.max(from_ms),
            cause,
            certain_in_ms,
        })
    };
    if let Some(since_ms) = run.dropping_since_ms
        && run.dropping_batch > known
    {
        let unseen = run.now_ms.saturating_sub(run.seen_ms) > crate::ANNOUNCED_MAX.as_millis() as u64;
        let is_heard = run.closed_ms.is_none() && !unseen;
        let until_ms = if is_heard { run.now_ms } else { ended_ms };
        let records_min = run.records_dropped;
        return lost(
            since_ms,
            until_ms,
            LostCause::Dropping {
                records_min,
                is_heard,
            },
            0,
        );
    }
    let certain_in_ms = certain_in_ms(run.made_ms, run.now_ms);
    // A batch that was announced recently may still be on its way.
    let made = match certain_in_ms {
        0 => run.made,
        _ => due.get(&run.worker).map_or(0, |due| run.made.min(*due)),
    };
    let holes = numbers.missing_until(made);
    let missing = holes.iter().filter(|hole| hole.first > known);
    let batches: u64 = missing.map(Hole::batches).sum();
    if batches == 0 {
        return None;
    }
    let cause = LostCause::MissingInTheEnd { batches };
    lost(
        last_ms.unwrap_or(run.started_ms),
        run.made_ms,
        cause,
        certain_in_ms,
    )
}

#[cfg(test)]
mod tests;
