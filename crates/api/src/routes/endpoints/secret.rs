//! Replacing the secrets of endpoints.

use runtime::now_ms;
use service::{manage, view};

use crate::{
    extract::OptionalJson,
    problem::{Kind, Problem},
};

use super::{
    body::RotateSecret,
    change::{Change, Changed},
};

/// Replace an endpoint's secret.
///
/// Both secrets are valid for a while, so that the receiver can switch to the new one at any moment without
/// losing a request. The response contains the new secret. With `revoke_now`, a secret that was disclosed is
/// invalidated at once: it signs no request that begins after the response, which is sent when every running
/// worker has the new secret, or else names the other workers in Magnetite-Workers-Behind.
#[utoipa::path(
    post,
    path = "/v1/endpoints/{id}/rotate-secret",
    operation_id = "rotateEndpointSecret",
    tag = "Endpoints",
    security(("api_key" = ["endpoints:write"])),
    params(Change),
    request_body(
        content = Option<RotateSecret>,
        description = "How to replace the secret. Without a body, the new secret is random and the overlap is one day.",
        example = json!({ "overlap_s": 86_400 }),
    ),
    responses(
        Changed,
        Change,
        (status = 409, description = "The endpoint already has two valid secrets."),
    ),
)]
pub(in crate::routes) async fn rotate(
    Change { context, id, store }: Change,
    OptionalJson(how): OptionalJson<RotateSecret>,
) -> Result<Changed, Problem> {
    let rotation = how.rotation()?;
    let rotated = manage::rotate(&store, &id, &rotation, now_ms() as i64).await;
    match rotated {
        Ok(rotated) => Ok(Changed::to(view::endpoint_with_secret(&rotated), &context).await),
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
