//! `magnetite trigger`: sends a signed sample of any event from this machine, without any setup.
//!
//! The request is the same as a worker would make. It involves no broker, no database and no configuration,
//! and is recorded nowhere.

use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use bytes::Bytes;
use clap::Args;
use egress::USER_AGENT;
use runtime::time;
use serde_json::{Value, json, value::RawValue};
use signature::SigningKey;
use webhook::{
    About, AttemptResult, DeliveryId, EndpointId, Event, EventType, LeadId, OrganizationId, ProjectId,
    Signatures, request_headers,
};

use crate::{Usage, output};

use super::{arguments, remedies};

/// The maximum length of a response that is printed, in characters.
const RESPONSE_CHARS_MAX: usize = 2_000;
/// The endpoint id from which the delivery's id is derived, because there is no endpoint.
const NO_ENDPOINT: &str = "ep_trigger";

#[derive(Debug, Args)]
#[command(
    after_help = "The URL may have any address, including localhost, because this machine sends the request. Workers send requests to \
                  registered endpoints, and by default only to public addresses.\n\n\
                  Exits 1 if the answer is not a 2xx."
)]
pub(super) struct Arguments {
    /// The event's type, such as lead.completed
    #[arg(value_name = "TYPE")]
    event_type: EventType,
    /// The URL to send the event to
    #[arg(long)]
    url: String,
    #[command(flatten)]
    secret: arguments::SecretArgument,
    /// The event's organization
    #[arg(long, value_name = "ORGANIZATION", default_value = "org_123abc", value_parser = arguments::id)]
    org: String,
    /// The event's project
    #[arg(long, default_value = "proj_456def", value_parser = arguments::id)]
    project: String,
    /// The event's lead
    #[arg(long, default_value = "lead_789ghi", value_parser = arguments::id)]
    lead: String,
    /// The event's data, a JSON object, instead of the example's
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
    #[command(flatten)]
    trust: arguments::Trust,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The request that was sent, and its result.
struct Sent {
    url: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    result: AttemptResult,
    took: Duration,
}

/// Sends the event and prints the result.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let key = SigningKey::new(&arguments.secret.read()?);
    let event = arguments.event()?;
    let egress = arguments::unrestricted_egress(&arguments.trust)?;
    let signed_s = (runtime::now_ms() / 1000) as i64;
    let (organization, endpoint) = (&event.organization_id, EndpointId::new(NO_ENDPOINT));
    let id = DeliveryId::derive(organization, &event.id, &endpoint, 0);
    let headers = request_headers(&event, &id, 1, signed_s, Signatures::by(&key, &event, signed_s));
    let began = Instant::now();
    let result = egress
        .post(
            &egress.target(&arguments.url),
            headers.clone(),
            event.body.clone(),
        )
        .await?;
    let sent = Sent {
        took: began.elapsed(),
        url: arguments.url,
        headers,
        body: event.body,
        result,
    };
    output::unless_left(output::said_line(arguments.json, &sent.object(), &sent.text()))?;
    if !sent.result.is_success() {
        bail!("the receiver did not accept the event: {}", sent.result);
    }
    Ok(())
}

impl Arguments {
    /// Returns the event. Its id is derived from its bytes, which contain the time in milliseconds.
    fn event(&self) -> anyhow::Result<Event> {
        let about = About {
            organization_id: OrganizationId::new(&*self.org),
            project_id: ProjectId::new(&*self.project),
            lead_id: LeadId::new(&*self.lead),
            timestamp_ms: runtime::now_ms(),
        };
        let usage = |error: String| anyhow!(Usage(error));
        let body = match &self.data {
            None => webhook::sample(self.event_type, &about),
            Some(data) => {
                let data: &RawValue = serde_json::from_str(data)
                    .map_err(|error| usage(format!("--data: expected a JSON object: {error}")))?;
                about.event(self.event_type, data)
            }
        };
        Event::from_message(None, None, body).map_err(|rejection| usage(rejection.to_string()))
    }
}

impl Sent {
    /// Returns the headers, including those that the HTTP client adds to every request.
    fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = self.headers.iter().map(|(name, value)| (*name, value.as_str()));
        [("content-type", "application/json"), ("user-agent", USER_AGENT)]
            .into_iter()
            .chain(own)
    }

    fn advice(&self) -> Option<String> {
        let advice = match &self.result {
            result if result.is_success() => return None,
            AttemptResult::Answered(answer) => remedies::on_status(answer.status),
            AttemptResult::Failed(failure) => remedies::on_failure(failure.kind),
        };
        Some(advice.into_owned())
    }

    fn text(&self) -> String {
        let mut lines = vec![format!("POST {}", output::printable(&self.url))];
        lines.extend(self.headers().map(|(name, value)| format!("{name}: {value}")));
        lines.extend([
            String::new(),
            String::from_utf8_lossy(&self.body).into_owned(),
            String::new(),
        ]);
        let took = time::span(self.took.as_millis() as u64);
        lines.push(format!(
            "{}, after {took}",
            output::printable(&self.result.to_string())
        ));
        if let AttemptResult::Answered(answer) = &self.result {
            let response: String = String::from_utf8_lossy(&answer.body)
                .chars()
                .take(RESPONSE_CHARS_MAX)
                .collect();
            lines.extend(
                response
                    .lines()
                    .map(|line| format!("  {}", output::printable(line))),
            );
        }
        lines.push(match self.advice() {
            None => "ok: delivered".to_owned(),
            Some(advice) => format!("failed: {advice}"),
        });
        lines.join("\n")
    }

    fn object(&self) -> Value {
        let (response, failure) = match &self.result {
            AttemptResult::Answered(answer) => (Some(String::from_utf8_lossy(&answer.body)), None),
            AttemptResult::Failed(failure) => (None, Some(failure)),
        };
        json!({
            "ok": self.result.is_success(),
            "url": self.url,
            "headers": self.headers().collect::<std::collections::BTreeMap<_, _>>(),
            "body": String::from_utf8_lossy(&self.body),
            "status": self.result.status(),
            "duration_ms": self.took.as_millis() as u64,
            "response": response,
            "phase": failure.map(|failure| failure.phase.to_string()),
            "failure": failure.map(|failure| failure.kind.as_str()),
            "error": (!self.result.is_success()).then(|| self.result.to_string()),
            "advice": self.advice(),
        })
    }
}
