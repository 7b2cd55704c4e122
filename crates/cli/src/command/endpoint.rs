//! `magnetite endpoint`: create, list, show, update, delete, enable, disable, ping, rotate-secret, recover.
//!
//! On the database, `ping` and `recover` need the broker. The others need only the database. Those that change
//! an endpoint notify the workers of the change over the broker, if it is available, and wait up to two seconds
//! until every running worker acts on the change.

mod edit;
mod view;
mod failing;
mod rotate;
mod health;
mod ping;
mod acting;
mod recover;

use clap::Subcommand;
use futures_util::{StreamExt as _, TryStreamExt as _};
use webhook::{EndpointId, OrganizationId};

use crate::{backend::Backend, output};

use super::{arguments, listing};
use edit::{Create, Update};
use failing::FailingEndpoint;
pub(super) use failing::rate as success_rate;
use recover::Recover;
use rotate::Rotate;
use view::describe;

pub(super) type Arguments = arguments::Actions<Action>;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
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
pub(super) async fn run(arguments: Arguments, backend: &Backend) -> anyhow::Result<()> {
    let Arguments { json, action } = arguments;
    match action {
        Action::Create(new) => edit::create(new, backend, json).await,
        Action::List { org, failing } => list(org.map(OrganizationId::new), failing, backend, json).await,
        Action::Show { id } => show(&EndpointId::new(id), backend, json).await,
        Action::Update(update) => edit::change(update, backend, json).await,
        Action::Delete { id, yes } => delete(&EndpointId::new(id), yes, backend, json).await,
        Action::Enable { id } => {
            let enabled = backend.enable_endpoint(&EndpointId::new(id)).await?;
            acting::said(&enabled, "enabled", json)
        }
        Action::Disable { id } => {
            let disabled = backend.disable_endpoint(&EndpointId::new(id)).await?;
            acting::said(&disabled, "disabled", json)
        }
        Action::Ping { id } => ping::run(&EndpointId::new(id), backend, json).await,
        Action::RotateSecret(rotate) => rotate::run(rotate, backend, json).await,
        Action::Recover(recover) => recover::run(recover, backend, json).await,
    }
}

async fn list(
    organization: Option<OrganizationId>,
    failing: bool,
    backend: &Backend,
    json: bool,
) -> anyhow::Result<()> {
    let (organization, place) = (organization.as_ref(), backend.place());
    if !failing {
        return listing::print(backend.endpoints(organization), &place, json, None).await;
    }
    let failing = backend.failing_endpoints(organization);
    let failing = failing.map_ok(|page| page.into_iter().map(FailingEndpoint).collect::<Vec<_>>());
    listing::print(failing.boxed_local(), &place, json, None).await
}

async fn show(id: &EndpointId, backend: &Backend, json: bool) -> anyhow::Result<()> {
    let endpoint = backend.endpoint(id).await?;
    let now_ms = runtime::now_ms();
    let health = backend.endpoint_health(id).await?;
    let text = format!("{}\n{}", describe(&endpoint), health::describe(&health, now_ms));
    output::said(json, &health::WithHealth { endpoint, health }, &text)
}

async fn delete(id: &EndpointId, yes: bool, backend: &Backend, json: bool) -> anyhow::Result<()> {
    if !yes {
        let endpoint = backend.endpoint(id).await?;
        arguments::agreed(&format!(
            "Permanently delete {id} ({}) and cancel its pending deliveries?",
            endpoint.url
        ))?;
    }
    let workers_behind = backend.delete_endpoint(id).await?;
    let mut done = serde_json::json!({ "id": id.as_str(), "deleted": true });
    if !workers_behind.is_empty() {
        done["workers_behind"] = workers_behind.as_slice().into();
    }
    output::said(json, &done, &format!("deleted {id}"))?;
    acting::note(&workers_behind);
    Ok(())
}
