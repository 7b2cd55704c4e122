//! Events, as recorded in the journal.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use service::{
    history,
    view::{self, ForCustomers as _},
};
use store::{EventCursor, EventFilter, EventRow};
use utoipa::IntoParams;
use webhook::{EventId, LeadId, OrganizationId, ProjectId};
use wire::Listing;

use crate::{
    caller::{Caller, Organization},
    context::Context,
    extract::{Id, Query, parameter},
    pagination::{Page, listing},
    problem::Problem,
    time::UnixMs,
};

/// The query of the list of events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::routes) struct Events {
    /// Only events of this type.
    #[serde(rename = "type")]
    #[param(schema_with = wire::schema::event_kind)]
    event_type: Option<String>,
    /// Only events of this project.
    #[param(example = "proj_456def", nullable = false)]
    project_id: Option<String>,
    /// Only events about this lead.
    #[param(example = "lead_789ghi", nullable = false)]
    lead_id: Option<String>,
    /// Only events with a delivery in this state.
    #[param(schema_with = wire::schema::delivery_state)]
    state: Option<String>,
    #[param(schema_with = crate::schema::received_since)]
    since_ms: Option<UnixMs>,
    #[param(schema_with = crate::schema::received_until)]
    until_ms: Option<UnixMs>,
    /// The maximum number of events on the page.
    #[param(minimum = 1, maximum = 100, default = 20, example = 20, nullable = false)]
    limit: Option<u32>,
    /// `next_cursor` of the previous page; omit it for the first page.
    #[param(max_length = 2304, nullable = false)]
    cursor: Option<String>,
}

/// A position in the list of events: when the event was received, its id and, in a list of all organizations,
/// its organization.
#[derive(Serialize, Deserialize)]
struct Place(
    u64,
    String,
    #[serde(default, skip_serializing_if = "Option::is_none")] Option<String>,
);

/// List events.
///
/// Returns the events that a worker has received, newest first. A newly published event appears within about
/// a second. With a platform key and without Magnetite-Organization, lists the events of all organizations.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "listEvents",
    tag = "Events",
    security(("api_key" = ["deliveries:read"])),
    params(Events),
    responses((status = 200, description = "A page of events.", body = Listing<wire::EventSummary>)),
)]
pub(in crate::routes) async fn list(
    State(context): State<Context>,
    caller: Caller,
    Query(wanted): Query<Events>,
) -> Result<Json<Listing<wire::EventSummary>>, Problem> {
    let filter = EventFilter {
        organization: caller.organization,
        project: wanted.project_id.map(ProjectId::new),
        lead: wanted.lead_id.map(LeadId::new),
        event_type: parameter("type", wanted.event_type.as_deref())?,
        state: parameter("state", wanted.state.as_deref())?,
        since_ms: wanted.since_ms.map(|time| time.0),
        until_ms: wanted.until_ms.map(|time| time.0),
    };
    let page = Page::new(wanted.limit, wanted.cursor);
    let (limit, before) = (page.limit()?, page.after::<Place>()?);
    let before = before.map(|place| place.cursor(filter.organization.as_ref()));
    let events = context.store.events(&filter, before.as_ref(), limit + 1).await?;
    let of_all = filter.organization.is_none();
    let place = |last: &EventRow| Place::of(last, of_all);
    Ok(Json(listing(events, limit, place, |event| view::event(&event))))
}

/// Show an event.
///
/// Returns every endpoint that the event could have been delivered to and whether it was or why not, each
/// delivery, each attempt, and when the next attempt is due.
#[utoipa::path(
    get,
    path = "/v1/events/{id}",
    operation_id = "getEvent",
    tag = "Events",
    security(("api_key" = ["deliveries:read"])),
    params(("id" = String, Path, description = "The event's id.", example = "evt_e3857281de58d21d48b287e274b6f6c0")),
    responses(
        (status = 200, description = "The event.", body = wire::EventHistory),
        (status = 404, description = "The organization has no such event, or no worker has received it yet."),
    ),
)]
pub(in crate::routes) async fn show(
    State(context): State<Context>,
    Organization(organization): Organization,
    Id(id): Id,
) -> Result<Json<wire::EventHistory>, Problem> {
    let id = EventId::new(id);
    let found = context.store.event(&id, Some(&organization)).await?;
    let stored = found.into_iter().next();
    let stored = stored.ok_or_else(|| Problem::not_found("event", id.as_str()))?;
    let history = history::gather(stored, &context.store).await?;
    Ok(Json(view::history(&history, true).for_customers()))
}

impl Place {
    fn of(row: &EventRow, of_all: bool) -> Self {
        let organization = of_all.then(|| row.organization_id.to_string());
        Self(row.received_ms, row.id.to_string(), organization)
    }

    /// Returns the position in the list of this organization's events, or of all events.
    fn cursor(self, organization: Option<&OrganizationId>) -> EventCursor {
        let Self(received_ms, id, named) = self;
        let organization = organization.cloned();
        EventCursor {
            received_ms,
            id: EventId::new(id),
            organization_id: organization.unwrap_or_else(|| OrganizationId::new(named.unwrap_or_default())),
        }
    }
}
