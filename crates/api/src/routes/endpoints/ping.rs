//! Pinging endpoints, to test whether they answer.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use runtime::now_ms;
use service::{
    ping::{self, Pinged},
    view::{self, ForCustomers as _},
};

use crate::{
    caller::Caller,
    context::Context,
    problem::{Kind, Problem},
};

use super::owned::Owned;

/// The maximum time to wait for the result. An attempt takes at most 30 s; the rest is for the queues, and
/// for the record to reach the database.
const PATIENCE: Duration = Duration::from_secs(35);

/// Ping an endpoint.
///
/// Sends one signed request of type `webhook.ping`, in the same way as events are sent, even to a disabled
/// endpoint. It is not retried. The response says how the endpoint answered. If that is not known after 35 s,
/// the response is 202, and the delivery has the result later.
#[utoipa::path(
    post,
    path = "/v1/endpoints/{id}/ping",
    operation_id = "pingEndpoint",
    tag = "Endpoints",
    security(("api_key" = ["endpoints:write"])),
    params(Owned),
    responses(
        (status = 200, description = "How the endpoint answered, or what went wrong.", body = wire::Ping),
        (status = 202, description = "The ping was sent. Its result is not known yet.", body = wire::Ping),
        Owned,
        (status = 503, description = "It is not known whether the ping was sent, or too many pings are waiting for their results. Send the request again."),
    ),
)]
pub(in crate::routes) async fn ping(
    State(context): State<Context>,
    caller: Caller,
    Owned(endpoint): Owned,
) -> Result<(StatusCode, Json<wire::Ping>), Problem> {
    // Pings of endpoints that hang must not block other requests, or the pings of other callers.
    let Some(_place) = context.pings.take(&caller, 1) else {
        return Err(Problem::new(
            Kind::Overloaded,
            "Too many pings are waiting for their results. Send the request again.",
        )
        .retry_after(5));
    };
    let resending = &context.resending;
    resending.ready().await?;
    let (publisher, topology) = resending.sender.way();
    let sent = ping::send(publisher, topology, &endpoint, now_ms(), rand::random())
        .await
        .map_err(|error| {
            let problem = Problem::new(
                Kind::BrokerUnavailable,
                "It is not known whether the ping was sent. Send the request again.",
            );
            problem.retry_after(5).because(&error)
        })?;
    let pinged = ping::result(&context.store, &sent, PATIENCE).await?;
    let status = if pinged.as_ref().is_some_and(Pinged::is_over) {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(view::ping(&sent, pinged.as_ref()).for_customers())))
}
