//! What requests that change an endpoint have in common: which endpoint they change, and how they are
//! answered.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::FromRequestParts,
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde_json::json;
use service::workers;
use store::Store;
use utoipa::{
    IntoParams, IntoResponses,
    openapi::{
        self, RefOr, Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        response::ResponseBuilder,
        schema::{ObjectBuilder, Type},
    },
};
use webhook::EndpointId;

use crate::{
    caller::Caller,
    context::Context,
    extract::{IfMatch, etag},
    problem::Problem,
};

use super::owned::Owned;

/// The response header with the names of the workers that are not known to act on a change.
const WORKERS_BEHIND: HeaderName = HeaderName::from_static("magnetite-workers-behind");

/// The endpoint that a request changes. The request permits the endpoint's present version.
pub(in crate::routes) struct Change {
    pub(super) context: Context,
    pub(super) id: EndpointId,
    /// Refuses to write if the version has changed since.
    pub(super) store: Store,
}

/// The endpoint as it is now.
#[derive(IntoResponses)]
#[response(
    status = 200,
    headers(
        ("ETag" = String, description = "The endpoint's version."),
        ("Magnetite-Workers-Behind" = String, description = "The names of workers that are not known to act on the change after 2 s, separated by commas; absent if every running worker does."),
    ),
)]
pub(in crate::routes) struct Changed(wire::Endpoint);

impl FromRequestParts<Context> for Change {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, context: &Context) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, context).await?;
        let if_match = IfMatch::from_request_parts(parts, context).await?;
        let Owned(endpoint) = Owned::from_request_parts(parts, context).await?;
        let expected = if_match.expect(endpoint.version)?;
        Ok(Self {
            context: context.clone(),
            id: endpoint.id,
            store: context.store_for(&caller).if_version(expected),
        })
    }
}

impl IntoParams for Change {
    fn into_params(parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let if_match = ParameterBuilder::new()
            .name("If-Match")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some("ETags of the versions that may be changed."))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .example(Some(json!("\"17\"")));
        let mut parameters = Owned::into_params(parameter_in);
        parameters.push(if_match.build());
        parameters
    }
}

impl IntoResponses for Change {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let changed =
            ResponseBuilder::new().description("If-Match does not name the endpoint's present version.");
        let mut responses = Owned::responses();
        responses.insert("412".to_owned(), changed.build().into());
        responses
    }
}

impl Changed {
    /// Waits until every running worker acts on the change. Otherwise, the response names the workers that are
    /// not known to.
    pub(super) async fn to(endpoint: wire::Endpoint, context: &Context) -> Self {
        let workers_behind = workers_behind(context).await;
        Self(wire::Endpoint {
            workers_behind,
            ..endpoint
        })
    }
}

impl IntoResponse for Changed {
    fn into_response(self) -> Response {
        let Self(endpoint) = self;
        let behind = naming(&endpoint.workers_behind);
        let tag = [(header::ETAG, etag(endpoint.version))];
        (behind, tag, Json(endpoint)).into_response()
    }
}

/// Waits until every running worker acts on a deletion. Returns the response, which names the other workers.
pub(super) async fn deleted(context: &Context) -> Response {
    let behind = naming(&workers_behind(context).await);
    (StatusCode::NO_CONTENT, behind, ()).into_response()
}

async fn workers_behind(context: &Context) -> Vec<String> {
    let behind = workers::act(&context.store, &context.resending.changes).await;
    behind.names()
}

fn naming(workers: &[String]) -> Option<[(HeaderName, HeaderValue); 1]> {
    let names = HeaderValue::from_str(&workers.join(", "));
    (!workers.is_empty()).then(|| [(WORKERS_BEHIND, names.expect("the names of workers are ASCII"))])
}
