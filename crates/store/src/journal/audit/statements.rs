//! The SQL statements of an audit. `{gaps}` is replaced by the table of gaps, together with the periods of
//! other losses.

/// Counts events by minute, like the totals.
pub(super) const COUNT_EVENTS: &str = "SELECT received_ms / 60000 AS minute, COUNT(*) AS events, CAST(SUM(matched) AS BIGINT) AS matched, \
    CAST(SUM(mark) AS BIGINT) AS mark FROM events WHERE received_ms >= $1 AND received_ms < $2 GROUP BY minute";

/// Counts deliveries by minute, kind of run and state.
pub(super) const COUNT_DELIVERIES: &str = "SELECT minute, resent, state, COUNT(*) AS deliveries, CAST(SUM(mark) AS BIGINT) AS mark FROM \
    (SELECT created_ms / 60000 AS minute, CAST(CASE WHEN run = 0 THEN 0 ELSE 1 END AS BIGINT) AS resent, state, mark \
    FROM deliveries WHERE created_ms >= $1 AND created_ms < $2) runs GROUP BY minute, resent, state";

pub(super) const COUNT_DELIVERIES_OF_EVENTS: &str = "SELECT d.state AS state, COUNT(*) AS deliveries FROM events e JOIN deliveries d ON d.event_id = e.id AND d.organization_id = e.organization_id \
    WHERE e.received_ms >= $1 AND e.received_ms < $2 AND d.run = 0 AND d.created_ms >= $3 AND d.created_ms < $4 GROUP BY d.state";

/// Counts how many findings a gap in `{gaps}` explains: the gap overlaps the period from `$late` milliseconds
/// before `$at_ms` until `$late` milliseconds after it. `$group` is empty, or counts those of each group apart.
macro_rules! in_gaps {
    ($at_ms:literal, $late:literal, $group:literal) => {
        concat!(
            "SUM(CASE WHEN EXISTS (SELECT 1 FROM {gaps} g WHERE g.from_ms <= ",
            $at_ms,
            " + ",
            $late,
            " AND g.until_ms >= ",
            $at_ms,
            " - ",
            $late,
            ") THEN 1 ELSE 0 END) OVER (",
            $group,
            ") AS in_gaps "
        )
    };
}

/// Finds suspects by joining two index ranges of rows that were recorded near the window. Then compares each
/// suspect with all rows.
///
/// A delivery that was created at `$7` or later is no suspect if its event is missing. A worker records an event
/// when all of its deliveries are in the queue, and the first of them may have been attempted by then.
///
/// If the first delivery of a missing event was created at `$8` or later, the record of the event may still arrive.
/// These events are listed after all others and counted apart. `awaited_ms` is when the last of them was created, and
/// NULL for the others.
pub(super) const FIND_UNBALANCED: &str = concat!(
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
    WHERE n.id IS NULL AND c.created_ms >= $1 AND c.created_ms < $2 AND c.created_ms < $7 \
    ), found AS ( \
    SELECT s.*, (SELECT COUNT(*) FROM deliveries d WHERE d.event_id = s.id AND d.organization_id = s.organization_id \
    AND d.run = 0) AS deliveries, (SELECT COUNT(*) FROM events e WHERE e.id = s.id \
    AND e.organization_id = s.organization_id) AS events, \
    CASE WHEN s.matched IS NULL AND s.received_ms >= $8 THEN 1 ELSE 0 END AS is_awaited FROM suspects s) \
    SELECT id, organization_id, received_ms AS at_ms, matched, deliveries, COUNT(*) OVER (PARTITION BY is_awaited) AS total, \
    CASE WHEN is_awaited = 1 THEN MAX(received_ms) OVER (PARTITION BY is_awaited) END AS awaited_ms, ",
    in_gaps!("received_ms", "$6", "PARTITION BY is_awaited"),
    "FROM found \
    WHERE (matched IS NULL AND events = 0) OR matched <> deliveries ORDER BY is_awaited, received_ms, id LIMIT $5"
);

/// Counts the deliveries that may lack an attempt. The condition is that of an index that contains almost
/// only rows of older versions.
pub(super) const COUNT_SUSPECTS: &str = "SELECT COUNT(*) AS suspects FROM deliveries \
    WHERE created_ms >= $1 AND created_ms < $2 AND CASE WHEN recorded IS NULL OR attempts > 62 THEN 1 \
    ELSE (~recorded) & ((CAST(1 AS BIGINT) << CAST(attempts AS INTEGER)) - 1) END <> 0";

