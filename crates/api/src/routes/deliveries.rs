//! Deliveries, each of one event to one endpoint.

pub(super) mod resend;

use axum::{Json, extract::State};
use serde::Deserialize;
use service::view::{self, ForCustomers as _};
use store::{DeliveryCursor, DeliveryFilter, DeliveryRow};
use utoipa::IntoParams;
use webhook::{DeliveryId, EndpointId, EventId, OrganizationId};
use wire::Listing;

use crate::{
    caller::{Caller, Organization},
    context::Context,
    extract::{Id, Query, parameter},
    pagination::{Page, listing},
    problem::Problem,
    time::UnixMs,
};

/// The query of the list of deliveries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Deliveries {
    /// Only deliveries to this endpoint.
    #[param(example = "ep_8e0d3e107685e7013e1070dba5f85cc2", nullable = false)]
    endpoint_id: Option<String>,
    /// Only deliveries of this event.
    #[param(example = "evt_e3857281de58d21d48b287e274b6f6c0", nullable = false)]
    event_id: Option<String>,
    /// Only deliveries in this state.
    #[param(schema_with = wire::schema::delivery_state)]
    state: Option<String>,
    #[param(schema_with = crate::schema::created_since)]
    since_ms: Option<UnixMs>,
    #[param(schema_with = crate::schema::created_until)]
    until_ms: Option<UnixMs>,
    /// The maximum number of deliveries on the page.
    #[param(minimum = 1, maximum = 100, default = 20, example = 20, nullable = false)]
    limit: Option<u32>,
    /// `next_cursor` of the previous page; omit it for the first page.
    #[param(max_length = 2304, nullable = false)]
    cursor: Option<String>,
}

/// List deliveries.
///
/// Newest first, by the time of their creation. With a platform key and without Magnetite-Organization, lists
/// the deliveries of all organizations.
#[utoipa::path(
    get,
    path = "/v1/deliveries",
    operation_id = "listDeliveries",
    tag = "Deliveries",
    security(("api_key" = ["deliveries:read"])),
    params(Deliveries),
    responses((status = 200, description = "A page of deliveries.", body = Listing<wire::Delivery>)),
)]
pub(super) async fn list(
    State(context): State<Context>,
    caller: Caller,
    Query(wanted): Query<Deliveries>,
) -> Result<Json<Listing<wire::Delivery>>, Problem> {
    let filter = DeliveryFilter {
        organization: caller.organization,
        endpoint: wanted.endpoint_id.map(EndpointId::new),
        event: wanted.event_id.map(EventId::new),
        state: parameter("state", wanted.state.as_deref())?,
        since_ms: wanted.since_ms.map(|time| time.0),
        until_ms: wanted.until_ms.map(|time| time.0),
    };
    let page = Page::new(wanted.limit, wanted.cursor);
    let (limit, before) = (page.limit()?, page.after::<(u64, String)>()?);
    let before = before.map(|(created_ms, id)| DeliveryCursor {
        created_ms,
        id: DeliveryId::new(id),
    });
    let deliveries = context
        .store
        .deliveries(&filter, before.as_ref(), limit + 1)
        .await?;
    let place = |last: &DeliveryRow| (last.created_ms, last.id.to_string());
    Ok(Json(listing(deliveries, limit, place, |delivery| {
        view::delivery(&delivery).for_customers()
    })))
}

/// Show a delivery.
///
/// Returns its state, the result of its last attempt, and when the next one is due.
#[utoipa::path(
    get,
    path = "/v1/deliveries/{id}",
    operation_id = "getDelivery",
    tag = "Deliveries",
    security(("api_key" = ["deliveries:read"])),
    params(("id" = String, Path, description = "The delivery's id.", example = "dlv_958343c375fad16b091b931f14abe353")),
    responses(
        (status = 200, description = "The delivery.", body = wire::Delivery),
        (status = 404, description = "The organization has no such delivery."),
    ),
)]
pub(super) async fn show(
    State(context): State<Context>,
    Organization(organization): Organization,
    Id(id): Id,
) -> Result<Json<wire::Delivery>, Problem> {
    let found = find(&context, &organization, id).await?;
    Ok(Json(view::delivery(&found).for_customers()))
}

/// List a delivery's attempts.
///
/// Returns every request that was made, in the order in which they began.
#[utoipa::path(
    get,
    path = "/v1/deliveries/{id}/attempts",
    operation_id = "listAttempts",
    tag = "Deliveries",
    security(("api_key" = ["deliveries:read"])),
    params(("id" = String, Path, description = "The delivery's id.", example = "dlv_958343c375fad16b091b931f14abe353")),
    responses(
        (status = 200, description = "All attempts, on one page.", body = Listing<wire::Attempt>),
        (status = 404, description = "The organization has no such delivery."),
    ),
)]
pub(super) async fn attempts(
    State(context): State<Context>,
    Organization(organization): Organization,
    Id(id): Id,
) -> Result<Json<Listing<wire::Attempt>>, Problem> {
    let found = find(&context, &organization, id).await?;
    let attempts = context.store.attempts(&found.id).await?;
    Ok(Json(Listing {
        data: attempts
            .iter()
            .map(|attempt| view::attempt(attempt).for_customers())
            .collect(),
        next_cursor: None,
    }))
}

/// Returns the organization's delivery. Another one's delivery is treated like one that does not exist.
async fn find(context: &Context, organization: &OrganizationId, id: String) -> Result<DeliveryRow, Problem> {
    let id = DeliveryId::new(id);
    let found = context.store.delivery(&id).await?;
    let own = found.filter(|found| found.delivery.organization_id == *organization);
    own.ok_or_else(|| Problem::not_found("delivery", id.as_str()))
}
