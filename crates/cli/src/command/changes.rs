//! `magnetite changes`: changes to endpoints and API keys, and who made them.

use clap::Args;
use runtime::time;
use webhook::OrganizationId;
use wire::Change;

use crate::{backend::Backend, output};

use super::{
    arguments,
    listing::{self, Listed},
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only changes to this organization's endpoints and keys
    #[arg(long, value_name = "ORGANIZATION", value_parser = arguments::id)]
    org: Option<String>,
    /// The maximum number of changes
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Lists changes, newest first.
pub(super) async fn run(arguments: Arguments, backend: &Backend) -> anyhow::Result<()> {
    let Arguments { org, limit, json } = arguments;
    let organization = org.map(OrganizationId::new);
    let changes = backend.changes(organization.as_ref(), limit);
    listing::print(changes, &backend.place(), json, Some(limit)).await
}

impl Listed<7> for Change {
    const HEADING: [&'static str; 7] = ["number", "at", "actor", "what", "organization", "on", "detail"];

    fn cells(&self) -> [String; 7] {
        [
            self.number.to_string(),
            time::millisecond(self.at_ms),
            self.actor.clone(),
            self.kind.clone(),
            listing::organization(self.organization_id.as_deref()),
            self.subject.clone(),
            self.detail.to_string(),
        ]
    }

    fn json(&self) -> String {
        output::json(self)
    }
}
