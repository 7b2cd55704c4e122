//! Metrics of requests and of relays.

use runtime::{Metric, MetricLabel};

pub(crate) const REQUEST_DURATION: Metric = Metric::seconds(
    "magnetite_api_request_duration_seconds",
    "Time from the headers of a request to the headers of its response",
)
.by(&[
    MetricLabel::told(
        "method",
        "the request's method, `other` for any but GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS",
    ),
    MetricLabel::told(
        "route",
        "the path in the OpenAPI document, `none` if there is no such path",
    ),
    MetricLabel::told("status_class", "`2xx` and so on"),
]);

pub(crate) const RELAYS: Metric = Metric::gauge(
    "magnetite_api_relays",
    None,
    "Programs that are connected to relays",
);
pub(crate) const RELAY_REQUESTS: Metric = Metric::counter(
    "magnetite_api_relay_requests_total",
    "Requests that were sent to programs that are connected to relays",
);
pub(crate) const RELAY_ANSWERS: Metric = Metric::counter(
    "magnetite_api_relay_answers_total",
    "Requests of relays whose outcome is known",
)
.by(&[MetricLabel::known("outcome", relay_outcomes)]);

/// The outcomes of requests of relays: the program has answered, the connection of the program or of its receiver was
/// closed without an answer, or no answer came in time.
pub(crate) const ANSWERED: &str = "answered";
pub(crate) const CLOSED: &str = "closed";
pub(crate) const LATE: &str = "late";

fn relay_outcomes() -> Vec<&'static str> {
    vec![ANSWERED, CLOSED, LATE]
}

/// All metrics of this crate.
pub const METRICS: &[Metric] = &[REQUEST_DURATION, RELAYS, RELAY_REQUESTS, RELAY_ANSWERS];
