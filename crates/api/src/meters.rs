//! Metrics of requests.

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

/// All metrics of this crate.
pub const METRICS: &[Metric] = &[REQUEST_DURATION];
