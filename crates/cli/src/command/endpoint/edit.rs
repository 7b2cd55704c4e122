//! `create` and `update`, which take a URL.

use clap::Args;
use service::{
    manage::{self, Registration},
    view,
    workers::Behind,
};
use store::EndpointChange;
use webhook::{EndpointId, OrganizationId, ProjectId, Subscription};

use crate::{
    command::{arguments, role},
    configuration::Configuration,
    database, output,
};

use super::{acting, hint};

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The organization whose events are delivered
    #[arg(long, value_name = "ORGANIZATION", value_parser = arguments::id)]
    org: String,
    /// The https URL that events are delivered to
    #[arg(long)]
    url: String,
    /// Deliver only this project's events
    #[arg(long, value_parser = arguments::id)]
    project: Option<String>,
    /// Event types, such as lead.completed,research.*
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
    /// The event types to deliver from now on, such as lead.completed,research.*
    #[arg(long, value_name = "LIST")]
    events: Option<Subscription>,
}

#[derive(Debug, Args)]
pub(super) struct Update {
    /// The endpoint's id
    id: String,
    #[command(flatten)]
    change: Change,
}

pub(super) async fn create(new: Create, configuration: &Configuration, json: bool) -> anyhow::Result<()> {
    let (egress, store) = (
        role::egress(configuration)?,
        database::open(&configuration.database).await?,
    );
    let new = Registration {
        organization_id: OrganizationId::new(new.org),
        project_id: new.project.map(ProjectId::new),
        url: new.url,
        subscription: new.events,
    };
    let limited = store.per_organization_max(configuration.api.endpoints_per_organization_max);
    let created = manage::register(&limited, &egress, new, runtime::now_ms() as i64).await;
    let behind = match &created {
        Ok(_) => acting::wait(&store, configuration).await,
        Err(_) => Behind::default(),
    };
    store.close().await;
    let created = created?;
    let text = format!("id      {}\nsecret  {}", created.id, created.secret.expose());
    output::said_once(
        json,
        &view::behind(view::endpoint_with_secret(&created), &behind),
        &text,
        &format!(
            "endpoint {0} was created, but its secret could not be printed; `magnetite endpoint rotate-secret {0} --revoke-now` creates another",
            created.id
        ),
    )?;
    output::note("Save the secret now: it is not shown again. The receiver verifies signatures with it.");
    acting::note(&behind);
    Ok(())
}

/// Changes an endpoint. If the URL is refused, the error names the setting that allows its address, if there
/// is one.
pub(super) async fn change(update: Update, configuration: &Configuration, json: bool) -> anyhow::Result<()> {
    let Update { id, change } = update;
    let project_id = match (change.project, change.no_project) {
        (Some(project), _) => Some(Some(ProjectId::new(project))),
        (None, true) => Some(None),
        (None, false) => None,
    };
    let (egress, store) = (
        role::egress(configuration)?,
        database::open(&configuration.database).await?,
    );
    let (id, change) = (
        EndpointId::new(id),
        EndpointChange {
            url: change.url,
            project_id,
            subscription: change.events,
        },
    );
    let updated = manage::change(&store, &egress, &id, change, runtime::now_ms() as i64).await;
    let done = match updated {
        Ok(updated) => acting::said(&updated, "updated", &store, configuration, json).await,
        Err(manage::Error::Store(error)) => Err(hint(error)),
        Err(error @ manage::Error::Url(_)) => Err(error.into()),
    };
    store.close().await;
    done
}
