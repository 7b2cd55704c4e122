//! Metrics of requests.

use runtime::{Metric, MetricLabel};

pub(crate) const REQUEST_DURATION: Metric = Metric::seconds(
    "magnetite_api_request_duration_seconds",
    "From a request's headers until its answer's headers",
)
.by(&[
    MetricLabel::told("method", "the request's method, `other` for one that no path has"),
    MetricLabel::told(
        "route",
        "the path in the OpenAPI document, `none` if there is no such path",
    ),
    MetricLabel::told("status_class", "`2xx` and so on"),
]);

/// All metrics of this crate.
pub const METRICS: &[Metric] = &[REQUEST_DURATION];
