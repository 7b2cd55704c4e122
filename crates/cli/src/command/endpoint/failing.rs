//! The listing of failing endpoints.

use runtime::time;
use service::view;
use store::Failing;

use crate::{command::listing::Listed, output};

use super::view::state;

impl Listed<8> for Failing {
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
        [
            self.endpoint.id.to_string(),
            self.endpoint.organization_id.to_string(),
            state(&self.endpoint),
            time::second(self.failing_since_ms),
            rate(self),
            self.pending.to_string(),
            self.last_error.clone(),
            self.endpoint.url.clone(),
        ]
    }

    fn json(&self) -> String {
        output::json(&view::failing_endpoint(self))
    }
}

/// Returns the success rate of the last hour, rounded down to a tenth of a percent, so that one failure among
/// many does not read as 100%.
pub(in crate::command) fn rate(found: &Failing) -> String {
    match view::failing(found).success_rate_last_hour {
        Some(rate) => format!("{:.1}%", (rate * 1000.0).floor() / 10.0),
        None => "-".to_owned(),
    }
}
