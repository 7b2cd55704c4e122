//! The audit of the journal: whether every match has its delivery, every delivery its attempts, and no
//! delivery has been pending for too long.

mod connections;
mod rows;
mod statements;
mod period;

use std::collections::BTreeMap;

use sqlx::Connection as _;
use webhook::{DeliveryId, EndpointId, EventId, OrganizationId, journal::Gap};

use super::{
    StateCounts,
    aside::{self, SetAside},
    batches::{self, Lost, fetch_lost},
    totals::{self, Minutes, Vanished},
};
use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store,
    database::on_connection,
    statement::{Statement, fetch_all},
};
use connections::{Counting, Main, Second, Shared, connections};
use period::Period;
use rows::{
    Found, Pending, Suspect, read_count, read_deliveries, read_events, read_gap, read_late, read_oldest,
    read_pending, read_roles, read_suspects, read_unbalanced, read_unrecorded,
};
use statements::{COUNT_DELIVERIES, COUNT_EVENTS, COUNT_ROLES, COUNT_SUSPECTS, OLDEST_PENDING};

/// The maximum number of findings of each kind that are listed. All of them are counted.
pub const FINDINGS_MAX: u32 = 1_000;

/// The maximum number of gaps that are read. Each gap is a period in which the broker accepted no records, so
/// a journal with more gaps would be useless.
const GAPS_MAX: u32 = 10_000;

/// The limits from which an audit decides what is late and what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLimits {
    /// The current time, in Unix milliseconds.
    pub now_ms: u64,
    /// How long a worker may hold a delivery that is due, in milliseconds: one attempt, and the waiting
    /// before and after it. The record of an event may also be that much later than those of its deliveries.
    pub in_hand_ms: u64,
    /// How long a delivery may be pending, in milliseconds: its retry schedule and the deferrals.
    pub late_ms: u64,
    /// The number of batches of each worker that must be recorded by now if none is lost: the result of
    /// [`Store::batches_made`], read before everything in the journal's queue was recorded.
    pub batches_due: BTreeMap<String, u64>,
}

/// The result of an audit of a window of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// The number of events received in the window.
    pub events: u64,
    /// The total number of endpoints that these events matched.
    pub matched: u64,
    /// The deliveries that came with these events, by state.
    pub first_runs: StateCounts,
    /// The requested deliveries that were created in the window, by state.
    pub resends: StateCounts,
    /// Events whose number of deliveries differs from the number of endpoints that they matched, and missing
    /// events whose deliveries were created more than [`in_hand_ms`](AuditLimits::in_hand_ms) ago.
    pub unbalanced: Findings<Unbalanced>,
    /// Missing events whose first delivery was created more than 10 s ago, but not more than
    /// [`in_hand_ms`](AuditLimits::in_hand_ms): their records may still arrive.
    pub awaited: Findings<Unbalanced>,
    /// When the first delivery of the last of those was created, in Unix milliseconds; 0 if there is none.
    pub awaited_until_ms: u64,
    /// Deliveries with missing attempts.
    pub unrecorded: Findings<Unrecorded>,
    /// Rows that were added in the window but no longer exist.
    pub vanished: Vanished,
    /// Deliveries of the window that have been pending for too long. A requested run that has not been sent
    /// yet does not count.
    pub late: Findings<Late>,
    /// The number of deliveries of all times that must be in a queue, because they are pending and not about
    /// to be attempted.
    pub pending_settled: u64,
    /// The number of those that may have ended without a record: a gap overlaps the time from their creation
    /// until [`late_ms`](AuditLimits::late_ms) after their next attempt was due. At most the number of
    /// records in the gaps, if that is known.
    pub pending_in_gaps: u64,
    /// The number of other pending deliveries, which were due recently or are about to be: they are in a
    /// queue or held by a worker. None of them may have ended in a gap.
    pub pending_in_hand: u64,
    /// When the last of those was due, in Unix milliseconds; 0 if there is none.
    pub in_hand_until_ms: u64,
    /// The number of deliveries that the workers have announced as held.
    pub held_by_workers: u64,
    /// The number of recorders that announced themselves within [`ANNOUNCED_MAX`](crate::ANNOUNCED_MAX).
    pub recorders_heard: u64,
    /// The number of requested runs of all times that have not been sent yet.
    pub unsent: u64,
    /// Periods in which workers dropped records, overlapping the window; ordered by time.
    pub gaps: Vec<Gap>,
    /// Periods in which records are lost although no gap names them, overlapping the window; ordered by time.
    pub lost: Vec<Lost>,
    /// Messages that recorders could not store in the window.
    pub set_aside: Vec<SetAside>,
}

