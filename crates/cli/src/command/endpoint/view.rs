//! Formatting of endpoints.

use runtime::time;
use service::view;
use webhook::Endpoint;

use crate::{command::listing::Listed, output};

impl Listed<7> for Endpoint {
    const HEADING: [&'static str; 7] = [
        "id",
        "organization",
        "project",
        "events",
        "state",
        "created",
        "url",
    ];

    fn cells(&self) -> [String; 7] {
        [
            self.id.to_string(),
            self.organization_id.to_string(),
            project(self),
            self.subscription.to_string(),
            state(self),
            time(self.created_at_ms),
            self.url.clone(),
        ]
    }

    fn json(&self) -> String {
        output::json(&view::endpoint(self))
    }
}

pub(super) fn describe(endpoint: &Endpoint) -> String {
    let disabled = endpoint
        .disabled
        .as_ref()
        .map(|disabled| format!(" since {}", time(disabled.at_ms)));
    let old_secret = endpoint
        .previous
        .as_ref()
        .map(|previous| ("old secret", format!("valid until {}", time(previous.until_ms))));
    let mut fields = vec![
        ("id", endpoint.id.to_string()),
        ("organization", endpoint.organization_id.to_string()),
        ("project", project(endpoint)),
        ("url", endpoint.url.clone()),
        ("events", endpoint.subscription.to_string()),
        ("state", state(endpoint) + &disabled.unwrap_or_default()),
        ("created", time(endpoint.created_at_ms)),
        ("updated", time(endpoint.updated_at_ms)),
    ];
    fields.extend(old_secret);
    output::fields(&fields)
}

fn project(endpoint: &Endpoint) -> String {
    endpoint
        .project_id
        .as_ref()
        .map_or_else(|| "-".to_owned(), ToString::to_string)
}

pub(super) fn state(endpoint: &Endpoint) -> String {
    match &endpoint.disabled {
        None => "enabled".to_owned(),
        Some(disabled) => format!("disabled ({})", disabled.reason),
    }
}

fn time(unix_ms: i64) -> String {
    time::second(unix_ms.try_into().unwrap_or_default())
}
