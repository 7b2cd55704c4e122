//! Endpoints, as recorded in the journal: their health, and sending again what they missed.

use axum::{Json, extract::State};
use runtime::now_ms;
use serde::Deserialize;
use service::{
    recover::{Position, Recovered, Search},
    view,
};
use store::RecoverState;
use utoipa::ToSchema;
use webhook::{DeliveryId, Endpoint};
use wire::RecoveredEndpoint;

use crate::{
    context::Context,
    extract::{Checked, JsonBody},
    problem::{Kind, Problem},
    time::UnixMs,
};

use super::owned::Owned;

/// The maximum number of deliveries in one request.
const LIMIT_MAX: u32 = 1000;
const LIMIT_DEFAULT: u32 = 100;

/// What to send again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct RecoverEndpoint {
    #[schema(schema_with = crate::schema::recover_since)]
    since_ms: UnixMs,
    #[serde(default)]
    #[schema(schema_with = crate::schema::recover_until)]
    until_ms: Option<UnixMs>,
    /// The kind of deliveries to send.
    #[serde(default)]
    #[schema(inline, default = "all")]
    state: Lacking,
    /// The maximum number of deliveries to send.
    #[serde(default = "limit_default")]
    #[schema(minimum = 1, maximum = 1000, default = 100)]
    limit: u32,
    /// `next_cursor` of the previous response; null or absent to begin with the oldest.
    #[serde(default)]
    #[schema(max_length = 2304)]
    cursor: Option<String>,
    /// Only count, and send nothing.
    #[serde(default)]
    #[schema(default = false)]
    dry_run: bool,
}

impl Checked for RecoverEndpoint {}

/// What an endpoint has missed.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Lacking {
    /// Deliveries that were given up.
    Dead,
    /// Events that match now, but were received while the endpoint was disabled.
    Missed,
    /// Both.
    #[default]
    All,
}

/// Show an endpoint's health.
///
/// The health is computed from the recorded attempts.
#[utoipa::path(
    get,
    path = "/v1/endpoints/{id}/health",
    operation_id = "getEndpointHealth",
    tag = "Endpoints",
    security(("api_key" = ["endpoints:read"])),
    params(Owned),
    responses(
        (status = 200, description = "The endpoint's health.", body = wire::Health),
        Owned,
    ),
)]
pub(in crate::routes) async fn health(
    State(context): State<Context>,
    Owned(endpoint): Owned,
) -> Result<Json<wire::Health>, Problem> {
    let health = context.store.endpoint_health(&endpoint.id, now_ms()).await?;
    Ok(Json(view::health(&health)))
}

/// Send again what an endpoint missed.
///
/// Oldest first, at most `limit` per request, each as `resendDelivery` does. As long as the response has
/// `more`, the same request with its `next_cursor` as `cursor` sends the next ones; nothing is found twice,
/// not even a delivery that is given up again in the meantime. Without `cursor`, each request begins with the
/// oldest: what was sent is not sent twice, but what is given up again is found and sent again. The counts of
/// a dry run that goes on with `cursor` add up to the total.
#[utoipa::path(
    post,
    path = "/v1/endpoints/{id}/recover",
    operation_id = "recoverEndpoint",
    tag = "Endpoints",
    security(("api_key" = ["deliveries:write"])),
    params(Owned),
    request_body(content = RecoverEndpoint, example = json!({ "since_ms": 1_703_123_456_789_i64, "dry_run": true })),
    responses(
        (status = 200, description = "The numbers of deliveries that were sent, or would be sent.", body = RecoveredEndpoint),
        Owned,
        (status = 409, description = "The endpoint is disabled."),
        (status = 503, description = "It is not known whether all of them were sent. Send the request again."),
    ),
)]
pub(in crate::routes) async fn recover(
    State(context): State<Context>,
    Owned(endpoint): Owned,
    JsonBody(asked): JsonBody<RecoverEndpoint>,
) -> Result<Json<RecoveredEndpoint>, Problem> {
    if !(1..=LIMIT_MAX).contains(&asked.limit) {
        return Err(Problem::field("/limit", format!("expected 1 to {LIMIT_MAX}")));
    }
    if let Some(disabled) = &endpoint.disabled {
        return Err(Problem::new(
            Kind::Conflict,
            format!(
                "The endpoint is disabled ({}): deliveries to it would be given up again. Enable it first.",
                disabled.reason
            ),
        ));
    }
    let from = position(asked.cursor.as_deref(), &endpoint)?;
    let search = Search {
        endpoint,
        since_ms: asked.since_ms.0,
        until_ms: asked.until_ms.map_or_else(now_ms, |time| time.0),
        state: asked.state.into(),
    };
    let recovered = if asked.dry_run {
        search.count(&context.store, from, asked.limit).await?
    } else {
        context.resending.ready().await?;
        let sender = &context.resending.sender;
        search.send(&context.store, sender, from, asked.limit).await?
    };
    Ok(Json(result(&recovered, &search.endpoint, asked.dry_run)))
}

/// Returns the position of the cursor in a search for this endpoint; the beginning if there is no cursor.
fn position(cursor: Option<&str>, endpoint: &Endpoint) -> Result<Position, Problem> {
    let Some(cursor) = cursor else {
        return Ok(Position::default());
    };
    Position::of_cursor(cursor, endpoint).ok_or_else(|| {
        Problem::field(
            "/cursor",
            "expected the next_cursor of the previous response for this endpoint, unchanged",
        )
    })
}

fn result(recovered: &Recovered, endpoint: &Endpoint, dry_run: bool) -> RecoveredEndpoint {
    let Recovered {
        count,
        sent,
        more,
        position,
        event_missing,
    } = recovered;
    RecoveredEndpoint {
        dead: count.dead,
        missed: count.missed,
        left: count.left,
        sent: *sent,
        more: *more,
        next_cursor: more.then(|| position.cursor(endpoint)),
        event_missing: event_missing.iter().map(DeliveryId::to_string).collect(),
        dry_run,
    }
}

impl From<Lacking> for RecoverState {
    fn from(lacking: Lacking) -> Self {
        match lacking {
            Lacking::Dead => Self::Dead,
            Lacking::Missed => Self::Missed,
            Lacking::All => Self::All,
        }
    }
}

fn limit_default() -> u32 {
    LIMIT_DEFAULT
}