/// The findings of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings<T> {
    /// The number of findings.
    pub total: u64,
    /// The number of findings that gaps explain. It is at most the number of records in all gaps, if that is
    /// known.
    pub in_gaps: u64,
    /// The earliest findings, at most [`FINDINGS_MAX`].
    pub items: Vec<T>,
}

/// An event whose number of deliveries differs from the number of endpoints that it matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unbalanced {
    /// The organization that the event belongs to.
    pub organization_id: OrganizationId,
    /// The event's id.
    pub event_id: EventId,
    /// When the event was received, in Unix milliseconds. If the event is missing, when its first delivery
    /// was created.
    pub received_ms: u64,
    /// The number of endpoints that the event matched; `None` if the event itself is missing.
    pub matched: Option<u64>,
    /// The number of its deliveries with run 0.
    pub deliveries: u64,
}

/// A delivery with missing attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrecorded {
    /// The delivery's id.
    pub delivery_id: DeliveryId,
    /// The endpoint's id.
    pub endpoint_id: EndpointId,
    /// When the delivery was created, in Unix milliseconds.
    pub created_ms: u64,
    /// The number of attempts that were made.
    pub attempts: u64,
    /// The number of these attempts that are recorded.
    pub recorded: u64,
}

/// A delivery that has been pending for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// The delivery's id.
    pub delivery_id: DeliveryId,
    /// The organization that the event belongs to.
    pub organization_id: OrganizationId,
    /// The event's id.
    pub event_id: EventId,
    /// The endpoint's id.
    pub endpoint_id: EndpointId,
    /// When the delivery was created, in Unix milliseconds.
    pub created_ms: u64,
    /// When its next attempt was due, in Unix milliseconds.
    pub next_ms: u64,
}

/// Evaluates to the periods since a time in which records are missing that no gap names, and to the lost
/// records. For use inside [`on_connection!`].
macro_rules! explained_ms {
    ($tx:ident, $dialect:ident, $window:ident, $since_ms:expr) => {{
        let since_ms: u64 = $since_ms;
        let due = &$window.limits.batches_due;
        let mut lost = fetch_lost!($tx, $dialect, since_ms, due, $window.limits.now_ms);
        lost.retain(|lost| lost.until_ms >= since_ms && lost.from_ms < $window.until_ms);
        let spans = aside::select_spans(since_ms, $window.until_ms);
        let mut explained_ms = fetch_all!($tx, $dialect, spans, aside::read_span);
        explained_ms.extend(lost.iter().map(|lost| (lost.from_ms, lost.until_ms)));
        (explained_ms, lost)
    }};
}

/// Evaluates to the number of records in all gaps and set-aside batches that may explain what was recorded
/// since a time; `None` if the number is unknown, for example because records are lost. For use inside
/// [`on_connection!`].
macro_rules! records_since {
    ($tx:ident, $dialect:ident, $window:ident, $since_ms:expr, $lost:expr) => {{
        let (since_ms, until_ms) = $window.explained_by($since_ms);
        let gaps = fetch_all!($tx, $dialect, Period::gaps(since_ms, until_ms), read_gap);
        let set_aside = fetch_all!($tx, $dialect, aside::select(since_ms, until_ms), aside::read);
        records_of(&gaps, &set_aside).filter(|_| $lost.is_empty())
    }};
}

