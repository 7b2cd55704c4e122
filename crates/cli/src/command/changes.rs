//! `magnetite changes`: changes to endpoints and API keys, and who made them.

use clap::Args;
use runtime::time;
use service::view;
use store::ChangeRow;
use webhook::OrganizationId;

use crate::{configuration::Configuration, database, output};

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
pub(super) async fn run(arguments: Arguments, configuration: &Configuration) -> anyhow::Result<()> {
    let Arguments { org, limit, json } = arguments;
    let organization = org.map(OrganizationId::new);
    let store = database::open(&configuration.database).await?;
    let listed = listing::print(
        &store,
        json,
        Some(limit),
        async |before: Option<&Before>, limit| {
            let before = before.map(|Before(number)| *number);
            store.changes(organization.as_ref(), before, limit).await
        },
    )
    .await;
    store.close().await;
    listed
}

/// A position in the listing.
pub(in crate::command) struct Before(u64);

impl From<&ChangeRow> for Before {
    fn from(change: &ChangeRow) -> Self {
        Self(change.number)
    }
}

impl Listed<7> for ChangeRow {
    const HEADING: [&'static str; 7] = ["number", "at", "actor", "what", "organization", "on", "detail"];
    type Cursor = Before;

    fn cells(&self) -> [String; 7] {
        [
            self.number.to_string(),
            time::millisecond(self.at_ms),
            self.actor.clone(),
            self.kind.to_string(),
            listing::organization(self.organization_id.as_ref()),
            self.subject.clone(),
            self.detail.clone(),
        ]
    }

    fn json(&self) -> String {
        output::json(&view::change(self))
    }
}
