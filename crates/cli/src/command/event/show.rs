//! `event show`.

use std::io::{self, IsTerminal as _};

use anyhow::bail;
use clap::Args;
use webhook::{EventId, OrganizationId};
use wire::EventHistory;

use crate::{Usage, backend::Backend, command::arguments, output};

use super::history::text;

#[derive(Debug, Args)]
pub(in crate::command) struct Show {
    /// The event's id, as `publish` prints it and receivers get it in the header webhook-id
    id: String,
    /// Only this organization's event; an id is unique within an organization
    #[arg(long, value_name = "ORGANIZATION", value_parser = arguments::id)]
    org: Option<String>,
    /// Print only the body as it was published; with --json, as a string in the object
    #[arg(long)]
    body: bool,
}

pub(super) async fn run(show: Show, backend: &Backend, as_json: bool) -> anyhow::Result<()> {
    let id = EventId::new(show.id);
    let organization = show.org.map(OrganizationId::new);
    let found = backend.histories(&id, organization.as_ref()).await?;
    if found.is_empty() {
        return Err(backend.no_event(&id));
    }
    if show.body && !as_json {
        return body(&id, &found);
    }
    for (index, mut history) in found.into_iter().enumerate() {
        if as_json {
            history.body = history.body.filter(|_| show.body);
            output::line(&output::json(&history))?;
        } else {
            let blank = (index > 0).then(String::new);
            output::lines(blank.into_iter().chain(text(&history, runtime::now_ms())))?;
        }
    }
    Ok(())
}

fn body(id: &EventId, found: &[EventHistory]) -> anyhow::Result<()> {
    let [only] = found else {
        let all: Vec<&str> = found
            .iter()
            .map(|history| history.organization_id.as_str())
            .collect();
        bail!(Usage(format!(
            "several organizations have an event {id}: name one of them with --org ({})",
            output::printable(&all.join(", "))
        )));
    };
    output::bytes(only.body.as_deref().unwrap_or_default().as_bytes())?;
    // On a pipe, only the body itself is written, so that a program can compute its signature.
    if io::stdout().is_terminal() {
        output::line("")?;
    }
    Ok(())
}
