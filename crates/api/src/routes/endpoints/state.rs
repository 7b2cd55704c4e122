//! Enabling and disabling endpoints.

use runtime::now_ms;
use service::view;
use webhook::DisabledReason;

use crate::problem::Problem;

use super::change::{Change, Changed};

/// Resume deliveries.
///
/// Events that the endpoint missed while it was disabled are not delivered automatically.
#[utoipa::path(
    post,
    path = "/v1/endpoints/{id}/enable",
    operation_id = "enableEndpoint",
    tag = "Endpoints",
    security(("api_key" = ["endpoints:write"])),
    params(Change),
    responses(Changed, Change),
)]
pub(in crate::routes) async fn enable(Change { context, id, store }: Change) -> Result<Changed, Problem> {
    let enabled = store.enable_endpoint(&id, now_ms() as i64).await?;
    Ok(Changed::to(view::endpoint(&enabled), &context).await)
}

/// Suspend deliveries.
///
/// Deliveries that become due in the meantime become dead letters, and new events are not delivered to the
/// endpoint. No request to it begins after the response.
#[utoipa::path(
    post,
    path = "/v1/endpoints/{id}/disable",
    operation_id = "disableEndpoint",
    tag = "Endpoints",
    security(("api_key" = ["endpoints:write"])),
    params(Change),
    responses(Changed, Change),
)]
pub(in crate::routes) async fn disable(Change { context, id, store }: Change) -> Result<Changed, Problem> {
    let disabled = store.disable_endpoint(&id, DisabledReason::Manual, now_ms() as i64);
    Ok(Changed::to(view::endpoint(&disabled.await?), &context).await)
}
