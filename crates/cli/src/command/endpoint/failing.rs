//! The listing of failing endpoints.

use runtime::time;
use wire::{Endpoint, Failing};

use crate::{command::listing::Listed, output};

use super::view::state;

/// An endpoint in the listing of failing endpoints, with since when and why it fails.
pub(super) struct FailingEndpoint(pub(super) Endpoint);

impl Listed<8> for FailingEndpoint {
    const HEADING: [&'static str; 8] = [
        "id",
        "organization",
        "state",
        "failing since",
        "success (1h)",
        "pending",
        "last error",
        "url",
    ];

    fn cells(&self) -> [String; 8] {
        let Self(endpoint) = self;
        let failing =
            |cell: fn(&Failing) -> String| endpoint.failing.as_ref().map_or_else(|| "-".to_owned(), cell);
        [
            endpoint.id.clone(),
            endpoint.organization_id.clone(),
            state(endpoint),
            failing(|failing| time::second(failing.since_ms)),
            failing(rate),
            failing(|failing| failing.pending.to_string()),
            failing(|failing| failing.last_error.clone()),
            endpoint.url.clone(),
        ]
    }

    fn json(&self) -> String {
        output::json(&self.0)
    }
}

/// Returns the success rate of the last hour, rounded down to a tenth of a percent, so that one failure among
/// many does not read as 100%.
pub(in crate::command) fn rate(failing: &Failing) -> String {
    match failing.success_rate_last_hour {
        Some(rate) => format!("{:.1}%", (rate * 1000.0).floor() / 10.0),
        None => "-".to_owned(),
    }
}
