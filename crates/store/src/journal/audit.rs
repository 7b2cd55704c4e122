//! Whether the books balance: every match has its delivery, every delivery its attempts, and none is pending for too long.

use sqlx::Connection as _;
use webhook::{
    AttemptId, DeliveryId, EndpointId, EventId, OrganizationId, journal::DeliveryState, journal::Gap,
};

use super::deliveries::state;
use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store,
    columns::Columns,
    database::on_connection,
    statement::{Statement, bind_all},
};

/// How many of each kind of finding are listed; all are counted.
pub const FINDINGS_MAX: u32 = 1_000;

/// How many gaps are read. Each of them stands for a time when the broker took nothing: more would be no journal.
const GAPS_MAX: u32 = 10_000;

/// What belongs together is recorded at about the same time, in milliseconds. What is found missing within that is looked for
/// everywhere before it is reported.
const NEAR_MS: u64 = 60_000;

/// A delivery that is due within this time, in milliseconds, may have left its queue already.
const LEAVING_MS: u64 = 2_000;

/// What counts as late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditLimits {
    /// Now, in Unix milliseconds.
    pub now_ms: u64,
    /// How long a worker may have a due delivery in hand, in milliseconds: an attempt, and the waiting before and after it.
    pub in_hand_ms: u64,
    /// How long a delivery may be pending, in milliseconds: its schedule, and the deferrals.
    pub late_ms: u64,
}

/// What the journal says about a window of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// How many events were received in it.
    pub events: u64,
    /// How many endpoints they matched, in all.
    pub matched: u64,
    /// The deliveries created in it that came with their events.
    pub first_runs: StateCounts,
    /// The deliveries created in it that somebody asked for.
    pub resends: StateCounts,
    /// Events whose deliveries are not as many as they matched.
    pub unbalanced: Findings<Unbalanced>,
    /// Deliveries of which attempts are missing.
    pub unrecorded: Findings<Unrecorded>,
    /// Deliveries of the window that are pending for too long. A run that was requested and not yet sent is not.
    pub late: Findings<Late>,
    /// How many deliveries of all times must stand in a queue: they are pending, and not about to be attempted.
    pub pending_settled: u64,
    /// How many of them may have ended, in a gap: their next attempt was due before one had passed.
    pub pending_in_gaps: u64,
    /// How many requested runs of all times were not sent yet.
    pub unsent: u64,
    /// Where records were lost, overlapping the window; by time.
    pub gaps: Vec<Gap>,
}

