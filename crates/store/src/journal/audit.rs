//! Whether the books balance: every match has its delivery, every delivery its attempts, and none is pending
//! for too long.

mod rows;
mod statements;
mod window;

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
use rows::{
    Found, Pending, read_count, read_deliveries, read_events, read_gap, read_late, read_oldest, read_pending,
    read_roles, read_suspects, read_unbalanced, read_unrecorded,
};
use statements::{COUNT_DELIVERIES, COUNT_EVENTS, COUNT_ROLES, COUNT_SUSPECTS, OLDEST_PENDING};
use window::Window;

/// How many of each kind of finding are listed; all are counted.
pub const FINDINGS_MAX: u32 = 1_000;

/// How many gaps are read. Each of them stands for a time when the broker took nothing: more would be no
/// journal.
const GAPS_MAX: u32 = 10_000;

/// What counts as late, and as missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLimits {
    /// Now, in Unix milliseconds.
    pub now_ms: u64,
    /// How long a worker may have a due delivery in hand, in milliseconds: an attempt, and the waiting
    /// before and after it.
    pub in_hand_ms: u64,
    /// How long a delivery may be pending, in milliseconds: its schedule, and the deferrals.
    pub late_ms: u64,
    /// How many batches of each worker have to be here by now, if none is lost: what [`Store::batches_made`]
    /// said before all that the journal's queue held was recorded.
    pub batches_due: BTreeMap<String, u64>,
}

/// What the journal says about a window of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// How many events were received in it.
    pub events: u64,
    /// How many endpoints they matched, in all.
    pub matched: u64,
    /// The deliveries that came with these events.
    pub first_runs: StateCounts,
    /// The deliveries created in it that somebody asked for.
    pub resends: StateCounts,
    /// Events whose deliveries are not as many as they matched.
    pub unbalanced: Findings<Unbalanced>,
    /// Deliveries of which attempts are missing.
    pub unrecorded: Findings<Unrecorded>,
    /// Rows that were added in the window, and are not there.
    pub vanished: Vanished,
    /// Deliveries of the window that are pending for too long. A run that was requested and not yet sent is
    /// not.
    pub late: Findings<Late>,
    /// How many deliveries of all times must stand in a queue: they are pending, and not about to be
    /// attempted.
    pub pending_settled: u64,
    /// How many of them may have ended, in a gap: their next attempt was due before one had passed, and the
    /// gaps have as many records.
    pub pending_in_gaps: u64,
    /// How many others were due lately, or are about to be: a queue has them, or a worker. None of them may
    /// have ended in a gap.
    pub pending_in_hand: u64,
    /// When the last of those was due, in Unix milliseconds; 0 when there is none.
    pub in_hand_until_ms: u64,
    /// How many deliveries the workers say that they have in hand.
    pub held_by_workers: u64,
    /// How many recorders were heard of within [`ANNOUNCED_MAX`](crate::ANNOUNCED_MAX).
    pub recorders_heard: u64,
    /// How many requested runs of all times were not sent yet.
    pub unsent: u64,
    /// Where workers dropped records, overlapping the window; by time.
    pub gaps: Vec<Gap>,
    /// Where records are lost and no gap says so, overlapping the window; by time.
    pub lost: Vec<Lost>,
    /// What recorders could not store in the window.
    pub set_aside: Vec<SetAside>,
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings<T> {
    /// How many there are.
    pub total: u64,
    /// How many of them a gap explains: no more than there were records in all gaps, as far as that is
    /// known.
    pub in_gaps: u64,
    /// The earliest at most [`FINDINGS_MAX`] of them.
    pub items: Vec<T>,
}

/// An event whose deliveries are not as many as it matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unbalanced {
    /// Whose event it is.
    pub organization_id: OrganizationId,
    /// Which one.
    pub event_id: EventId,
    /// When it was received, in Unix milliseconds; when the event is missing, when its first delivery was
    /// created.
    pub received_ms: u64,
    /// How many endpoints it matched; `None` when the event itself is missing.
    pub matched: Option<u64>,
    /// How many deliveries of run 0 there are.
    pub deliveries: u64,
}

/// A delivery of which attempts are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrecorded {
    /// Which one.
    pub delivery_id: DeliveryId,
    /// Where to.
    pub endpoint_id: EndpointId,
    /// When it was created, in Unix milliseconds.
    pub created_ms: u64,
    /// How many attempts it had.
    pub attempts: u64,
    /// How many of them are recorded.
    pub recorded: u64,
}

/// A delivery that is pending for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// Which one.
    pub delivery_id: DeliveryId,
    /// Whose event it is.
    pub organization_id: OrganizationId,
    /// What is delivered.
    pub event_id: EventId,
    /// Where to.
    pub endpoint_id: EndpointId,
    /// When it was created, in Unix milliseconds.
    pub created_ms: u64,
    /// When its next attempt was due, in Unix milliseconds.
    pub next_ms: u64,
}

/// Evaluates to from when until when records are missing that no gap names, since a time, and to those that
/// are lost; steps of an [`on_connection!`].
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

/// Evaluates to how many records the gaps and set-aside batches have in all that may explain what was
/// recorded since a time, if none is lost whose number is unknown; steps of an [`on_connection!`].
macro_rules! records_since {
    ($tx:ident, $dialect:ident, $window:ident, $since_ms:expr, $lost:expr) => {{
        let (since_ms, until_ms) = $window.explained_by($since_ms);
        let gaps = fetch_all!($tx, $dialect, Window::gaps(since_ms, until_ms), read_gap);
        let set_aside = fetch_all!($tx, $dialect, aside::select(since_ms, until_ms), aside::read);
        records_of(&gaps, &set_aside).filter(|_| $lost.is_empty())
    }};
}

