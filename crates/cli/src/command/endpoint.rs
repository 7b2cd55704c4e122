//! `magnetite endpoint`: create, list, show, update, delete, enable, disable. Needs the database and no broker:
//! workers notice within `registry.refresh`.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use serde::Serialize;
use signature::Secret;
use store::{EndpointChange, Lookup, NewEndpoint, Store};
use webhook::{DisabledReason, Endpoint, EndpointId, OrganizationId, ProjectId, Subscription};

use crate::{Usage, clock, configuration::Configuration, database, output};

use super::role;

/// How many endpoints are read at once.
const PAGE: u32 = 500;
/// The longest id of an organization or project, in characters: generous, and short enough for a listing.
const ID_CHARS_MAX: usize = 256;
const LIST_THEM: &str = "`magnetite endpoint list` prints those there are";

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(super) struct Arguments {
    /// Print one JSON object a line
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Register a URL, and print the endpoint's id and its secret, which is shown this once
    Create(Create),
    /// List endpoints
    List {
        /// Only this organization's
        #[arg(long, value_name = "ORGANIZATION", value_parser = id)]
        org: Option<String>,
    },
    /// Show one endpoint, without its secret
    Show {
        /// The endpoint's id
        id: String,
    },
    /// Change an endpoint; what is not named stays as it is
    Update(Update),
    /// Delete an endpoint for good, and cancel what still waits for it
    Delete {
        /// The endpoint's id
        id: String,
    },
    /// Resume deliveries
    Enable {
        /// The endpoint's id
        id: String,
    },
    /// Suspend deliveries: what comes due meanwhile is dead-lettered as `endpoint_disabled`
    Disable {
        /// The endpoint's id
        id: String,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// Whose events are delivered
    #[arg(long, value_name = "ORGANIZATION", value_parser = id)]
    org: String,
    /// Where to: https, or http
    #[arg(long)]
    url: String,
    /// Deliver only this project's events
    #[arg(long, value_parser = id)]
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
    #[arg(long, value_parser = id)]
    project: Option<String>,
    /// Deliver the events of every project
    #[arg(long, conflicts_with = "project")]
    no_project: bool,
    /// The event types wanted from now on, such as lead.completed,research.*
    #[arg(long, value_name = "LIST")]
    events: Option<Subscription>,
}

#[derive(Debug, Args)]
struct Update {
    /// The endpoint's id
    id: String,
    #[command(flatten)]
    change: Change,
}

/// An endpoint as `--json` prints it. The secret is there after `create` alone.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    organization_id: &'a str,
    project_id: Option<&'a str>,
    url: &'a str,
    events: Vec<String>,
    enabled: bool,
    /// `manual`, or `gone` after the endpoint answered 410.
    disabled_reason: Option<&'static str>,
    disabled_at_ms: Option<i64>,
    created_at_ms: i64,
    updated_at_ms: i64,
}

/// Runs one action.
pub(super) async fn run(arguments: Arguments, configuration: &Configuration) -> anyhow::Result<()> {
    let Arguments { json, action } = arguments;
    match action {
        Action::Create(new) => create(new, configuration, json).await,
        Action::Update(update) => change(update, configuration, json).await,
        action => {
            let store = database::open(&configuration.database).await?;
            let done = on_store(action, &store, json).await;
            store.close().await;
            done
        }
    }
}

async fn on_store(action: Action, store: &Store, json: bool) -> anyhow::Result<()> {
    match action {
        Action::List { org } => list(store, org.map(OrganizationId::new), json).await,
        Action::Show { id } => show(store, &EndpointId::new(id), json).await,
        Action::Delete { id } => {
            let id = EndpointId::new(id);
            store
                .delete_endpoint(&id, clock::now_ms() as i64)
                .await
                .map_err(hint)?;
            said(
                json,
                &serde_json::json!({ "id": id.as_str(), "deleted": true }),
                &format!("deleted {id}"),
            )
        }
        Action::Enable { id } => {
            let enabled = store
                .enable_endpoint(&EndpointId::new(id), clock::now_ms() as i64)
                .await
                .map_err(hint)?;
            said(json, &shown(&enabled, None), &format!("enabled {}", enabled.id))
        }
        Action::Disable { id } => {
            let reason = DisabledReason::Manual;
            let disabled = store
                .disable_endpoint(&EndpointId::new(id), reason, clock::now_ms() as i64)
                .await
                .map_err(hint)?;
            said(
                json,
                &shown(&disabled, None),
                &format!("disabled {}", disabled.id),
            )
        }
        Action::Create(_) | Action::Update(_) => unreachable!("they need more than the store"),
    }
}

