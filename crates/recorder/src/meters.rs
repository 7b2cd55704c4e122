//! The recorder's metrics about the journal.

use broker::BadMessage;
use metrics::Unit;
use runtime::{Metric, MetricLabel};

pub(crate) const RECORDED: Metric = Metric::counter(
    "magnetite_recorded_total",
    "Events, attempts, rejected messages and gaps written to the database; one that arrives twice is counted twice",
)
.by(&[MetricLabel::known("what", || vec![EVENT, ATTEMPT, REJECTED, GAP])]);
/// Values of the label `what`.
pub(crate) const EVENT: &str = "event";
pub(crate) const ATTEMPT: &str = "attempt";
pub(crate) const REJECTED: &str = "rejected";
pub(crate) const GAP: &str = "gap";

pub(crate) const SET_ASIDE: Metric = Metric::counter(
    "magnetite_recorder_set_aside_total",
    "Messages and records that could not be recorded and were stored as rejected messages",
)
.by(&[MetricLabel::known("reason", || {
    [BadMessage::reasons(), vec![BAD_BATCH, UNRECORDABLE]].concat()
})]);
/// The rejection reason of a message in the journal's queue that is not a batch of records.
pub(crate) const BAD_BATCH: &str = "bad_batch";
/// The rejection reason of a record or message that the database refuses.
pub(crate) const UNRECORDABLE: &str = "unrecordable";
pub(crate) const WRITE_FAILURES: Metric = Metric::counter(
    "magnetite_recorder_write_failures_total",
    "Transactions that failed because the database was unavailable; they are retried",
);
pub(crate) const COMMIT: Metric = Metric::seconds(
    "magnetite_recorder_commit_seconds",
    "Time from the beginning of a transaction until it was committed",
);
pub(crate) const LAG: Metric = Metric::seconds(
    "magnetite_journal_lag_seconds",
    "Time from the end of an attempt until it was recorded",
);
pub(crate) const RETENTION_STOPPED: Metric = Metric::gauge(
    "magnetite_retention_stopped",
    None,
    "1 while nothing is deleted because clocks disagree",
);
pub(crate) const DELETED: Metric = Metric::counter(
    "magnetite_journal_deleted_rows_total",
    "Rows that retention has deleted",
);
pub(crate) const QUEUE_READY: Metric = Metric::gauge(
    "magnetite_queue_messages_ready",
    None,
    "Messages that wait in the queue, measured every 15 s; NaN while unknown",
)
.by(&[MetricLabel::told("queue", "a queue's name without the prefix; queues of held deliveries and delay queues of an earlier schedule are not included")]);
pub(crate) const PENDING: Metric = Metric::gauge(
    "magnetite_pending_deliveries",
    None,
    "Deliveries in the journal that have not ended, measured every 15 s; NaN while unknown",
);
pub(crate) const PENDING_OLDEST: Metric = Metric::gauge(
    "magnetite_pending_oldest_seconds",
    Some(Unit::Seconds),
    "Age of the oldest delivery in the journal that has not ended, 0 if there is none; NaN while unknown",
);

/// All metrics of the recorder.
pub const METRICS: &[Metric] = &[
    RECORDED,
    SET_ASIDE,
    WRITE_FAILURES,
    COMMIT,
    LAG,
    RETENTION_STOPPED,
    DELETED,
    QUEUE_READY,
    PENDING,
    PENDING_OLDEST,
];
