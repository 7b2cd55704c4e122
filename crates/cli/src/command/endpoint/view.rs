//! How endpoints are printed.

use serde::Serialize;
use webhook::{Endpoint, EndpointId, ProjectId};

use crate::{command::listing::Listed, moment, output};

/// An endpoint as `--json` prints it. The secret is there after `create` alone.
#[derive(Debug, Serialize)]
pub(super) struct Shown<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    organization_id: &'a str,
    project_id: Option<&'a str>,
    url: &'a str,
    events: Vec<String>,
    enabled: bool,
    /// `manual`, `gone` after the endpoint answered 410, or `failing` after days without a success.
    disabled_reason: Option<&'static str>,
    disabled_at_ms: Option<i64>,
    /// Until when the secret before the last rotation is valid, too; it may have passed.
    old_secret_until_ms: Option<i64>,
    created_at_ms: i64,
    updated_at_ms: i64,
}

/// The secret is given right after it was made.
pub(super) fn shown<'a>(endpoint: &'a Endpoint, secret: Option<&'a str>) -> Shown<'a> {
    Shown {
        id: endpoint.id.as_str(),
        secret,
        organization_id: endpoint.organization_id.as_str(),
        project_id: endpoint.project_id.as_ref().map(ProjectId::as_str),
        url: &endpoint.url,
        events: endpoint
            .subscription
            .patterns()
            .iter()
            .map(ToString::to_string)
            .collect(),
        enabled: endpoint.disabled.is_none(),
        disabled_reason: endpoint
            .disabled
            .as_ref()
            .map(|disabled| disabled.reason.as_str()),
        disabled_at_ms: endpoint.disabled.as_ref().map(|disabled| disabled.at_ms),
        old_secret_until_ms: endpoint.previous.as_ref().map(|previous| previous.until_ms),
        created_at_ms: endpoint.created_at_ms,
        updated_at_ms: endpoint.updated_at_ms,
    }
}

/// A place in the listing: ordered by id.
pub(in crate::command) struct After(pub(super) EndpointId);

impl From<&Endpoint> for After {
    fn from(endpoint: &Endpoint) -> Self {
        Self(endpoint.id.clone())
    }
}

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
    type Cursor = After;

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
        output::json(&shown(self, None))
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

fn state(endpoint: &Endpoint) -> String {
    match &endpoint.disabled {
        None => "enabled".to_owned(),
        Some(disabled) => format!("disabled ({})", disabled.reason),
    }
}

fn time(unix_ms: i64) -> String {
    moment::second(unix_ms.try_into().unwrap_or_default())
}
