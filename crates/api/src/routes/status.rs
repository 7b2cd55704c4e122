//! The present state of an organization's webhooks.

use axum::{Json, extract::State};
use runtime::now_ms;
use serde::Deserialize;
use service::{
    status,
    view::{self, ForCustomers as _},
};
use utoipa::IntoParams;

use crate::{caller::Organization, context::Context, extract::Query, problem::Problem, time::UnixMs};

/// The period for which dead deliveries are counted by default.
const PERIOD_MS: u64 = 3_600_000;

/// The query of the status.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Period {
    #[param(schema_with = crate::schema::dead_since)]
    since_ms: Option<UnixMs>,
}

/// Show the status.
///
/// Returns the numbers of the organization's endpoints, the events and attempts of the last minute, the
/// pending and dead deliveries, and which endpoints fail and why.
#[utoipa::path(
    get,
    path = "/v1/status",
    operation_id = "getStatus",
    tag = "Status",
    security(("api_key" = ["deliveries:read"])),
    params(Period),
    responses((status = 200, description = "The present state.", body = wire::Status)),
)]
pub(super) async fn show(
    State(context): State<Context>,
    Organization(organization): Organization,
    Query(period): Query<Period>,
) -> Result<Json<wire::Status>, Problem> {
    let now_ms = now_ms();
    let since_ms = period.since_ms.map(|time| time.0);
    let since_ms = since_ms.unwrap_or_else(|| now_ms.saturating_sub(PERIOD_MS));
    let status = status::read(&context.store, &organization, since_ms, now_ms).await?;
    Ok(Json(view::status(&status).for_customers()))
}
