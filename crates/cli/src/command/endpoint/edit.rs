//! `create` and `update`: the two that take a URL.

use anyhow::Context as _;
use clap::Args;
use signature::Secret;
use store::{EndpointChange, NewEndpoint};
use webhook::{EndpointId, OrganizationId, ProjectId, Subscription};

use crate::{
    clock,
    command::{given, role},
    configuration::Configuration,
    database, output,
};

use super::{hint, view::shown};

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Whose events are delivered
    #[arg(long, value_name = "ORGANIZATION", value_parser = given::id)]
    org: String,
    /// Where to: https, or http
    #[arg(long)]
    url: String,
    /// Deliver only this project's events
    #[arg(long, value_parser = given::id)]
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
    #[arg(long, value_parser = given::id)]
    project: Option<String>,
    /// Deliver the events of every project
    #[arg(long, conflicts_with = "project")]
    no_project: bool,
    /// The event types wanted from now on, such as lead.completed,research.*
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
    check_url(configuration, &new.url).await?;
    let store = database::open(&configuration.database).await?;
    let new = NewEndpoint {
        organization_id: OrganizationId::new(new.org),
        project_id: new.project.map(ProjectId::new),
        url: new.url,
        subscription: new.events,
        secret: Secret::generate(rand::random()),
    };
    let created = store
        .create_endpoint(new, EndpointId::generate(rand::random()), clock::now_ms() as i64)
        .await?;
    store.close().await;
    let secret = created.secret.expose();
    let text = format!("id      {}\nsecret  {secret}", created.id);
    output::said(json, &shown(&created, Some(secret)), &text)?;
    output::note("Keep the secret now: it is not shown again. The receiver verifies signatures with it.");
    Ok(())
}

pub(super) async fn change(update: Update, configuration: &Configuration, json: bool) -> anyhow::Result<()> {
    let Update { id, change } = update;
    if let Some(url) = &change.url {
        check_url(configuration, url).await?;
    }
    let project_id = match (change.project, change.no_project) {
        (Some(project), _) => Some(Some(ProjectId::new(project))),
        (None, true) => Some(None),
        (None, false) => None,
    };
    let store = database::open(&configuration.database).await?;
    let change = EndpointChange {
        url: change.url,
        project_id,
        subscription: change.events,
    };
    let updated = store
        .update_endpoint(&EndpointId::new(id), change, clock::now_ms() as i64)
        .await
        .map_err(hint)?;
    store.close().await;
    output::said(json, &shown(&updated, None), &format!("updated {}", updated.id))
}

/// The refusal names the setting that allows the address, if there is one.
async fn check_url(configuration: &Configuration, url: &str) -> anyhow::Result<()> {
    let egress = role::egress(configuration)?;
    egress
        .check_endpoint(url)
        .await
        .map(drop)
        .context("the URL cannot be an endpoint's")
}
