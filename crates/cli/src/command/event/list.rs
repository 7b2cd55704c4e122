//! `event list`.

use clap::Args;
use runtime::time;
use store::EventFilter;
use webhook::{EventKind, LeadId, OrganizationId, ProjectId, journal::DeliveryState};
use wire::{EventSummary, States};

use crate::{
    backend::Backend,
    command::{
        arguments,
        listing::{self, Listed},
    },
    output,
};

#[derive(Debug, Args)]
pub(in crate::command) struct List {
    /// Only this organization's events
    #[arg(long, value_name = "ORGANIZATION", value_parser = arguments::id)]
    org: Option<String>,
    /// Only this project's events
    #[arg(long, value_parser = arguments::id)]
    project: Option<String>,
    /// Only events about this lead
    #[arg(long, value_parser = arguments::id)]
    lead: Option<String>,
    /// Only events of this type, such as lead.completed; pings have the type webhook.ping
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<EventKind>,
    /// Only events with a delivery in this state: pending, cancelled, dead or delivered
    #[arg(long)]
    state: Option<DeliveryState>,
    #[command(flatten)]
    window: arguments::Window,
    /// The maximum number of events
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

pub(super) async fn run(list: List, backend: &Backend, as_json: bool) -> anyhow::Result<()> {
    let (since_ms, until_ms) = list.window.at(runtime::now_ms());
    let filter = EventFilter {
        organization: list.org.map(OrganizationId::new),
        project: list.project.map(ProjectId::new),
        lead: list.lead.map(LeadId::new),
        event_type: list.event_type,
        state: list.state,
        since_ms,
        until_ms,
    };
    let events = backend.events(&filter, Some(list.limit));
    listing::print(events, &backend.place(), as_json, Some(list.limit)).await
}

impl Listed<8> for EventSummary {
    const HEADING: [&'static str; 8] = [
        "received",
        "id",
        "type",
        "organization",
        "project",
        "lead",
        "matched",
        "deliveries",
    ];

    fn cells(&self) -> [String; 8] {
        [
            time::millisecond(self.received_ms),
            self.id.clone(),
            self.event_type.clone(),
            self.organization_id.clone(),
            self.project_id.clone(),
            self.lead_id.clone(),
            self.matched.to_string(),
            in_words(&self.deliveries),
        ]
    }

    fn json(&self) -> String {
        output::json(self)
    }
}

fn in_words(counts: &States) -> String {
    let States {
        pending,
        cancelled,
        dead,
        delivered,
    } = *counts;
    let all = [
        (delivered, DeliveryState::Delivered),
        (dead, DeliveryState::Dead),
        (cancelled, DeliveryState::Cancelled),
        (pending, DeliveryState::Pending),
    ];
    let there: Vec<String> = all
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{count} {state}"))
        .collect();
    if there.is_empty() {
        return "-".to_owned();
    }
    there.join(", ")
}