/// Executes the statements that begin a transaction with joins of large tables. For use inside
/// [`on_connection!`].
macro_rules! prepare_joins {
    ($tx:ident, $dialect:ident) => {
        for statement in $dialect.prepare_joins {
            sqlx::query(*statement).execute(&mut *$tx).await?;
        }
    };
}

/// Counts the events and deliveries of the window, compares them with the totals that were recorded, and
/// evaluates to the sums of their marks; steps of an [`on_connection!`].
macro_rules! count {
    ($tx:ident, $dialect:ident, $window:ident, $audit:ident, $other:ident) => {{
        let (mut found, mut marks) = (Vec::new(), [0, 0]);
        for events in fetch_all!($tx, $dialect, $window.of(COUNT_EVENTS), read_events) {
            $audit.events += events.count;
            $audit.matched += events.matched;
            marks[0] += events.mark;
            found.push(events.counts());
        }
        let deliveries = match $other.deliveries().await {
            Some(deliveries) => deliveries,
            None => fetch_all!($tx, $dialect, $window.of(COUNT_DELIVERIES), read_deliveries),
        };
        for deliveries in deliveries {
            found.push(deliveries.counts());
            if deliveries.resent {
                *$audit.resends.of(deliveries.state) += deliveries.count;
            } else {
                *$audit.first_runs.of(deliveries.state) += deliveries.count;
                marks[1] += deliveries.mark;
            }
        }
        let recorded = fetch_all!($tx, $dialect, $window.of(totals::SUM), totals::read_counts);
        $audit.vanished = totals::compare(recorded, found);
        marks
    }};
}

/// Counts the pending deliveries, and evaluates to how many records may be missing; steps of an
/// [`on_connection!`]. Pending deliveries of all times are counted, so all gaps since the oldest of them may
/// explain that some have ended.
macro_rules! count_pending {
    ($tx:ident, $dialect:ident, $window:ident, $audit:ident, $gaps:ident) => {{
        let oldest = fetch_all!($tx, $dialect, Statement::new(OLDEST_PENDING), read_oldest);
        let since_ms = $window.since_ms;
        let oldest_ms = oldest.into_iter().flatten().next().unwrap_or(since_ms);
        let of_window = records_since!($tx, $dialect, $window, since_ms, $audit.lost);
        let mut records = MissingRecords {
            of_window,
            of_all_times: of_window,
        };
        let gaps_before = if oldest_ms < since_ms {
            let (explained_ms, lost) = explained_ms!($tx, $dialect, $window, oldest_ms);
            records.of_all_times = records_since!($tx, $dialect, $window, oldest_ms, lost);
            batches::gaps_with(explained_ms)
        } else {
            $gaps.to_owned()
        };
        for pending in fetch_all!($tx, $dialect, $window.pending(&gaps_before), read_pending) {
            $audit.pending(&pending);
        }
        records
    }};
}

