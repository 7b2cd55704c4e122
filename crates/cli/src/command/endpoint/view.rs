//! Formatting of endpoints.

use runtime::time;
use wire::Endpoint;

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
            self.id.clone(),
            self.organization_id.clone(),
            project(self),
            self.events.join(","),
            state(self),
            time(self.created_at_ms),
            self.url.clone(),
        ]
    }

    fn json(&self) -> String {
        output::json(self)
    }
}

pub(super) fn describe(endpoint: &Endpoint) -> String {
    let disabled = endpoint
        .disabled_at_ms
        .map(|disabled_at_ms| format!(" since {}", time(disabled_at_ms)));
    let old_secret = endpoint
        .old_secret_until_ms
        .map(|until_ms| ("old secret", format!("valid until {}", time(until_ms))));
    let mut fields = vec![
        ("id", endpoint.id.clone()),
        ("organization", endpoint.organization_id.clone()),
        ("project", project(endpoint)),
        ("url", endpoint.url.clone()),
        ("events", endpoint.events.join(",")),
        ("state", state(endpoint) + &disabled.unwrap_or_default()),
        ("created", time(endpoint.created_at_ms)),
        ("updated", time(endpoint.updated_at_ms)),
    ];
    fields.extend(old_secret);
    output::fields(&fields)
}

fn project(endpoint: &Endpoint) -> String {
    endpoint.project_id.clone().unwrap_or_else(|| "-".to_owned())
}

pub(super) fn state(endpoint: &Endpoint) -> String {
    if endpoint.enabled {
        return "enabled".to_owned();
    }
    let reason = endpoint.disabled_reason.as_deref().unwrap_or("unknown");
    format!("disabled ({reason})")
}

fn time(unix_ms: i64) -> String {
    time::second(unix_ms.try_into().unwrap_or_default())
}
