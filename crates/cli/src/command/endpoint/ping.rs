//! `endpoint ping`: tests whether the endpoint answers.

use std::borrow::Cow;

use anyhow::bail;
use runtime::time;
use serde::Serialize;
use webhook::EndpointId;
use wire::{Endpoint, Ping};

use crate::{backend::Backend, command::remedies, output};

/// Prints the result of the ping. Returns an error if the endpoint did not answer with a 2xx.
pub(super) async fn run(id: &EndpointId, backend: &Backend, as_json: bool) -> anyhow::Result<()> {
    let ping = backend.ping(id).await?;
    let is_delivered = ping.ok == Some(true);
    let advice = advice(&ping);
    let text = text(&ping, advice.as_deref());
    output::unless_left(output::said_line(as_json, &Object { ping, advice }, &text))?;
    // A key that may ping may not be allowed to read, and the ping was made in any case.
    if let Ok(endpoint) = backend.endpoint(id).await {
        tell_if_disabled(&endpoint);
    }
    if !is_delivered {
        bail!("the ping of {id} failed");
    }
    Ok(())
}

fn tell_if_disabled(endpoint: &Endpoint) {
    if let Some(reason) = &endpoint.disabled_reason {
        output::note(&format!(
            "The endpoint is disabled ({reason}): it receives pings, but no events until `magnetite endpoint enable {}`.",
            endpoint.id
        ));
    }
}

/// Returns what to do about a failed ping.
fn advice(ping: &Ping) -> Option<Cow<'static, str>> {
    if ping.ok == Some(true) {
        return None;
    }
    remedies::on_recorded(ping.status, ping.failure.as_deref().unwrap_or_default())
}

fn text(ping: &Ping, advice: Option<&str>) -> String {
    let mut fields = vec![("ping", ping.id.clone()), ("delivery", ping.delivery_id.clone())];
    let result = if ping.ok == Some(true) {
        "answered"
    } else {
        "failed"
    };
    fields.push((result, in_words(ping)));
    fields.extend(advice.map(|advice| ("to do", advice.to_owned())));
    output::fields(&fields)
}

/// Returns how the endpoint answered, or why it was not asked.
fn in_words(ping: &Ping) -> String {
    let Some(duration_ms) = ping.duration_ms else {
        return ping.reason.clone().unwrap_or_default();
    };
    let result = match (ping.status, &ping.error) {
        (Some(status), None) => format!("status {status}"),
        (_, error) => error.clone().unwrap_or_default(),
    };
    format!("{result}, after {}", time::span(duration_ms))
}

/// The object that the API returns, with advice.
#[derive(Serialize)]
struct Object {
    #[serde(flatten)]
    ping: Ping,
    advice: Option<Cow<'static, str>>,
}
