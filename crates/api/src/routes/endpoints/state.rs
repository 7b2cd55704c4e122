//! Enabling and disabling endpoints.

use axum::{extract::State, response::Response};
use runtime::now_ms;
use webhook::DisabledReason;

use crate::{
    caller::{Caller, Organization},
    context::Context,
    extract::{Id, IfMatch},
    problem::Problem,
};

use super::{admitted, changed_to};

/// Resume deliveries.
///
/// Events that the endpoint missed while it was disabled are not delivered automatically.
#[utoipa::path(
    post,
    path = "/v1/endpoints/{id}/enable",
    operation_id = "enableEndpoint",
    tag = "Endpoints",
    security(("api_key" = ["endpoints:write"])),
    params(
        ("id" = String, Path, description = "The endpoint's id.", example = "ep_8e0d3e107685e7013e1070dba5f85cc2"),
        ("If-Match" = Option<String>, Header, description = "ETags of versions that may be enabled.", example = "\"17\""),
    ),
    responses(
        (
            status = 200,
            description = "The endpoint as it is now.",
            body = wire::Endpoint,
            headers(
                ("ETag" = String, description = "The endpoint's version."),
                ("Magnetite-Workers-Behind" = String, description = "The names of workers that are not known to act on the change after 2 s, separated by commas; absent if every running worker does."),
            ),
        ),
        (status = 404, description = "The organization has no such endpoint."),
        (status = 412, description = "If-Match does not name the endpoint's present version."),
    ),
)]
pub(in crate::routes) async fn enable(
    State(context): State<Context>,
    caller: Caller,
    Organization(organization): Organization,
    Id(id): Id,
    if_match: IfMatch,
) -> Result<Response, Problem> {
    let (id, store) = admitted(&context, &caller, &organization, id, &if_match).await?;
    let enabled = store.enable_endpoint(&id, now_ms() as i64).await?;
    Ok(changed_to(&context, &enabled).await)
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
    params(
        ("id" = String, Path, description = "The endpoint's id.", example = "ep_8e0d3e107685e7013e1070dba5f85cc2"),
        ("If-Match" = Option<String>, Header, description = "ETags of versions that may be disabled.", example = "\"17\""),
    ),
    responses(
        (
            status = 200,
            description = "The endpoint as it is now.",
            body = wire::Endpoint,
            headers(
                ("ETag" = String, description = "The endpoint's version."),
                ("Magnetite-Workers-Behind" = String, description = "The names of workers that are not known to act on the change after 2 s, separated by commas; absent if every running worker does."),
            ),
        ),
        (status = 404, description = "The organization has no such endpoint."),
        (status = 412, description = "If-Match does not name the endpoint's present version."),
    ),
)]
pub(in crate::routes) async fn disable(
    State(context): State<Context>,
    caller: Caller,
    Organization(organization): Organization,
    Id(id): Id,
    if_match: IfMatch,
) -> Result<Response, Problem> {
    let (id, store) = admitted(&context, &caller, &organization, id, &if_match).await?;
    let disabled = store.disable_endpoint(&id, DisabledReason::Manual, now_ms() as i64);
    Ok(changed_to(&context, &disabled.await?).await)
}
