//! The worker's metrics about events, attempts and endpoints.

use std::{collections::HashMap, time::Duration};

use broker::BadMessage;
use metrics::{Counter, Histogram, Unit};
use runtime::{Metric, MetricLabel};
use strum::VariantNames as _;
use webhook::{CancelReason, DeadReason, DeferReason, EventKind, EventType, Outcome};

use crate::refusal::Refusal;

pub(crate) const EVENTS: Metric = Metric::counter("magnetite_events_total", "Events that were fanned out")
    .by(&[MetricLabel::known("type", || EventType::VARIANTS.to_vec())]);
pub(crate) const ATTEMPTS: Metric = Metric::counter(
    "magnetite_attempts_total",
    "Requests that were answered or failed, by what followed; those that failed because of a fault on Magnetite's side are not counted",
)
.by(&[MetricLabel::known("outcome", || Outcome::NAMES.to_vec())]);
pub(crate) const ATTEMPT_DURATION: Metric = Metric::seconds(
    "magnetite_attempt_duration_seconds",
    "Time from the start of an attempt until its response was read or it failed",
);
pub(crate) const PUBLISH_TO_DELIVERED: Metric = Metric::seconds(
    "magnetite_publish_to_delivered_seconds",
    "Time from an event's timestamp, by its publisher's clock, until its endpoint answered 2xx, retries included; resends are not counted",
);
pub(crate) const DEFERRALS: Metric = Metric::counter(
    "magnetite_deferrals_total",
    "Times that a delivery was deferred; no attempt is charged",
)
.by(&[MetricLabel::known("reason", || DeferReason::VARIANTS.to_vec())]);
pub(crate) const DEAD: Metric =
    Metric::counter("magnetite_dead_total", "Deliveries that became dead letters")
        .by(&[MetricLabel::known("reason", || DeadReason::VARIANTS.to_vec())]);
pub(crate) const CANCELLED: Metric = Metric::counter(
    "magnetite_cancelled_total",
    "Deliveries whose endpoint was deleted, and pings that failed",
)
.by(&[MetricLabel::known("reason", || CancelReason::VARIANTS.to_vec())]);
pub(crate) const REJECTED: Metric = Metric::counter(
    "magnetite_rejected_total",
    "Messages that could not be processed and were rejected",
)
.by(&[MetricLabel::known("reason", rejection_reasons)]);
/// The rejection reason of a delivery whose event belongs to another organization than its endpoint.
pub(crate) const OTHER_ORGANIZATION: &str = "other_organization";
/// The rejection reason of a delivery whose endpoint has never existed.
pub(crate) const UNKNOWN_ENDPOINT: &str = "unknown_endpoint";
/// The rejection reason of a message whose processing panicked.
pub(crate) const PANIC: &str = "panic";

/// Returns every reason for which a message is quarantined.
pub(crate) fn rejection_reasons() -> Vec<&'static str> {
    let of_the_work = [OTHER_ORGANIZATION, UNKNOWN_ENDPOINT, PANIC];
    [BadMessage::reasons(), of_the_work.to_vec()].concat()
}

