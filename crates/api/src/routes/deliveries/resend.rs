//! Sending deliveries again.

use axum::{Json, extract::State, http::StatusCode};
use runtime::now_ms;
use serde::Deserialize;
use service::{
    resend::{self, Which},
    view,
};
use store::{Refusal, Requested};
use utoipa::ToSchema;
use webhook::DeliveryId;
use wire::{Resent, ResentDeliveries};

use crate::{
    caller::Organization,
    context::Context,
    extract::{Checked, Id, JsonBody},
    problem::{Kind, Problem, unsent},
};

use super::find;

/// The maximum number of deliveries in one request.
const IDS_MAX: usize = 100;

/// Deliveries to send again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct ResendDeliveries {
    /// The deliveries' ids, at most 100.
    #[schema(min_items = 1, max_items = 100, example = json!(["dlv_958343c375fad16b091b931f14abe353"]))]
    ids: Vec<String>,
}

impl Checked for ResendDeliveries {}

/// Send a delivery again.
///
/// Sends the same event, byte for byte and with the same `webhook-id`, as a new delivery with a full set of
/// attempts. Repeating the request is safe: while the new delivery is pending, a repeated request returns it
/// and sends nothing else.
#[utoipa::path(
    post,
    path = "/v1/deliveries/{id}/resend",
    operation_id = "resendDelivery",
    tag = "Deliveries",
    security(("api_key" = ["deliveries:write"])),
    params(("id" = String, Path, description = "The delivery's id.", example = "dlv_958343c375fad16b091b931f14abe353")),
    responses(
        (status = 202, description = "The delivery was sent again.", body = Resent),
        (status = 404, description = "The organization has no such delivery."),
        (status = 409, description = "The delivery is still pending, its event is no longer stored, or it is a ping."),
        (status = 503, description = "It is not known whether the delivery was sent. Send the request again."),
    ),
)]
pub(in crate::routes) async fn one(
    State(context): State<Context>,
    Organization(organization): Organization,
    Id(id): Id,
) -> Result<(StatusCode, Json<Resent>), Problem> {
    let found = find(&context, &organization, id).await?;
    let mut results = send(&context, std::slice::from_ref(&found.id)).await?;
    match results.pop().expect("one delivery has one result") {
        Ok(run) => Ok((
            StatusCode::ACCEPTED,
            Json(Resent {
                resend_of: found.id.to_string(),
                id: run.to_string(),
            }),
        )),
        Err(Refusal::Unknown) => Err(Problem::not_found("delivery", found.id.as_str())),
        Err(Refusal::StillPending) => Err(Problem::new(
            Kind::Conflict,
            "The delivery is still pending and is retried automatically. It can be sent again after it has ended.",
        )),
        Err(Refusal::EventMissing) => Err(Problem::new(
            Kind::Conflict,
            "The delivery's event is no longer stored. Publish the event again.",
        )),
        Err(Refusal::Ping) => Err(Problem::new(
            Kind::Conflict,
            "The delivery is a ping, and pings are not sent again. Ping the endpoint once more.",
        )),
    }
}

/// Send deliveries again.
///
/// Sends each delivery as `resendDelivery` does, independently of the others. The response has the result for
/// each.
#[utoipa::path(
    post,
    path = "/v1/deliveries/resend",
    operation_id = "resendDeliveries",
    tag = "Deliveries",
    security(("api_key" = ["deliveries:write"])),
    request_body(content = ResendDeliveries, example = json!({ "ids": ["dlv_958343c375fad16b091b931f14abe353"] })),
    responses(
        (status = 200, description = "All deliveries that were not refused were sent again.", body = ResentDeliveries),
        (status = 503, description = "It is not known whether all of them were sent. Send the request again."),
    ),
)]
pub(in crate::routes) async fn many(
    State(context): State<Context>,
    Organization(organization): Organization,
    JsonBody(asked): JsonBody<ResendDeliveries>,
) -> Result<Json<ResentDeliveries>, Problem> {
    if !(1..=IDS_MAX).contains(&asked.ids.len()) {
        return Err(Problem::field("/ids", format!("expected 1 to {IDS_MAX} ids")));
    }
    let mut own = Vec::new();
    for id in &asked.ids {
        let id = DeliveryId::new(id.as_str());
        let found = context.store.delivery(&id).await?;
        own.extend(found.filter(|found| found.delivery.organization_id == organization));
    }
    let own: Vec<DeliveryId> = own.into_iter().map(|row| row.id).collect();
    let sent = send(&context, &own).await?;
    let result = |resend_of: String| {
        let position = own.iter().position(|id| id.as_str() == resend_of);
        let result = position.map_or(Err(Refusal::Unknown), |position| sent[position].clone());
        view::resent(resend_of, result)
    };
    Ok(Json(ResentDeliveries {
        results: asked.ids.into_iter().map(result).collect(),
    }))
}

/// Sends each of the deliveries again. Returns the new runs, or why there are none.
async fn send(context: &Context, ids: &[DeliveryId]) -> Result<Vec<Result<DeliveryId, Refusal>>, Problem> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let resending = &context.resending;
    resending.ready().await?;
    let requested = resend::request(&context.store, ids, resending.late, now_ms()).await?;
    let mut runs: Vec<_> = requested.into_iter().map(Requested::run).collect();
    let wanted: Vec<DeliveryId> = runs.iter().flatten().cloned().collect();
    let sent = resending
        .sender
        .send(Which::These(&wanted), wanted.len() as u64)
        .await?;
    if sent.left > 0 {
        return Err(unsent());
    }
    for run in &mut runs {
        if matches!(run, Ok(id) if sent.unsendable.contains(id)) {
            *run = Err(Refusal::EventMissing);
        }
    }
    Ok(runs)
}
