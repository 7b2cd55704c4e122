//! Replacing the secrets of endpoints.

use axum::{extract::State, response::Response};
use runtime::now_ms;
use service::{manage, view};

use crate::{
    caller::{Caller, Organization},
    context::Context,
    extract::{Id, IfMatch, OptionalJson},
    problem::{Kind, Problem},
};

use super::{admitted, body::RotateSecret, done};

/// Replace an endpoint's secret.
///
/// Both secrets are valid for a while, so that the receiver can switch to the new one at any moment without
/// losing a request. With `revoke_now`, a secret that was disclosed is invalidated at once: it signs no
/// request that begins after the response, which is sent when every running worker has the new secret, or
/// else names the other workers in Magnetite-Workers-Behind.
#[utoipa::path(
    post,
    path = "/v1/endpoints/{id}/rotate-secret",
    operation_id = "rotateEndpointSecret",
    tag = "Endpoints",
    security(("api_key" = ["endpoints:write"])),
    params(
        ("id" = String, Path, description = "The endpoint's id.", example = "ep_8e0d3e107685e7013e1070dba5f85cc2"),
        ("If-Match" = Option<String>, Header, description = "ETags of versions that may be changed.", example = "\"17\""),
    ),
    request_body(
        content = Option<RotateSecret>,
        description = "How to replace the secret. Without a body, the new secret is random and the overlap is one day.",
        example = json!({ "overlap_s": 86_400 }),
    ),
    responses(
        (
            status = 200,
            description = "The endpoint, with its new secret.",
            body = wire::Endpoint,
            headers(
                ("ETag" = String, description = "The endpoint's version."),
                ("Magnetite-Workers-Behind" = String, description = "The names of workers that are not known to act on the change after 2 s, separated by commas; absent if every running worker does."),
            ),
        ),
        (status = 404, description = "The organization has no such endpoint."),
        (status = 409, description = "The endpoint already has two valid secrets."),
        (status = 412, description = "If-Match does not name the endpoint's present version."),
    ),
)]
pub(in crate::routes) async fn rotate(
    State(context): State<Context>,
    caller: Caller,
    Organization(organization): Organization,
    Id(id): Id,
    if_match: IfMatch,
    OptionalJson(how): OptionalJson<RotateSecret>,
) -> Result<Response, Problem> {
    let rotation = how.rotation()?;
    let (id, store) = admitted(&context, &caller, &organization, id, &if_match).await?;
    let rotated = manage::rotate(&store, &id, &rotation, now_ms() as i64).await;
    match rotated {
        Ok(rotated) => Ok(done(&context, rotated.version, view::endpoint_with_secret(&rotated)).await),
        Err(store::Error::RotationOpen { until_ms, .. }) => Err(Problem::new(
            Kind::Conflict,
            format!(
                "Two secrets are valid, the old one until {until_ms} (Unix milliseconds): wait until then, or send \
                 {{\"revoke_now\": true}}, after which only the new one is valid."
            ),
        )),
        Err(error) => Err(error.into()),
    }
}
