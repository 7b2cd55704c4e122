//! `magnetite api-key`: manages the API keys of the HTTP API. Needs only the database; the API notices a
//! change within a second.

use std::{convert::identity, time::Duration};

use anyhow::anyhow;
use clap::{Args, Subcommand};
use runtime::time;
use service::{
    api_keys::{self, NewKey},
    view,
};
use store::{ApiKeyRow, Store};
use webhook::{ApiKeyId, OrganizationId, Scopes};

use crate::{configuration::Configuration, database, output, pages};

use super::{
    arguments,
    listing::{self, Listed},
};

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
struct Create {
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

/// Runs one action.
pub(super) async fn run(arguments: Arguments, configuration: &Configuration) -> anyhow::Result<()> {
    let Arguments { json, action } = arguments;
    let store = database::open(&configuration.database).await?;
    let done = match action {
        Action::Create(new) => create(new, &store, json).await,
        Action::List { org } => list(org.map(OrganizationId::new), &store, json).await,
        Action::Revoke { id } => revoke(&ApiKeyId::new(id), &store, json).await,
    };
    store.close().await;
    done
}

async fn create(new: Create, store: &Store, json: bool) -> anyhow::Result<()> {
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
    let created = api_keys::create(store, new, runtime::now_ms()).await?;
    let row = &created.row;
    let text = output::fields(&[
        ("id", row.id.to_string()),
        ("key", created.key.expose().to_owned()),
        ("scopes", row.scopes.to_string()),
        ("ends", ends(row)),
    ]);
    let lost = format!(
        "API key {0} was created, but it could not be printed; revoke it with `magnetite api-key revoke {0}` and create another",
        row.id
    );
    output::said_once(json, &view::api_key_with_text(&created), &text, &lost)?;
    output::note(
        "Save the key now: it is not shown again. Send it with each request as Authorization: Bearer mgk_...",
    );
    if row.organization_id.is_none() {
        output::note("Name the organization that a request is for in the header Magnetite-Organization.");
    }
    Ok(())
}

async fn list(organization: Option<OrganizationId>, store: &Store, json: bool) -> anyhow::Result<()> {
    let keys = pages::of_rows(
        None,
        async |after: Option<&ApiKeyId>, rows| store.api_keys(organization.as_ref(), after, rows).await,
        |key| key.id.clone(),
        identity,
    );
    listing::print(keys, store.address(), json, None).await
}

async fn revoke(id: &ApiKeyId, store: &Store, json: bool) -> anyhow::Result<()> {
    let revoked = store.revoke_api_key(id, runtime::now_ms()).await.map_err(hint)?;
    output::said(json, &view::api_key(&revoked), &format!("revoked {id}"))
}

fn hint(error: store::Error) -> anyhow::Error {
    match error {
        store::Error::ApiKeyNotFound { .. } => {
            anyhow!("{error}; `magnetite api-key list` lists the existing keys")
        }
        error => error.into(),
    }
}

impl Listed<7> for ApiKeyRow {
    const HEADING: [&'static str; 7] = ["id", "key", "organization", "name", "scopes", "last used", "ends"];

    fn cells(&self) -> [String; 7] {
        [
            self.id.to_string(),
            format!("{}...", self.prefix),
            listing::organization(self.organization_id.as_ref().map(OrganizationId::as_str)),
            self.name.clone(),
            self.scopes.to_string(),
            self.last_used_at_ms.map_or_else(|| "-".to_owned(), time::second),
            ends(self),
        ]
    }

    fn json(&self) -> String {
        output::json(&view::api_key(self))
    }
}

fn ends(row: &ApiKeyRow) -> String {
    match (row.revoked_at_ms, row.expires_at_ms) {
        (Some(revoked_at_ms), _) => format!("revoked {}", time::second(revoked_at_ms)),
        (None, Some(expires_at_ms)) => format!("expires {}", time::second(expires_at_ms)),
        (None, None) => "when it is revoked".to_owned(),
    }
}