async fn create(new: Create, configuration: &Configuration, json: bool) -> anyhow::Result<()> {
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
    said(json, &shown(&created, Some(secret)), &text)?;
    output::note("Keep the secret now: it is not shown again. The receiver verifies signatures with it.");
    Ok(())
}

async fn change(update: Update, configuration: &Configuration, json: bool) -> anyhow::Result<()> {
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
    said(json, &shown(&updated, None), &format!("updated {}", updated.id))
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

async fn list(store: &Store, organization: Option<OrganizationId>, json: bool) -> anyhow::Result<()> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = store
            .list_endpoints(organization.as_ref(), after.as_ref(), PAGE)
            .await?;
        if json {
            output::lines(page.iter().map(|endpoint| output::json(&shown(endpoint, None))))?;
        } else {
            rows.extend(page.iter().map(row));
        }
        match page.last() {
            Some(last) if page.len() == PAGE as usize => after = Some(last.id.clone()),
            _ => break,
        }
    }
    if !json {
        output::table(
            [
                "id",
                "organization",
                "project",
                "events",
                "state",
                "created",
                "url",
            ],
            &rows,
        )?;
    }
    Ok(())
}

async fn show(store: &Store, id: &EndpointId, json: bool) -> anyhow::Result<()> {
    match store.endpoint(id).await? {
        Lookup::Found(endpoint) => said(json, &shown(&endpoint, None), &describe(&endpoint)),
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

fn said(json: bool, value: &impl Serialize, text: &str) -> anyhow::Result<()> {
    Ok(if json {
        output::line(&output::json(value))
    } else {
        output::line(text)
    }?)
}

fn shown<'a>(endpoint: &'a Endpoint, secret: Option<&'a str>) -> Shown<'a> {
    Shown {
        id: endpoint.id.as_str(),
        secret,
        organization_id: endpoint.organization_id.as_str(),
        project_id: endpoint.project_id.as_ref().map(ProjectId::as_str),
        url: &endpoint.url,
        events: endpoint
            .subscription
            .patterns()
            .iter()
            .map(ToString::to_string)
            .collect(),
        enabled: endpoint.disabled.is_none(),
        disabled_reason: endpoint
            .disabled
            .as_ref()
            .map(|disabled| disabled.reason.as_str()),
        disabled_at_ms: endpoint.disabled.as_ref().map(|disabled| disabled.at_ms),
        created_at_ms: endpoint.created_at_ms,
        updated_at_ms: endpoint.updated_at_ms,
    }
}

fn row(endpoint: &Endpoint) -> [String; 7] {
    [
        endpoint.id.to_string(),
        endpoint.organization_id.to_string(),
        project(endpoint),
        endpoint.subscription.to_string(),
        state(endpoint),
        time(endpoint.created_at_ms),
        endpoint.url.clone(),
    ]
}

fn describe(endpoint: &Endpoint) -> String {
    let disabled = endpoint
        .disabled
        .as_ref()
        .map(|disabled| format!(" since {}", time(disabled.at_ms)));
    [
        ("id", endpoint.id.to_string()),
        ("organization", endpoint.organization_id.to_string()),
        ("project", project(endpoint)),
        ("url", endpoint.url.clone()),
        ("events", endpoint.subscription.to_string()),
        ("state", state(endpoint) + &disabled.unwrap_or_default()),
        ("created", time(endpoint.created_at_ms)),
        ("updated", time(endpoint.updated_at_ms)),
    ]
    .map(|(name, value)| format!("{name:12}  {value}"))
    .join("\n")
}

fn project(endpoint: &Endpoint) -> String {
    endpoint
        .project_id
        .as_ref()
        .map_or_else(|| "-".to_owned(), ToString::to_string)
}

fn state(endpoint: &Endpoint) -> String {
    match &endpoint.disabled {
        None => "enabled".to_owned(),
        Some(disabled) => format!("disabled ({})", disabled.reason),
    }
}

/// RFC 3339, in UTC.
fn time(unix_ms: i64) -> String {
    let since_epoch = Duration::from_millis(unix_ms.try_into().unwrap_or_default());
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since_epoch).to_string()
}

/// An organization's or project's id: compared with what events carry, so anything that is text.
fn id(text: &str) -> Result<String, Usage> {
    let fits = (1..=ID_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    if fits {
        return Ok(text.to_owned());
    }
    Err(Usage(format!(
        "expected 1 to {ID_CHARS_MAX} characters, none of them a control character"
    )))
}
