//! `event show`.

use anyhow::bail;
use clap::Args;
use store::Store;
use webhook::{EndpointId, Event, EventId, OrganizationId, journal::EventEntry};

use crate::{
    Usage, clock,
    command::{delivery::run::Run, given},
    output,
};

use super::story::Story;

/// How many endpoints are read at once.
const PAGE: u32 = 500;

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The event's id, as `publish` printed it and receivers get it in `webhook-id`
    id: String,
    /// Only this organization's: an id is unique within one
    #[arg(long, value_name = "ORGANIZATION", value_parser = given::id)]
    org: Option<String>,
    /// Print the body as it was published, and nothing else; with --json, as a text in the object
    #[arg(long)]
    body: bool,
}

pub(super) async fn run(show: Show, store: &Store, as_json: bool) -> anyhow::Result<()> {
    let id = EventId::new(show.id);
    let organization = show.org.map(OrganizationId::new);
    let found = store.event(&id, organization.as_ref()).await?;
    if found.is_empty() {
        bail!(
            "event {id} is not in the journal. If it was published just now, ask again in a second; else it may have \
             been refused (`magnetite rejected list`), wait in a queue (`magnetite topology check`), be in a gap of \
             the journal (`magnetite audit`) or be older than what is kept"
        );
    }
    if show.body && !as_json {
        return body(&id, &found);
    }
    for (index, event) in found.into_iter().enumerate() {
        let story = gather(event, store).await?;
        if as_json {
            output::line(&output::json(&story.json(show.body)))?;
        } else {
            let blank = (index > 0).then(String::new);
            output::lines(blank.into_iter().chain(story.text(clock::now_ms())))?;
        }
    }
    Ok(())
}

fn body(id: &EventId, found: &[EventEntry]) -> anyhow::Result<()> {
    let [only] = found else {
        let all: Vec<&str> = found
            .iter()
            .map(|stored| stored.event.organization_id.as_str())
            .collect();
        bail!(Usage(format!(
            "several organizations have an event {id}: name one of them with --org ({})",
            output::printable(&all.join(", "))
        )));
    };
    output::bytes(&only.event.body)?;
    Ok(output::line("")?)
}

async fn gather(stored: EventEntry, store: &Store) -> anyhow::Result<Story> {
    let Event {
        organization_id, id, ..
    } = &*stored.event;
    let (mut endpoints, mut after) = (Vec::new(), None::<EndpointId>);
    loop {
        let page = store
            .list_endpoints(Some(organization_id), after.as_ref(), PAGE)
            .await?;
        let is_last = page.len() < PAGE as usize;
        endpoints.extend(page);
        after = endpoints.last().map(|endpoint| endpoint.id.clone());
        if is_last {
            break;
        }
    }
    let mut runs = Vec::new();
    for delivery in store.deliveries_of_event(organization_id, id).await? {
        let attempts = store.attempts(&delivery.id).await?;
        runs.push(Run { delivery, attempts });
    }
    Ok(Story::new(stored, endpoints, runs))
}