/// Deliveries by their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// On their way.
    pub pending: u64,
    /// Their endpoint was deleted.
    pub cancelled: u64,
    /// In the dead letters.
    pub dead: u64,
    /// Answered with a 2xx.
    pub delivered: u64,
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings<T> {
    /// How many there are.
    pub total: u64,
    /// How many of them a gap explains.
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
    /// When it was received, in Unix milliseconds; when the event is missing, when its first delivery was created.
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

const SUM_EVENTS: &str = "SELECT COUNT(*) AS events, COALESCE(CAST(SUM(matched) AS BIGINT), 0) AS matched, \
    COALESCE(CAST(SUM(mark) AS BIGINT), 0) AS mark FROM events WHERE received_ms >= $1 AND received_ms < $2";

const COUNT_DELIVERIES: &str = "SELECT resent, state, COUNT(*) AS deliveries, CAST(SUM(mark) AS BIGINT) AS mark FROM \
    (SELECT CAST(CASE WHEN run = 0 THEN 0 ELSE 1 END AS BIGINT) AS resent, state, mark FROM deliveries \
    WHERE created_ms >= $1 AND created_ms < $2) runs GROUP BY resent, state";

/// How many of what was found a gap explains: it overlaps the time from `$late` milliseconds before `$at_ms` until as long after.
macro_rules! in_gaps {
    ($at_ms:literal, $late:literal) => {
        concat!(
            "SUM(CASE WHEN EXISTS (SELECT 1 FROM gaps g WHERE g.from_ms <= ",
            $at_ms,
            " + ",
            $late,
            " AND g.until_ms >= ",
            $at_ms,
            " - ",
            $late,
            ") THEN 1 ELSE 0 END) OVER () AS in_gaps "
        )
    };
}

/// Suspects are found by what was recorded near the window, two ranges of indexes that are joined; then each of them is compared
/// with all there is.
const FIND_UNBALANCED: &str = concat!(
    "WITH counted AS MATERIALIZED ( \
    SELECT event_id, organization_id, COUNT(*) AS deliveries, MIN(created_ms) AS created_ms FROM deliveries \
    WHERE run = 0 AND created_ms >= $3 AND created_ms < $4 GROUP BY event_id, organization_id \
    ), near AS MATERIALIZED ( \
    SELECT id, organization_id, received_ms, matched FROM events WHERE received_ms >= $3 AND received_ms < $4 \
    ), suspects AS MATERIALIZED ( \
    SELECT n.id, n.organization_id, n.received_ms, n.matched FROM near n \
    LEFT JOIN counted c ON c.event_id = n.id AND c.organization_id = n.organization_id \
    WHERE n.received_ms >= $1 AND n.received_ms < $2 AND n.matched <> COALESCE(c.deliveries, 0) \
    UNION ALL \
    SELECT c.event_id, c.organization_id, c.created_ms, NULL FROM counted c \
    LEFT JOIN near n ON n.id = c.event_id AND n.organization_id = c.organization_id \
    WHERE n.id IS NULL AND c.created_ms >= $1 AND c.created_ms < $2 \
    ), found AS ( \
    SELECT s.*, (SELECT COUNT(*) FROM deliveries d WHERE d.event_id = s.id AND d.organization_id = s.organization_id \
    AND d.run = 0) AS deliveries, (SELECT COUNT(*) FROM events e WHERE e.id = s.id \
    AND e.organization_id = s.organization_id) AS events FROM suspects s) \
    SELECT id, organization_id, received_ms AS at_ms, matched, deliveries, COUNT(*) OVER () AS total, ",
    in_gaps!("received_ms", "$6"),
    "FROM found \
    WHERE (matched IS NULL AND events = 0) OR matched <> deliveries ORDER BY received_ms, id LIMIT $5"
);

/// Likewise. Most deliveries have one attempt: whether the last one is there is one join. The others' attempts are counted by
/// their numbers: one that was made again, because a worker died, has two rows.
const FIND_UNRECORDED: &str = concat!(
    "WITH suspects AS MATERIALIZED ( \
    SELECT DISTINCT d.id, d.created_ms, d.attempts FROM deliveries d \
    LEFT JOIN attempts a ON a.delivery_id = d.id AND a.number = d.attempts AND a.id >= $3 AND a.id < $4 \
    WHERE d.created_ms >= $1 AND d.created_ms < $2 AND d.attempts > 0 AND (a.id IS NULL OR d.attempts > 1) \
    ), found AS ( \
    SELECT s.*, (SELECT COUNT(DISTINCT a.number) FROM attempts a WHERE a.delivery_id = s.id) AS recorded FROM suspects s) \
    SELECT id, (SELECT d.endpoint_id FROM deliveries d WHERE d.id = f.id) AS endpoint_id, created_ms AS at_ms, attempts, \
    recorded, COUNT(*) OVER () AS total, ",
    in_gaps!("created_ms", "$6"),
    "FROM found f WHERE attempts > recorded ORDER BY created_ms, id LIMIT $5"
);

const FIND_LATE: &str = concat!(
    "SELECT d.id, d.organization_id, d.event_id, d.endpoint_id, d.created_ms AS at_ms, d.next_ms, \
    COUNT(*) OVER () AS total, ",
    in_gaps!("d.created_ms", "$5"),
    "FROM deliveries d WHERE d.state = 0 AND d.state <> 3 AND d.created_ms >= $1 AND d.created_ms < $2 \
    AND (d.requested_ms IS NULL OR d.sent_ms IS NOT NULL) AND COALESCE(d.sent_ms, d.created_ms) < $3 \
    ORDER BY d.created_ms, d.id LIMIT $4"
);

const COUNT_PENDING: &str = "SELECT \
    COALESCE(SUM(CASE WHEN requested_ms IS NOT NULL AND sent_ms IS NULL AND attempts = 0 THEN 1 ELSE 0 END), 0) AS unsent, \
    COALESCE(SUM(CASE WHEN requested_ms IS NOT NULL AND sent_ms IS NULL AND attempts = 0 THEN 0 \
    WHEN next_ms > $1 OR next_ms < $2 THEN 1 ELSE 0 END), 0) AS settled, \
    COALESCE(SUM(CASE WHEN requested_ms IS NOT NULL AND sent_ms IS NULL AND attempts = 0 THEN 0 \
    WHEN next_ms < $2 AND EXISTS (SELECT 1 FROM gaps g WHERE g.from_ms <= next_ms + $3 AND g.until_ms >= created_ms) \
    THEN 1 ELSE 0 END), 0) AS in_gaps \
    FROM deliveries WHERE state = 0 AND state <> 3";

const SELECT_GAPS: &str = "SELECT worker, from_ms, until_ms, record_count FROM gaps WHERE until_ms >= $1 AND from_ms < $2 \
    ORDER BY from_ms, worker LIMIT $3";

/// A finding, with how many there are in all, and how many of those a gap explains.
type Found<T> = (T, (u64, u64));

/// Every row that a statement finds in a transaction; steps of an [`on_connection!`].
macro_rules! fetch_all {
    ($tx:ident, $statement:expr, $read:expr) => {{
        let statement = $statement;
        let query = bind_all!(sqlx::query(statement.sql()), &statement.arguments);
        query.try_map(|row| $read(&row)).fetch_all(&mut *$tx).await?
    }};
}

impl Store {
    /// Balances what was recorded of the events received, and of the deliveries created, from `since_ms` until before
    /// `until_ms`, all as of one moment.
    ///
    /// What it does not see: an event of which no record at all arrived, and that is in no gap.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn audit(&self, since_ms: u64, until_ms: u64, limits: AuditLimits) -> Result<Audit, Error> {
        let operation = &Operation::Audit;
        let window = Window::new(since_ms, until_ms, limits);
        let window = &window;
        on_connection!(
            &self.database,
            reader,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_snapshot).await?;
                for statement in dialect.prepare_joins {
                    sqlx::query(*statement).execute(&mut *tx).await?;
                }
                let mut audit = Audit {
                    gaps: fetch_all!(tx, window.gaps(), read_gap),
                    ..Audit::default()
                };
                let mut marks = [0, 0];
                for (events, matched, mark) in fetch_all!(tx, window.of(SUM_EVENTS), read_sums) {
                    (audit.events, audit.matched, marks[0]) = (events, matched, mark);
                }
                for (resent, state, deliveries, mark) in
                    fetch_all!(tx, window.of(COUNT_DELIVERIES), read_count)
                {
                    if resent {
                        *audit.resends.of(state) = deliveries;
                    } else {
                        *audit.first_runs.of(state) = deliveries;
                        marks[1] += mark;
                    }
                }
                for (unsent, settled, in_gaps) in fetch_all!(tx, window.pending(), read_pending) {
                    (audit.unsent, audit.pending_settled, audit.pending_in_gaps) = (unsent, settled, in_gaps);
                }
                // Comparing each event with its deliveries takes longest, and is of no use when the sums agree.
                let unbalanced = if marks[0] == marks[1] && audit.matched == audit.first_runs.total() {
                    Vec::new()
                } else {
                    fetch_all!(tx, window.unbalanced(), read_unbalanced)
                };
                let unrecorded = fetch_all!(tx, window.unrecorded(), read_unrecorded);
                let late = fetch_all!(tx, window.late(), read_late);
                tx.commit().await?;

                audit.unbalanced = findings(unbalanced);
                audit.unrecorded = findings(unrecorded);
                audit.late = findings(late);
                Ok(audit)
            }
        )
    }
}

