//! The details that the log of changes stores about a write of an endpoint. They never contain a secret, and
//! of a URL only the host.

use serde_json::{Map, Value, json};
use url::Url;

use super::row::Row;
use crate::ChangeKind;

/// The fields of a row that the log may contain, and the URL for comparison.
struct Told<'a> {
    host: Option<String>,
    url: Option<&'a str>,
    project_id: Option<&'a str>,
    events: &'a str,
    disabled_reason: Option<&'a str>,
    previous_until_ms: Option<i64>,
}

impl<'a> Told<'a> {
    fn of(row: &'a Row) -> Self {
        let (_, _, project_id, url, events, _, disabled_reason, .., previous_until_ms) = row;
        Self {
            host: url.as_deref().and_then(host),
            url: url.as_deref(),
            project_id: project_id.as_deref(),
            events,
            disabled_reason: disabled_reason.as_deref(),
            previous_until_ms: *previous_until_ms,
        }
    }

    fn whole(&self) -> Value {
        json!({ "host": self.host, "project_id": self.project_id, "events": self.events })
    }
}

fn host(url: &str) -> Option<String> {
    Url::parse(url).ok()?.host_str().map(str::to_owned)
}

/// Returns the differences that a write of this kind made, as one JSON object.
pub(super) fn detail(kind: ChangeKind, before: Option<&Row>, after: &Row) -> Value {
    let after = Told::of(after);
    let Some(before) = before.map(Told::of) else {
        return after.whole();
    };
    match kind {
        ChangeKind::EndpointUpdated => updated(&before, &after),
        ChangeKind::EndpointEnabled => json!({ "was": before.disabled_reason }),
        ChangeKind::EndpointDisabled => json!({ "reason": after.disabled_reason }),
        ChangeKind::SecretRotated => json!({ "old_secret_until_ms": after.previous_until_ms }),
        ChangeKind::EndpointDeleted => before.whole(),
        ChangeKind::EndpointCreated | ChangeKind::ApiKeyCreated | ChangeKind::ApiKeyRevoked => {
            unreachable!("a created endpoint has no row before, and an API key is not an endpoint")
        }
    }
}

/// Returns the fields that differ. If two URLs differ but have the same host, the result only says that the
/// URL has changed.
fn updated(before: &Told<'_>, after: &Told<'_>) -> Value {
    let mut changed = Map::new();
    if before.url != after.url {
        changed.insert("url_changed".to_owned(), true.into());
    }
    let mut compare = |field: &str, from: Option<&str>, to: Option<&str>| {
        if from != to {
            changed.insert(field.to_owned(), json!({ "from": from, "to": to }));
        }
    };
    compare("host", before.host.as_deref(), after.host.as_deref());
    compare("project_id", before.project_id, after.project_id);
    compare("events", Some(before.events), Some(after.events));
    changed.into()
}
