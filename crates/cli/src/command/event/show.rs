//! `event show`.

use std::io::{self, IsTerminal as _};

use anyhow::bail;
use clap::Args;
use service::{history, view};
use store::Store;
use webhook::{EventId, OrganizationId, journal::EventEntry};

use crate::{Usage, command::arguments, output};

use super::history::text;

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The event's id, as `publish` prints it and receivers get it in the header webhook-id
    id: String,
    /// Only this organization's event; an id is unique within an organization
    #[arg(long, value_name = "ORGANIZATION", value_parser = arguments::id)]
    org: Option<String>,
    /// Print only the body as it was published; with --json, as a string in the object
    #[arg(long)]
    body: bool,
}

pub(super) async fn run(show: Show, store: &Store, as_json: bool) -> anyhow::Result<()> {
    let id = EventId::new(show.id);
    let organization = show.org.map(OrganizationId::new);
    let found = store.event(&id, organization.as_ref()).await?;
    if found.is_empty() {
        bail!(
            "event {id} is not in the journal in {}. If it was published just now, try again in a second; otherwise it may \
             have been rejected (`magnetite rejected list`), be waiting in a queue (`magnetite topology check`), be in a \
             gap of the journal (`magnetite audit`) or have been deleted because of its age",
            store.address()
        );
    }
    if show.body && !as_json {
        return body(&id, &found);
    }
    for (index, event) in found.into_iter().enumerate() {
        let history = view::history(&history::gather(event, store).await?, show.body);
        if as_json {
            output::line(&output::json(&history))?;
        } else {
            let blank = (index > 0).then(String::new);
            output::lines(blank.into_iter().chain(text(&history, runtime::now_ms())))?;
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
    // On a pipe, only the body itself is written, so that a program can compute its signature.
    if io::stdout().is_terminal() {
        output::line("")?;
    }
    Ok(())
}
