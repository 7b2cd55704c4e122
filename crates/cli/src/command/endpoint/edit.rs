//! `create` and `update`, which take a URL.

use clap::Args;
use service::manage::Registration;
use store::EndpointChange;
use webhook::{EndpointId, OrganizationId, ProjectId, Subscription};

use crate::{backend::Backend, command::arguments, output};

use super::acting;

#[derive(Debug, Args)]
pub(in crate::command) struct Create {
    /// The organization whose events are delivered
    #[arg(long, value_name = "ORGANIZATION", value_parser = arguments::id)]
    org: String,
    /// The https URL that events are delivered to
    #[arg(long)]
    url: String,
    /// Deliver only this project's events
    #[arg(long, value_parser = arguments::id)]
    project: Option<String>,
    /// Event types, such as 'lead.completed,research.*'
    #[arg(long, value_name = "LIST", default_value = "*")]
    events: Subscription,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true, id = "change")]
struct Change {
    /// The new URL
    #[arg(long)]
    url: Option<String>,
    /// Deliver only this project's events
    #[arg(long, value_parser = arguments::id)]
    project: Option<String>,
    /// Deliver the events of every project
    #[arg(long, conflicts_with = "project")]
    no_project: bool,
    /// The event types to deliver from now on, such as 'lead.completed,research.*'
    #[arg(long, value_name = "LIST")]
    events: Option<Subscription>,
}

#[derive(Debug, Args)]
pub(in crate::command) struct Update {
    /// The endpoint's id
    id: String,
    #[command(flatten)]
    change: Change,
}

/// Registers an endpoint, and prints its secret once.
pub(super) async fn create(new: Create, backend: &Backend, json: bool) -> anyhow::Result<()> {
    let new = Registration {
        organization_id: OrganizationId::new(new.org),
        project_id: new.project.map(ProjectId::new),
        url: new.url,
        subscription: new.events,
    };
    let created = backend.create_endpoint(new).await?;
    let secret = arguments::shown_once(created.secret.as_ref())?;
    output::said_once(
        json,
        &created,
        &format!("id      {}\nsecret  {secret}", created.id),
        &format!(
            "endpoint {0} was created, but its secret could not be printed; `magnetite endpoint rotate-secret {0} --revoke-now` creates another",
            created.id
        ),
    )?;
    output::note("Save the secret now: it is not shown again. The receiver verifies signatures with it.");
    acting::note(&created.workers_behind);
    Ok(())
}

/// Changes an endpoint.
pub(super) async fn change(update: Update, backend: &Backend, json: bool) -> anyhow::Result<()> {
    let Update { id, change } = update;
    let project_id = match (change.project, change.no_project) {
        (Some(project), _) => Some(Some(ProjectId::new(project))),
        (None, true) => Some(None),
        (None, false) => None,
    };
    let change = EndpointChange {
        url: change.url,
        project_id,
        subscription: change.events,
    };
    let updated = backend.change_endpoint(&EndpointId::new(id), change).await?;
    acting::said(&updated, "updated", json)
}
