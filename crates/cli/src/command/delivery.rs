//! `magnetite delivery`: deliveries, each of one event to one endpoint, and how to send them again.

mod resend;
pub(super) mod run;

use std::convert::identity;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use runtime::time;
use service::{history::Run, view};
use store::{DeliveryCursor, DeliveryFilter, DeliveryRow, Lookup, Store};
use webhook::{DeliveryId, EndpointId, EventId, OrganizationId, journal::DeliveryState};

use crate::{configuration::Configuration, database, output, pages};

use super::{
    arguments,
    listing::{self, Listed},
};
use run::Around;

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(super) struct Arguments {
    /// Print one JSON object per line
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
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
struct List {
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
pub(super) async fn run(arguments: Arguments, configuration: &Configuration) -> anyhow::Result<()> {
    let Arguments { json, action } = arguments;
    let store = database::open(&configuration.database).await?;
    let done = match action {
        Action::List(list) => self::list(list, &store, json).await,
        Action::Show { id } => show(&store, &DeliveryId::new(id), json).await,
        Action::Resend { ids } => resend::run(ids, &store, configuration, json).await,
    };
    store.close().await;
    done
}

async fn list(list: List, store: &Store, as_json: bool) -> anyhow::Result<()> {
    let (since_ms, until_ms) = list.window.at(runtime::now_ms());
    let filter = DeliveryFilter {
        organization: list.org.map(OrganizationId::new),
        endpoint: list.endpoint.map(EndpointId::new),
        event: list.event.map(EventId::new),
        state: list.state,
        since_ms,
        until_ms,
    };
    let deliveries = pages::of_rows(
        Some(list.limit),
        async |before: Option<&DeliveryCursor>, rows| store.deliveries(&filter, before, rows).await,
        |row: &DeliveryRow| DeliveryCursor::from(row),
        identity,
    );
    listing::print(deliveries, store.address(), as_json, Some(list.limit)).await
}

async fn show(store: &Store, id: &DeliveryId, as_json: bool) -> anyhow::Result<()> {
    let delivery = store.delivery(id).await?;
    let delivery = delivery.ok_or_else(|| {
        anyhow!(
            "delivery {id} is not in the journal; `magnetite delivery list` lists the recorded deliveries"
        )
    })?;
    let attempts = store.attempts(id).await?;
    let run = Run { delivery, attempts };
    let of = &run.delivery.delivery;
    let endpoint = match store.endpoint(&of.endpoint_id).await? {
        Lookup::Found(endpoint) => Some(view::endpoint(&endpoint)),
        Lookup::Deleted | Lookup::Unknown => None,
    };
    let siblings = store
        .deliveries_of_event(&of.organization_id, &of.event_id)
        .await?;
    let is_later =
        |other: &DeliveryRow| other.delivery.endpoint_id == of.endpoint_id && other.delivery.run > of.run;
    let around = Around {
        endpoint: endpoint.as_ref(),
        is_superseded: siblings.iter().any(is_later),
        now_ms: runtime::now_ms(),
    };
    let about = output::fields(&[
        ("event", of.event_id.to_string()),
        ("organization", of.organization_id.to_string()),
        ("endpoint", of.endpoint_id.to_string()),
        ("state", run.delivery.standing.state.to_string()),
    ]);
    let run = view::run(&run);
    let text = format!("{about}\n{}", run::text(&run, around).join("\n"));
    output::said(as_json, &run, &text)
}

impl Listed<9> for DeliveryRow {
    const HEADING: [&'static str; 9] = [
        "created", "id", "event", "endpoint", "run", "state", "attempts", "next", "why",
    ];

    fn cells(&self) -> [String; 9] {
        let standing = &self.standing;
        let next = match standing.next_ms {
            0 => "-".to_owned(),
            next_ms => time::millisecond(next_ms),
        };
        [
            time::millisecond(self.created_ms),
            self.id.to_string(),
            self.delivery.event_id.to_string(),
            self.delivery.endpoint_id.to_string(),
            self.delivery.run.to_string(),
            standing.state.to_string(),
            standing.attempts.to_string(),
            next,
            why(self),
        ]
    }

    fn json(&self) -> String {
        output::json(&view::delivery(self))
    }
}

/// Returns the reason of the state, and the last attempt's error.
fn why(row: &DeliveryRow) -> String {
    let standing = &row.standing;
    let said = [standing.reason.as_str(), standing.last_error.as_str()];
    let said: Vec<&str> = said.into_iter().filter(|text| !text.is_empty()).collect();
    if said.is_empty() {
        return "-".to_owned();
    }
    said.join(": ")
}