impl Store {
    /// Audits the events that were received and the deliveries that were created from `since_ms` until before
    /// `until_ms`. The window is extended to whole minutes on both sides. The counts come from one snapshot. The
    /// missing attempts may come from another one at about the same time, as they always do on SQLite.
    /// Deliveries are attributed to their events, whatever the clock says by which they were created.
    ///
    /// The audit does not see an event of which no record arrived and that is in no gap, nor records that a
    /// worker dropped while it could not reach the database, if it died before it could record again.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn audit(&self, since_ms: u64, until_ms: u64, limits: AuditLimits) -> Result<Audit, Error> {
        let window = Period::new(since_ms, until_ms, limits);
        // Two connections work at the same time; each does about half of the work.
        let (main, second) = connections();
        let books = self.books(&window, main);
        let ((mut audit, records), attempts) =
            tokio::try_join!(books, self.missing_attempts(&window, second))?;
        (audit.unrecorded, audit.vanished.attempts) = attempts;
        audit.explain_at_most(records);
        Ok(audit)
    }

    /// Returns the audit without the missing attempts, and the number of records that may be missing.
    async fn books(&self, window: &Period, mut other: Main) -> Result<(Audit, MissingRecords), Error> {
        on_connection!(
            &self.database,
            journal,
            &Operation::AUDIT,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_snapshot).await?;
                prepare_joins!(tx, dialect);
                other.share(match dialect.export_snapshot {
                    Some(export) => Some(sqlx::query_scalar(export).fetch_one(&mut *tx).await?),
                    None => None,
                });
                let (explained_ms, lost) = explained_ms!(tx, dialect, window, window.since_ms);
                let mut audit = Audit {
                    lost,
                    set_aside: fetch_all!(
                        tx,
                        dialect,
                        aside::select(window.since_ms, window.until_ms),
                        aside::read
                    ),
                    gaps: fetch_all!(
                        tx,
                        dialect,
                        Period::gaps(window.since_ms, window.until_ms),
                        read_gap
                    ),
                    ..Audit::default()
                };
                let gaps = batches::gaps_with(explained_ms);
                let gaps = gaps.as_str();
                let marks = count!(tx, dialect, window, audit, other);
                let records = count_pending!(tx, dialect, window, audit, gaps);
                let heard_ms = crate::ANNOUNCED_MAX.as_millis() as u64;
                let heard = Statement::with(COUNT_ROLES, [heard_ms.into()]);
                for (recorders, in_hand) in fetch_all!(tx, dialect, heard, read_roles) {
                    (audit.recorders_heard, audit.held_by_workers) = (recorders, in_hand);
                }
                // Comparing each event with its deliveries is the most expensive step. It is skipped if the
                // sums agree.
                let unbalanced = if marks[0] == marks[1] && audit.matched == audit.first_runs.total() {
                    Vec::new()
                } else {
                    // The sums were those of everything created in the window. With another host's clock some
                    // of these deliveries may belong to events outside the window.
                    audit.first_runs = StateCounts::default();
                    for (state, count) in fetch_all!(tx, dialect, window.deliveries_of_events(), read_count) {
                        *audit.first_runs.of(state) = count;
                    }
                    fetch_all!(tx, dialect, window.unbalanced(gaps), read_unbalanced)
                };
                let late = fetch_all!(tx, dialect, window.late(gaps), read_late);
                tx.commit().await?;

                audit.compare(unbalanced);
                audit.late = findings(late);
                Ok((audit, records))
            }
        )
    }

    /// Returns the deliveries with missing attempts, and the number of attempts that vanished. Before that,
    /// counts the deliveries of the window for the main connection, if that shares its snapshot.
    async fn missing_attempts(
        &self,
        window: &Period,
        second: Second,
    ) -> Result<(Findings<Unrecorded>, u64), Error> {
        let shared = second.snapshot().await;
        on_connection!(
            &self.database,
            journal,
            &Operation::AUDIT,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_snapshot).await?;
                let mut counting = shared.and_then(Shared::promise);
                if let Some(import) = counting.as_ref().map(Counting::import)
                    && sqlx::raw_sql(import).execute(&mut *tx).await.is_err()
                {
                    // The snapshot has ended with the main connection, or is on another server.
                    counting = None;
                    tx.rollback().await?;
                    tx = connection.begin_with(dialect.begin_snapshot).await?;
                }
                prepare_joins!(tx, dialect);
                if let Some(counting) = counting {
                    counting.send(fetch_all!(
                        tx,
                        dialect,
                        window.of(COUNT_DELIVERIES),
                        read_deliveries
                    ));
                }
                let first = fetch_all!(tx, dialect, Statement::new(totals::FIRST), totals::read_first);
                let first_ms = first.into_iter().flatten().next();
                let [before, since] = window.attempts(first_ms);
                // Comparing each delivery with its attempts is the most expensive step. It is skipped if all
                // attempts that were ever recorded still exist.
                let agree = fetch_all!(tx, dialect, window.of(COUNT_SUSPECTS), read_suspects) == [0]
                    && fetch_all!(tx, dialect, before.found(), totals::read_attempts) == [0]
                    && fetch_all!(tx, dialect, since.found(), totals::read_attempts)
                        == fetch_all!(tx, dialect, since.recorded(), totals::read_attempts);
                let (mut unrecorded, mut vanished) = (Vec::new(), 0);
                if !agree {
                    let (explained_ms, _) = explained_ms!(tx, dialect, window, window.since_ms);
                    let gaps = batches::gaps_with(explained_ms);
                    unrecorded = fetch_all!(tx, dialect, window.unrecorded(&gaps), read_unrecorded);
                    let [_, minutes] = Minutes::split(window.since_ms, window.until_ms, first_ms);
                    vanished = fetch_all!(tx, dialect, minutes.recorded(), totals::read_attempts)
                        .iter()
                        .sum();
                    for found in fetch_all!(tx, dialect, minutes.found(), totals::read_attempts) {
                        vanished -= found;
                    }
                }
                tx.commit().await?;
                Ok((findings(unrecorded), totals::missing(vanished)))
            }
        )
    }
}

