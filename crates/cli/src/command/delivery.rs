//! `magnetite delivery`: deliveries, each of one event to one endpoint, and how to send them again.

mod resend;
pub(super) mod run;

use clap::{Args, Subcommand};
use runtime::time;
use store::DeliveryFilter;
use webhook::{DeliveryId, EndpointId, EventId, OrganizationId, journal::DeliveryState};
use wire::Delivery;

use crate::{backend::Backend, output};

use super::{
    arguments,
    listing::{self, Listed},
};
use run::Around;

pub(super) type Arguments = arguments::Actions<Action>;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// List deliveries, newest first
    List(List),
    /// Show one delivery: each attempt, and what comes next
    Show {
        /// The delivery's id
        id: String,
    },
    /// Send deliveries that have ended again: same event, same bytes, as a new run with a fresh set of
    /// attempts
    Resend {
        /// The deliveries' ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only this organization's deliveries
    #[arg(long, value_name = "ORGANIZATION", value_parser = arguments::id)]
    org: Option<String>,
    /// Only deliveries to this endpoint
    #[arg(long, value_name = "ID")]
    endpoint: Option<String>,
    /// Only deliveries of this event
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Only deliveries in this state: pending, cancelled, dead or delivered
    #[arg(long)]
    state: Option<DeliveryState>,
    #[command(flatten)]
    window: arguments::Window,
    /// The maximum number of deliveries
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Reads the journal, or sends deliveries again.
pub(super) async fn run(arguments: Arguments, backend: &Backend) -> anyhow::Result<()> {
    let Arguments { json, action } = arguments;
    match action {
        Action::List(list) => self::list(list, backend, json).await,
        Action::Show { id } => show(backend, &DeliveryId::new(id), json).await,
        Action::Resend { ids } => resend::run(&ids, backend, json).await,
    }
}

async fn list(list: List, backend: &Backend, as_json: bool) -> anyhow::Result<()> {
    let (since_ms, until_ms) = list.window.at(runtime::now_ms());
    let filter = DeliveryFilter {
        organization: list.org.map(OrganizationId::new),
        endpoint: list.endpoint.map(EndpointId::new),
        event: list.event.map(EventId::new),
        state: list.state,
        since_ms,
        until_ms,
    };
    let deliveries = backend.deliveries(&filter, Some(list.limit));
    listing::print(deliveries, &backend.place(), as_json, Some(list.limit)).await
}

async fn show(backend: &Backend, id: &DeliveryId, as_json: bool) -> anyhow::Result<()> {
    let run = backend.delivery(id).await?;
    if as_json {
        return Ok(output::line(&output::json(&run))?);
    }
    let delivery = &run.delivery;
    let endpoint = backend.endpoint_of(delivery).await?;
    let around = Around {
        endpoint: endpoint.as_ref(),
        is_superseded: backend.is_superseded(delivery).await?,
        now_ms: runtime::now_ms(),
    };
    let about = output::fields(&[
        ("event", delivery.event_id.clone()),
        ("organization", delivery.organization_id.clone()),
        ("endpoint", delivery.endpoint_id.clone()),
        ("state", delivery.state.clone()),
    ]);
    let told = run::text(&run, around).join("\n");
    Ok(output::line(&format!("{about}\n{told}"))?)
}

impl Listed<9> for Delivery {
    const HEADING: [&'static str; 9] = [
        "created", "id", "event", "endpoint", "run", "state", "attempts", "next", "why",
    ];

    fn cells(&self) -> [String; 9] {
        let next = self.next_attempt_ms.map(time::millisecond);
        [
            time::millisecond(self.created_ms),
            self.id.clone(),
            self.event_id.clone(),
            self.endpoint_id.clone(),
            self.run.to_string(),
            self.state.clone(),
            self.attempt_count.to_string(),
            next.unwrap_or_else(|| "-".to_owned()),
            why(self),
        ]
    }

    fn json(&self) -> String {
        output::json(self)
    }
}

/// Returns the reason of the state, and the last attempt's error.
fn why(delivery: &Delivery) -> String {
    let said = [&delivery.reason, &delivery.last_error];
    let said: Vec<&str> = said.into_iter().flatten().map(String::as_str).collect();
    if said.is_empty() {
        return "-".to_owned();
    }
    said.join(": ")
}