pub(crate) const JOURNAL_RECORDS: Metric = Metric::counter(
    "magnetite_journal_records_total",
    "Records of events and attempts that the broker has confirmed",
);
pub(crate) const JOURNAL_DROPPED: Metric = Metric::counter(
    "magnetite_journal_dropped_total",
    "Records that were dropped because the broker accepted none; a gap in the journal says how many and when",
);
pub(crate) const PUBLISH_FAILURES: Metric = Metric::counter(
    "magnetite_publish_failures_total",
    "Times that a message's retry, dead letter or other publish failed; it is published again",
);
pub(crate) const UNCONFIRMED: Metric = Metric::gauge(
    "magnetite_unconfirmed_messages",
    None,
    "Messages whose publishes the broker has not confirmed in time; they stay unacknowledged",
);
pub(crate) const STALLS: Metric = Metric::counter(
    "magnetite_stalls_total",
    "Times that the process did not run for a second or more",
);
pub(crate) const REGISTRY_FAILURES: Metric = Metric::counter(
    "magnetite_registry_refresh_failures_total",
    "Times that changed endpoints could not be read from the database",
);
pub(crate) const REGISTRY_ENDPOINTS: Metric = Metric::gauge(
    "magnetite_registry_endpoints",
    None,
    "Endpoints that the worker has in memory",
);
pub(crate) const REGISTRY_VERSION: Metric = Metric::gauge(
    "magnetite_registry_version",
    None,
    "Version of the last change of an endpoint that the worker has read",
);
pub(crate) const CERTIFICATES_EXPIRING: Metric = Metric::gauge(
    "magnetite_certificates_expiring",
    None,
    "Hosts of endpoints whose certificate expires within 14 days",
);
pub(crate) const CERTIFICATE_EXPIRY_MIN: Metric = Metric::gauge(
    "magnetite_certificate_expiry_min_seconds",
    Some(Unit::Seconds),
    "Time until the earliest expiry of a certificate of any endpoint; +Inf while none has been seen",
);
pub(crate) const SLOTS: Metric = Metric::gauge(
    "magnetite_slots",
    None,
    "Attempts of up to a second that may be in flight at once",
);
pub(crate) const SLOTS_FREE: Metric = Metric::gauge("magnetite_slots_free", None, "Slots without an attempt");
pub(crate) const SLOW_SLOTS_USED: Metric = Metric::gauge(
    "magnetite_slow_slots_used",
    None,
    "Attempts that have been in flight for over a second",
);
pub(crate) const SLOTS_REFUSED: Metric = Metric::counter(
    "magnetite_slots_refused_total",
    "Deliveries that got no slot, by the limit that was reached",
)
.by(&[MetricLabel::known("by", || Refusal::VARIANTS.to_vec())]);
pub(crate) const SLOW_ENDED: Metric = Metric::counter(
    "magnetite_slow_attempts_ended_total",
    "Attempts of over a second that were ended to make room for others",
);

/// All metrics of the worker.
pub const METRICS: &[Metric] = &[
    EVENTS,
    ATTEMPTS,
    ATTEMPT_DURATION,
    PUBLISH_TO_DELIVERED,
    DEFERRALS,
    DEAD,
    CANCELLED,
    REJECTED,
    JOURNAL_RECORDS,
    JOURNAL_DROPPED,
    PUBLISH_FAILURES,
    UNCONFIRMED,
    STALLS,
    REGISTRY_FAILURES,
    REGISTRY_ENDPOINTS,
    REGISTRY_VERSION,
    CERTIFICATES_EXPIRING,
    CERTIFICATE_EXPIRY_MIN,
    SLOTS,
    SLOTS_FREE,
    SLOW_SLOTS_USED,
    SLOTS_REFUSED,
    SLOW_ENDED,
];

/// Handles of the metrics that every delivery changes. They are looked up once, because a lookup costs
/// several times as much as a change.
pub(crate) struct Meters {
    delivered: Counter,
    attempt_duration: Histogram,
    publish_to_delivered: Histogram,
    events: HashMap<EventKind, Counter>,
}

impl Meters {
    pub(crate) fn new() -> Self {
        let events = EventType::ALL
            .into_iter()
            .map(|kind| (EventKind::Of(kind), EVENTS.count([kind.as_str()])));
        Self {
            delivered: ATTEMPTS.count([Outcome::Delivered.as_str()]),
            attempt_duration: ATTEMPT_DURATION.durations([]),
            publish_to_delivered: PUBLISH_TO_DELIVERED.durations([]),
            events: events.collect(),
        }
    }

    /// Counts an event that was fanned out.
    pub(crate) fn event(&self, kind: EventKind) {
        if let Some(counter) = self.events.get(&kind) {
            counter.increment(1);
        }
    }

    /// Counts a request that was charged to its endpoint, and records its duration.
    pub(crate) fn attempted(&self, decided: Outcome, took: Duration) {
        self.attempt_duration.record(took);
        match decided {
            Outcome::Delivered => self.delivered.increment(1),
            _ => ATTEMPTS.count([decided.as_str()]).increment(1),
        }
    }

    /// Records the time from an event's timestamp until its endpoint received it.
    pub(crate) fn delivered(&self, after: Duration) {
        self.publish_to_delivered.record(after);
    }
}
