//! `magnetite api-key`: manages the API keys of the HTTP API, which notices a change in the database within a
//! second.

use std::time::Duration;

use clap::{Args, Subcommand};
use runtime::time;
use service::api_keys::NewKey;
use webhook::{ApiKeyId, OrganizationId, Scopes};
use wire::ApiKey;

use crate::{backend::Backend, output};

use super::{
    arguments,
    listing::{self, Listed},
};

pub(super) type Arguments = arguments::Actions<Action>;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Create a key and print it; it is shown only this once
    Create(Create),
    /// List keys, including revoked and expired ones
    List {
        /// Only this organization's keys
        #[arg(long, value_name = "ORGANIZATION", value_parser = arguments::id)]
        org: Option<String>,
    },
    /// Revoke a key: requests with it are refused from then on
    Revoke {
        /// The key's id
        id: String,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false, id = "holder")]
struct Holder {
    /// The organization whose endpoints and events the key gives access to
    #[arg(long, value_name = "ORGANIZATION", value_parser = arguments::id)]
    org: Option<String>,
    /// Create a platform key: it gives access to every organization, and each request names the one that it is
    /// for
    #[arg(long)]
    platform: bool,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    holder: Holder,
    /// A name for people, such as where the key is used
    #[arg(long, value_parser = arguments::id)]
    name: String,
    /// What the key allows, a list of: events:write, endpoints:read, endpoints:write, deliveries:read,
    /// deliveries:write; or admin, for all of them, to manage API keys and to see who changed what
    #[arg(long, value_name = "LIST")]
    scopes: Scopes,
    /// How long the key is valid, such as 90d; without it, until it is revoked
    #[arg(long, value_name = "DURATION", value_parser = arguments::lifetime)]
    expires_in: Option<Duration>,
}

impl Create {
    /// Returns whether the key is to be a platform key.
    pub(super) fn is_platform(&self) -> bool {
        self.holder.platform
    }
}

/// Runs one action.
pub(super) async fn run(arguments: Arguments, backend: &Backend) -> anyhow::Result<()> {
    let Arguments { json, action } = arguments;
    match action {
        Action::Create(new) => create(new, backend, json).await,
        Action::List { org } => {
            let organization = org.map(OrganizationId::new);
            let keys = backend.api_keys(organization.as_ref());
            listing::print(keys, &backend.place(), json, None).await
        }
        Action::Revoke { id } => {
            let id = ApiKeyId::new(id);
            let revoked = backend.revoke_api_key(&id).await?;
            output::said(json, &revoked, &format!("revoked {id}"))
        }
    }
}

async fn create(new: Create, backend: &Backend, json: bool) -> anyhow::Result<()> {
    let organization_id = match new.holder {
        Holder { platform: true, .. } => None,
        Holder { org, .. } => org.map(OrganizationId::new),
    };
    let new = NewKey {
        organization_id,
        name: new.name,
        scopes: new.scopes,
        lifetime: new.expires_in,
    };
    let created = backend.create_api_key(new).await?;
    let text = output::fields(&[
        ("id", created.id.clone()),
        ("key", arguments::shown_once(created.key.as_ref())?.to_owned()),
        ("scopes", created.scopes.join(",")),
        ("ends", ends(&created)),
    ]);
    let lost = format!(
        "API key {0} was created, but it could not be printed; revoke it with `magnetite api-key revoke {0}` and create another",
        created.id
    );
    output::said_once(json, &created, &text, &lost)?;
    output::note(
        "Save the key now: it is not shown again. Send it with each request as Authorization: Bearer mgk_...",
    );
    if created.organization_id.is_none() {
        output::note("Name the organization that a request is for in the header Magnetite-Organization.");
    }
    Ok(())
}

impl Listed<7> for ApiKey {
    const HEADING: [&'static str; 7] = ["id", "key", "organization", "name", "scopes", "last used", "ends"];

    fn cells(&self) -> [String; 7] {
        [
            self.id.clone(),
            format!("{}...", self.prefix),
            listing::organization(self.organization_id.as_deref()),
            self.name.clone(),
            self.scopes.join(","),
            self.last_used_at_ms.map_or_else(|| "-".to_owned(), time::second),
            ends(self),
        ]
    }

    fn json(&self) -> String {
        output::json(self)
    }
}

fn ends(key: &ApiKey) -> String {
    match (key.revoked_at_ms, key.expires_at_ms) {
        (Some(revoked_at_ms), _) => format!("revoked {}", time::second(revoked_at_ms)),
        (None, Some(expires_at_ms)) => format!("expires {}", time::second(expires_at_ms)),
        (None, None) => "when it is revoked".to_owned(),
    }
}