/// Begins a transaction whose reads all see one moment, and evaluates to it; steps of an [`on_connection!`].
macro_rules! begin {
    ($connection:ident, $dialect:ident) => {{
        let mut tx = $connection.begin_with($dialect.begin_snapshot).await?;
        for statement in $dialect.prepare_joins {
            sqlx::query(*statement).execute(&mut *tx).await?;
        }
        tx
    }};
}

/// Counts the events and deliveries of the window, compares them with the totals that were recorded, and
/// evaluates to the sums of their marks; steps of an [`on_connection!`].
macro_rules! count {
    ($tx:ident, $dialect:ident, $window:ident, $audit:ident) => {{
        let (mut found, mut marks) = (Vec::new(), [0, 0]);
        for events in fetch_all!($tx, $dialect, $window.of(COUNT_EVENTS), read_events) {
            $audit.events += events.count;
            $audit.matched += events.matched;
            marks[0] += events.mark;
            found.push(events.counts());
        }
        for deliveries in fetch_all!($tx, $dialect, $window.of(COUNT_DELIVERIES), read_deliveries) {
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
/// [`on_connection!`]. Pending deliveries are of all times, and so is what explains that they may have ended.
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
    /// Balances what was recorded of the events received, and of the deliveries created, from the minute of
    /// `since_ms` until the end of the one of `until_ms`, as of one moment, and looks for missing
    /// attempts, as of another one at about the same time. Deliveries belong to their events, whatever
    /// the clock says by which they were created.
    ///
    /// What it does not see: an event of which no record at all arrived, and that is in no gap; records that
    /// a worker dropped while it reached no database, if it died before it could record one again.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn audit(&self, since_ms: u64, until_ms: u64, limits: AuditLimits) -> Result<Audit, Error> {
        let window = Window::new(since_ms, until_ms, limits);
        // Half of the work each, on connections of their own.
        let books = self.books(&window);
        let ((mut audit, records), attempts) = tokio::try_join!(books, self.missing_attempts(&window))?;
        (audit.unrecorded, audit.vanished.attempts) = attempts;
        audit.explain_at_most(records);
        Ok(audit)
    }

    /// Returns the audit without the missing attempts, and how many records may be missing.
    async fn books(&self, window: &Window) -> Result<(Audit, MissingRecords), Error> {
        on_connection!(
            &self.database,
            journal,
            &Operation::Audit,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = begin!(connection, dialect);
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
                        Window::gaps(window.since_ms, window.until_ms),
                        read_gap
                    ),
                    ..Audit::default()
                };
                let gaps = batches::gaps_with(explained_ms);
                let gaps = gaps.as_str();
                let marks = count!(tx, dialect, window, audit);
                let records = count_pending!(tx, dialect, window, audit, gaps);
                let heard_ms = crate::ANNOUNCED_MAX.as_millis() as u64;
                let heard = Statement::with(COUNT_ROLES, [heard_ms.into()]);
                for (recorders, in_hand) in fetch_all!(tx, dialect, heard, read_roles) {
                    (audit.recorders_heard, audit.held_by_workers) = (recorders, in_hand);
                }
                // Comparing each event with its deliveries takes longest, and is of no use when the sums
                // agree.
                let unbalanced = if marks[0] == marks[1] && audit.matched == audit.first_runs.total() {
                    Vec::new()
                } else {
                    // The sums were those of all that was created in the window, which by another clock may
                    // be another event's.
                    audit.first_runs = StateCounts::default();
                    for (state, count) in fetch_all!(tx, dialect, window.deliveries_of_events(), read_count) {
                        *audit.first_runs.of(state) = count;
                    }
                    fetch_all!(tx, dialect, window.unbalanced(gaps), read_unbalanced)
                };
                let late = fetch_all!(tx, dialect, window.late(gaps), read_late);
                tx.commit().await?;

                audit.unbalanced = findings(unbalanced);
                audit.late = findings(late);
                Ok((audit, records))
            }
        )
    }

    /// The deliveries of which attempts are missing, and how many attempts vanished.
    async fn missing_attempts(&self, window: &Window) -> Result<(Findings<Unrecorded>, u64), Error> {
        on_connection!(
            &self.database,
            journal,
            &Operation::Audit,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = begin!(connection, dialect);
                let first = fetch_all!(tx, dialect, Statement::new(totals::FIRST), totals::read_first);
                let first_ms = first.into_iter().flatten().next();
                let [before, since] = window.attempts(first_ms);
                // Comparing each delivery with its attempts takes longest, and is of no use when all that
                // were ever recorded are there.
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

    /// Bounds the findings of each kind that gaps explain: each record is about one event, or one delivery.
    fn explain_at_most(&mut self, records: MissingRecords) {
        for (in_gaps, max) in [
            (&mut self.unbalanced.in_gaps, records.of_window),
            (&mut self.unrecorded.in_gaps, records.of_window),
            (&mut self.late.in_gaps, records.of_window),
            (&mut self.pending_in_gaps, records.of_all_times),
        ] {
            *in_gaps = max.unwrap_or(u64::MAX).min(*in_gaps);
        }
    }
}

/// How many records may be missing from the journal, at most. `None` where that is not known.
#[derive(Clone, Copy)]
struct MissingRecords {
    /// Of gaps that may explain what is found in the window.
    of_window: Option<u64>,
    /// Of gaps that may explain why a delivery of any time is pending.
    of_all_times: Option<u64>,
}

/// Returns how many records these gaps and batches have in all; `None` if one of them does not say.
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

/// Not derived: that would ask for `T: Default`.
impl<T> Default for Findings<T> {
    fn default() -> Self {
        Self {
            total: 0,
            in_gaps: 0,
            items: Vec::new(),
        }
    }
}