/// The time that is audited, and the statements about it.
struct Window {
    since_ms: u64,
    until_ms: u64,
    limits: AuditLimits,
    first_attempt: AttemptId,
    end_of_attempts: AttemptId,
}

impl Window {
    fn new(since_ms: u64, until_ms: u64, limits: AuditLimits) -> Self {
        let attempts_until_ms = until_ms.saturating_add(limits.late_ms);
        Self {
            since_ms,
            until_ms,
            limits,
            first_attempt: AttemptId::first_at(since_ms.saturating_sub(NEAR_MS)),
            end_of_attempts: AttemptId::first_at(attempts_until_ms.min(ATTEMPT_MS_MAX)),
        }
    }

    fn of(&self, sql: &'static str) -> Statement<'_> {
        Statement::with(sql, [self.since_ms.into(), self.until_ms.into()])
    }

    fn gaps(&self) -> Statement<'_> {
        let mut statement = self.of(SELECT_GAPS);
        statement.arguments.push(GAPS_MAX.into());
        statement
    }

    fn pending(&self) -> Statement<'_> {
        let AuditLimits {
            now_ms,
            in_hand_ms,
            late_ms,
        } = self.limits;
        let bounds = [
            now_ms.saturating_add(LEAVING_MS),
            now_ms.saturating_sub(in_hand_ms),
            late_ms,
        ];
        Statement::with(COUNT_PENDING, bounds.map(Into::into))
    }

    fn unbalanced(&self) -> Statement<'_> {
        let near = [
            self.since_ms.saturating_sub(NEAR_MS),
            self.until_ms.saturating_add(NEAR_MS),
        ];
        let mut statement = self.of(FIND_UNBALANCED);
        statement.arguments.extend(near.map(Into::into));
        statement.arguments.push(FINDINGS_MAX.into());
        statement.arguments.push(self.limits.late_ms.into());
        statement
    }

    fn unrecorded(&self) -> Statement<'_> {
        let mut statement = self.of(FIND_UNRECORDED);
        statement.arguments.push(self.first_attempt.as_str().into());
        statement.arguments.push(self.end_of_attempts.as_str().into());
        statement.arguments.push(FINDINGS_MAX.into());
        statement.arguments.push(self.limits.late_ms.into());
        statement
    }

    fn late(&self) -> Statement<'_> {
        let late = self.limits.now_ms.saturating_sub(self.limits.late_ms);
        let mut statement = self.of(FIND_LATE);
        statement.arguments.extend([late.into(), FINDINGS_MAX.into()]);
        statement.arguments.push(self.limits.late_ms.into());
        statement
    }
}