impl Audit {
    fn pending(&mut self, pending: &Pending) {
        self.unsent = pending.unsent;
        self.pending_settled = pending.settled;
        self.pending_in_gaps = pending.in_gaps;
        self.pending_in_hand = pending.in_hand;
        self.in_hand_until_ms = pending.in_hand_until_ms;
    }

    fn compare(&mut self, suspects: Vec<Found<Suspect>>) {
        let (awaited, others): (Vec<_>, Vec<_>) = suspects
            .into_iter()
            .partition(|((_, awaited_ms), _)| awaited_ms.is_some());
        let last = awaited.first().and_then(|((_, awaited_ms), _)| *awaited_ms);
        self.awaited_until_ms = last.unwrap_or_default();
        let events = |suspects: Vec<Found<Suspect>>| {
            let events = suspects.into_iter().map(|((event, _), counts)| (event, counts));
            findings(events.collect())
        };
        self.awaited = events(awaited);
        self.unbalanced = events(others);
    }

    /// Limits how many findings of each kind are explained by gaps: each record is about one event or one
    /// delivery.
    fn explain_at_most(&mut self, records: MissingRecords) {
        for (in_gaps, max) in [
            (&mut self.unbalanced.in_gaps, records.of_window),
            (&mut self.awaited.in_gaps, records.of_window),
            (&mut self.unrecorded.in_gaps, records.of_window),
            (&mut self.late.in_gaps, records.of_window),
            (&mut self.pending_in_gaps, records.of_all_times),
        ] {
            *in_gaps = max.unwrap_or(u64::MAX).min(*in_gaps);
        }
    }
}

/// The maximum numbers of records that may be missing from the journal; `None` if unknown.
#[derive(Clone, Copy)]
struct MissingRecords {
    /// In gaps that may explain findings in the window.
    of_window: Option<u64>,
    /// In gaps that may explain why a delivery of any time is pending.
    of_all_times: Option<u64>,
}

/// Returns the number of records in these gaps and batches; `None` if the number is unknown for one of them.
fn records_of(gaps: &[Gap], set_aside: &[SetAside]) -> Option<u64> {
    let are_all = gaps.len() < GAPS_MAX as usize;
    let of_gaps = gaps.iter().map(|gap| Some(gap.count).filter(|count| *count > 0));
    let all = of_gaps.chain(set_aside.iter().map(SetAside::records));
    all.sum::<Option<u64>>().filter(|_| are_all)
}

fn findings<T>(found: Vec<Found<T>>) -> Findings<T> {
    let (total, in_gaps) = found.first().map_or((0, 0), |(_, counts)| *counts);
    Findings {
        total,
        in_gaps,
        items: found.into_iter().map(|(item, _)| item).collect(),
    }
}

/// Not derived, because the derive would require `T: Default`.
impl<T> Default for Findings<T> {
    fn default() -> Self {
        Self {
            total: 0,
            in_gaps: 0,
            items: Vec::new(),
        }
    }
}
