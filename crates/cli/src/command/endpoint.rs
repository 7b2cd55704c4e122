//! `magnetite endpoint`: create, list, show, update, delete, enable, disable, ping, rotate-secret, recover.
//!
//! `ping` and `recover` need the broker. The others need only the database. Those that change an endpoint
//! notify the workers of the change over the broker, if it is available, and wait up to two seconds until
//! every running worker acts on the change.

mod edit;
mod view;
mod failing;
mod rotate;
mod health;
mod ping;
mod acting;
mod recover;

use std::convert::identity;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use store::{Lookup, Store};
use webhook::{DisabledReason, Endpoint, EndpointId, OrganizationId};

use crate::{configuration::Configuration, database, output, pages};

use super::{arguments, listing};
use edit::{Create, Update};
pub(super) use failing::rate as success_rate;
use recover::Recover;
use rotate::Rotate;
use view::describe;

const LIST_THEM: &str = "`magnetite endpoint list` lists the existing endpoints";

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
    /// Register a URL, and print the endpoint's id and its secret, which is shown only this once
    Create(Create),
    /// List endpoints
    List {
        /// Only this organization's endpoints
        #[arg(long, value_name = "ORGANIZATION", value_parser = arguments::id)]
        org: Option<String>,
        /// List only endpoints whose last attempt failed, except those disabled by hand, and print for each
        /// when the failures began, the success rate of the last hour, the number of pending deliveries, and
        /// the last error
        #[arg(long)]
        failing: bool,
    },
    /// Show one endpoint and its recent health, without its secret
    Show {
        /// The endpoint's id
        id: String,
    },
    /// Change an endpoint; properties that are not given stay as they are
    Update(Update),
    /// Delete an endpoint permanently and cancel its pending deliveries; asks for confirmation on a terminal
    Delete {
        /// The endpoint's id
        id: String,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Resume deliveries to an endpoint
    Enable {
        /// The endpoint's id
        id: String,
    },
    /// Suspend deliveries to an endpoint: what becomes due meanwhile is dead-lettered as `endpoint_disabled`
    Disable {
        /// The endpoint's id
        id: String,
    },
    /// Test whether an endpoint answers: sends one signed request of the type webhook.ping, even while the
    /// endpoint is disabled
    ///
    /// The request takes the same path as every delivery, so a worker and a recorder have to be running. It
    /// is made once: a ping that fails is neither retried nor kept as a dead letter. Exits 1 if the endpoint
    /// did not answer with a 2xx.
    Ping {
        /// The endpoint's id
        id: String,
    },
    /// Give an endpoint a new secret, and print it; it is shown only this once
    RotateSecret(Rotate),
    /// Send again what an endpoint missed: dead deliveries, and events that were received while it was
    /// disabled
    Recover(Recover),
}

/// Runs one action.
pub(super) async fn run(arguments: Arguments, configuration: &Configuration) -> anyhow::Result<()> {
    let Arguments { json, action } = arguments;
    match action {
        Action::Create(new) => edit::create(new, configuration, json).await,
        Action::Update(update) => edit::change(update, configuration, json).await,
        Action::Recover(recover) => recover::run(recover, configuration, json).await,
        action => {
            let store = database::open(&configuration.database).await?;
            let done = on_store(action, &store, configuration, json).await;
            store.close().await;
            done
        }
    }
}

async fn on_store(
    action: Action,
    store: &Store,
    configuration: &Configuration,
    json: bool,
) -> anyhow::Result<()> {
    match action {
        Action::List { org, failing } => list(store, org.map(OrganizationId::new), failing, json).await,
        Action::RotateSecret(rotate) => rotate::run(rotate, store, configuration, json).await,
        Action::Ping { id } => ping::run(&EndpointId::new(id), store, configuration, json).await,
        Action::Show { id } => show(store, &EndpointId::new(id), json).await,
        Action::Delete { id, yes } => {
            let id = EndpointId::new(id);
            if !yes {
                let endpoint = find(store, &id).await?;
                arguments::agreed(&format!(
                    "Permanently delete {id} ({}) and cancel its pending deliveries?",
                    endpoint.url
                ))?;
            }
            store
                .delete_endpoint(&id, runtime::now_ms() as i64)
                .await
                .map_err(hint)?;
            let behind = acting::wait(store, configuration).await;
            let mut done = serde_json::json!({ "id": id.as_str(), "deleted": true });
            if !behind.is_empty() {
                done["workers_behind"] = behind.names().into();
            }
            output::said(json, &done, &format!("deleted {id}"))?;
            acting::note(&behind);
            Ok(())
        }
        Action::Enable { id } => {
            let enabled = store
                .enable_endpoint(&EndpointId::new(id), runtime::now_ms() as i64)
                .await
                .map_err(hint)?;
            acting::said(&enabled, "enabled", store, configuration, json).await
        }
        Action::Disable { id } => {
            let reason = DisabledReason::Manual;
            let disabled = store
                .disable_endpoint(&EndpointId::new(id), reason, runtime::now_ms() as i64)
                .await
                .map_err(hint)?;
            acting::said(&disabled, "disabled", store, configuration, json).await
        }
        Action::Create(_) | Action::Update(_) | Action::Recover(_) => {
            unreachable!("`run` handles these actions")
        }
    }
}

async fn list(
    store: &Store,
    organization: Option<OrganizationId>,
    failing: bool,
    json: bool,
) -> anyhow::Result<()> {
    if failing {
        let now_ms = runtime::now_ms();
        let failing = pages::of_rows(
            None,
            async |after: Option<&EndpointId>, rows| {
                store.failing(organization.as_ref(), after, rows, now_ms).await
            },
            |found| found.endpoint.id.clone(),
            identity,
        );
        return listing::print(failing, store.address(), json, None).await;
    }
    let endpoints = pages::of_rows(
        None,
        async |after: Option<&EndpointId>, rows| {
            store.list_endpoints(organization.as_ref(), after, rows).await
        },
        |endpoint| endpoint.id.clone(),
        identity,
    );
    listing::print(endpoints, store.address(), json, None).await
}

async fn show(store: &Store, id: &EndpointId, json: bool) -> anyhow::Result<()> {
    let endpoint = find(store, id).await?;
    let now_ms = runtime::now_ms();
    let health = store.endpoint_health(id, now_ms).await?;
    let text = format!("{}\n{}", describe(&endpoint), health::describe(&health, now_ms));
    output::said(json, &health::WithHealth::new(&endpoint, &health), &text)
}

/// Returns the endpoint, or an error if it was deleted or does not exist.
async fn find(store: &Store, id: &EndpointId) -> anyhow::Result<Endpoint> {
    match store.endpoint(id).await? {
        Lookup::Found(endpoint) => Ok(endpoint),
        Lookup::Deleted => Err(anyhow!("endpoint {id} was deleted; {LIST_THEM}")),
        Lookup::Unknown => Err(anyhow!("endpoint {id} does not exist; {LIST_THEM}")),
    }
}

fn hint(error: store::Error) -> anyhow::Error {
    match error {
        store::Error::EndpointNotFound { .. } => anyhow!("{error}; {LIST_THEM}"),
        error => error.into(),
    }
}