/// Finds suspects in the same way as [`FIND_UNBALANCED`]. Counts distinct attempt numbers, because an attempt
/// that was repeated after a worker died has two rows.
pub(super) const FIND_UNRECORDED: &str = concat!(
    "WITH suspects AS MATERIALIZED ( \
    SELECT d.id, d.created_ms, d.attempts FROM deliveries d \
    LEFT JOIN attempts a ON a.delivery_id = d.id AND a.number <= d.attempts AND a.id >= $3 AND a.id < $4 \
    WHERE d.created_ms >= $1 AND d.created_ms < $2 AND d.attempts > 0 AND (a.id IS NULL OR d.attempts > 1) \
    GROUP BY d.id, d.created_ms, d.attempts HAVING COUNT(DISTINCT a.number) < d.attempts \
    ), found AS ( \
    SELECT s.*, (SELECT COUNT(DISTINCT a.number) FROM attempts a WHERE a.delivery_id = s.id \
    AND a.number <= s.attempts) AS recorded FROM suspects s) \
    SELECT id, (SELECT d.endpoint_id FROM deliveries d WHERE d.id = f.id) AS endpoint_id, created_ms AS at_ms, attempts, \
    recorded, COUNT(*) OVER () AS total, ",
    in_gaps!("created_ms", "$6", ""),
    "FROM found f WHERE attempts > recorded ORDER BY created_ms, id LIMIT $5"
);

pub(super) const FIND_LATE: &str = concat!(
    "SELECT d.id, d.organization_id, d.event_id, d.endpoint_id, d.created_ms AS at_ms, d.next_ms, \
    COUNT(*) OVER () AS total, ",
    in_gaps!("d.created_ms", "$5", ""),
    "FROM deliveries d WHERE d.state = 0 AND d.state <> 3 AND d.created_ms >= $1 AND d.created_ms < $2 \
    AND (d.requested_ms IS NULL OR d.sent_ms IS NOT NULL) AND COALESCE(d.sent_ms, d.created_ms) < $3 \
    ORDER BY d.created_ms, d.id LIMIT $4"
);

pub(super) const OLDEST_PENDING: &str =
    "SELECT MIN(created_ms) AS oldest_ms FROM deliveries WHERE state = 0 AND state <> 3";

pub(super) const COUNT_PENDING: &str = "SELECT \
    COALESCE(SUM(CASE WHEN requested_ms IS NOT NULL AND sent_ms IS NULL AND attempts = 0 THEN 1 ELSE 0 END), 0) AS unsent, \
    COALESCE(SUM(CASE WHEN requested_ms IS NOT NULL AND sent_ms IS NULL AND attempts = 0 THEN 0 \
    WHEN next_ms > $1 OR next_ms < $2 THEN 1 ELSE 0 END), 0) AS settled, \
    COALESCE(SUM(CASE WHEN requested_ms IS NOT NULL AND sent_ms IS NULL AND attempts = 0 THEN 0 \
    WHEN next_ms < $2 AND EXISTS (SELECT 1 FROM {gaps} g WHERE g.from_ms <= next_ms + $3 AND g.until_ms >= created_ms) \
    THEN 1 ELSE 0 END), 0) AS in_gaps, \
    COALESCE(SUM(CASE WHEN in_hand THEN 1 ELSE 0 END), 0) AS in_hand, \
    COALESCE(MAX(CASE WHEN in_hand THEN next_ms END), 0) AS in_hand_until_ms \
    FROM (SELECT d.*, (next_ms BETWEEN $2 AND $1 AND NOT (requested_ms IS NOT NULL AND sent_ms IS NULL AND attempts = 0) \
    AND NOT EXISTS (SELECT 1 FROM {gaps} g WHERE g.from_ms <= next_ms + $3 AND g.until_ms >= created_ms)) AS in_hand \
    FROM deliveries d WHERE state = 0 AND state <> 3) pending";

/// Counts the recorders, and the deliveries held by all roles, among roles that announced themselves
/// recently. `{now}` is the database's clock.
pub(super) const COUNT_ROLES: &str = "SELECT COALESCE(SUM(CASE WHEN role = 'recorder' THEN 1 ELSE 0 END), 0) AS recorders, \
    COALESCE(CAST(SUM(in_hand) AS BIGINT), 0) AS in_hand FROM roles WHERE closed_ms IS NULL AND seen_ms >= {now} - $1";

pub(super) const SELECT_GAPS: &str = "SELECT worker, from_ms, until_ms, record_count FROM gaps WHERE until_ms >= $1 AND from_ms < $2 \
    ORDER BY from_ms, worker LIMIT $3";