fn findings<T>(found: Vec<Found<T>>) -> Findings<T> {
    let (total, in_gaps) = found.first().map_or((0, 0), |(_, counts)| *counts);
    Findings {
        total,
        in_gaps,
        items: found.into_iter().map(|(item, _)| item).collect(),
    }
}

/// The latest time that an attempt's id can tell: 48 bits of milliseconds.
const ATTEMPT_MS_MAX: u64 = (1 << 48) - 1;

impl StateCounts {
    fn of(&mut self, state: DeliveryState) -> &mut u64 {
        match state {
            DeliveryState::Pending => &mut self.pending,
            DeliveryState::Cancelled => &mut self.cancelled,
            DeliveryState::Dead => &mut self.dead,
            DeliveryState::Delivered => &mut self.delivered,
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.pending + self.cancelled + self.dead + self.delivered
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

fn read_sums(row: &dyn Columns) -> Result<(u64, u64, u64), sqlx::Error> {
    Ok((row.number("events")?, row.number("matched")?, row.number("mark")?))
}

fn read_count(row: &dyn Columns) -> Result<(bool, DeliveryState, u64, u64), sqlx::Error> {
    let (resent, deliveries) = (row.integer("resent")? != 0, row.number("deliveries")?);
    Ok((resent, state(row)?, deliveries, row.number("mark")?))
}

fn read_pending(row: &dyn Columns) -> Result<(u64, u64, u64), sqlx::Error> {
    Ok((
        row.number("unsent")?,
        row.number("settled")?,
        row.number("in_gaps")?,
    ))
}

/// How many findings there are, and how many of them a gap explains.
fn read_counts(row: &dyn Columns) -> Result<(u64, u64), sqlx::Error> {
    Ok((row.number("total")?, row.number("in_gaps")?))
}

fn read_gap(row: &dyn Columns) -> Result<Gap, sqlx::Error> {
    Ok(Gap {
        worker: row.text("worker")?,
        from_ms: row.number("from_ms")?,
        until_ms: row.number("until_ms")?,
        count: row.number("record_count")?,
    })
}

fn read_unbalanced(row: &dyn Columns) -> Result<Found<Unbalanced>, sqlx::Error> {
    let unbalanced = Unbalanced {
        organization_id: OrganizationId::new(row.text("organization_id")?),
        event_id: EventId::new(row.text("id")?),
        received_ms: row.number("at_ms")?,
        matched: row.maybe_number("matched")?,
        deliveries: row.number("deliveries")?,
    };
    Ok((unbalanced, read_counts(row)?))
}

fn read_unrecorded(row: &dyn Columns) -> Result<Found<Unrecorded>, sqlx::Error> {
    let unrecorded = Unrecorded {
        delivery_id: DeliveryId::new(row.text("id")?),
        endpoint_id: EndpointId::new(row.text("endpoint_id")?),
        created_ms: row.number("at_ms")?,
        attempts: row.number("attempts")?,
        recorded: row.number("recorded")?,
    };
    Ok((unrecorded, read_counts(row)?))
}

fn read_late(row: &dyn Columns) -> Result<Found<Late>, sqlx::Error> {
    let late = Late {
        delivery_id: DeliveryId::new(row.text("id")?),
        organization_id: OrganizationId::new(row.text("organization_id")?),
        event_id: EventId::new(row.text("event_id")?),
        endpoint_id: EndpointId::new(row.text("endpoint_id")?),
        created_ms: row.number("at_ms")?,
        next_ms: row.number("next_ms")?,
    };
    Ok((late, read_counts(row)?))
}
