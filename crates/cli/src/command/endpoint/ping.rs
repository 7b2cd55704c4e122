//! `endpoint ping`: tests whether the endpoint answers.

use std::{borrow::Cow, time::Duration};

use anyhow::{Context as _, bail};
use broker::{Publisher, Topology};
use runtime::time;
use serde::Serialize;
use service::{
    ping::{self, Pinged},
    view,
};
use store::{AttemptRow, Store};
use webhook::{Delivery, Endpoint, EndpointId};

use crate::{broker_link::BrokerLink, command::remedies, configuration::Configuration, output};

/// The maximum time that the ping spends in queues and that its record needs to reach the database.
const LAG: Duration = Duration::from_secs(5);

/// Prints the result of the ping. Returns an error if the endpoint did not answer with a 2xx.
pub(super) async fn run(
    id: &EndpointId,
    store: &Store,
    configuration: &Configuration,
    as_json: bool,
) -> anyhow::Result<()> {
    let endpoint = super::find(store, id).await?;
    if !configuration.worker.journal {
        bail!(
            "journal.enabled is false, so the result of a ping would be only in the worker's log; enable the journal"
        );
    }
    let (config, topology) = (configuration.broker.config(), configuration.topology());
    let broker = BrokerLink::open(&config).await?;
    let publisher = Publisher::new(broker.link.clone(), &config);
    let sent = ping::send(
        &publisher,
        &topology,
        &endpoint,
        runtime::now_ms(),
        rand::random(),
    )
    .await;
    let sent = sent.context("the ping may not have been sent")?;
    let patience = configuration.egress.attempt_timeout + LAG;
    let pinged = ping::result(store, &sent, patience).await?;
    let pinged = match pinged {
        Some(pinged) if pinged.is_over() => pinged,
        pinged => {
            let why = unanswered(pinged.as_ref(), &broker, &topology).await;
            broker.close().await;
            bail!("ping {}: no result within {patience:?}; {why}", sent.event.id);
        }
    };
    broker.close().await;
    let object = Object {
        ping: view::ping(&sent, Some(&pinged)),
        advice: advice(&pinged),
    };
    output::unless_left(output::said_line(as_json, &object, &text(&sent, &pinged)))?;
    tell_if_disabled(&endpoint);
    if !pinged.is_delivered() {
        bail!("the ping of {id} failed");
    }
    Ok(())
}

/// Returns why there is no result: what delays the ping, or which role is not running, as far as the queues
/// show.
async fn unanswered(pinged: Option<&Pinged>, broker: &BrokerLink, topology: &Topology) -> String {
    if let Some(pinged) = pinged {
        let reason = &pinged.delivery.standing.reason;
        return match reason.as_str() {
            "" => "it is in progress; `magnetite event show` will show the result".to_owned(),
            reason => format!(
                "a worker deferred it ({}); `magnetite event show` will show the result",
                output::printable(reason)
            ),
        };
    }
    let found = topology.check(&broker.link).await.unwrap_or_default();
    let is_idle = |name: String| {
        let mut states = found.iter().flatten();
        states.any(|state| state.name == name && state.consumers == 0)
    };
    match (is_idle(topology.due()), is_idle(topology.journal())) {
        (true, _) => "no worker is running: start one (`magnetite worker`)".to_owned(),
        (_, true) => "no recorder is running: start one (`magnetite recorder`)".to_owned(),
        _ => "a worker and a recorder are running: their logs show what delays it; `magnetite event show` may show the result later".to_owned(),
    }
}

fn tell_if_disabled(endpoint: &Endpoint) {
    if let Some(disabled) = &endpoint.disabled {
        output::note(&format!(
            "The endpoint is disabled ({}): it receives pings, but no events until `magnetite endpoint enable {}`.",
            disabled.reason, endpoint.id
        ));
    }
}

/// Returns what to do about a failed ping.
fn advice(pinged: &Pinged) -> Option<Cow<'static, str>> {
    if pinged.is_delivered() {
        return None;
    }
    let last = pinged.attempts.last()?;
    remedies::on_recorded(last.status, &last.failure)
}

fn text(sent: &Delivery, pinged: &Pinged) -> String {
    let mut fields = vec![
        ("ping", sent.event.id.to_string()),
        ("delivery", sent.id().to_string()),
    ];
    let result = if pinged.is_delivered() {
        "answered"
    } else {
        "failed"
    };
    match pinged.attempts.last() {
        Some(last) => fields.push((result, in_words(last))),
        None => fields.push((result, pinged.delivery.standing.reason.clone())),
    }
    fields.extend(advice(pinged).map(|advice| ("to do", advice.into_owned())));
    output::fields(&fields)
}

fn in_words(attempt: &AttemptRow) -> String {
    let result = match (attempt.status, attempt.error.as_str()) {
        (Some(status), "") => format!("status {status}"),
        (_, error) => error.to_owned(),
    };
    format!("{result}, after {}", time::span(attempt.duration_ms))
}

/// The object that the API returns, with advice.
#[derive(Serialize)]
struct Object {
    #[serde(flatten)]
    ping: wire::Ping,
    advice: Option<Cow<'static, str>>,
}
