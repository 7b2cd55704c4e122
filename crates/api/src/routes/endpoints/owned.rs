//! The endpoint that a request names in its path.

use std::collections::BTreeMap;

use axum::{extract::FromRequestParts, http::request::Parts};
use serde_json::json;
use store::Lookup;
use utoipa::{
    IntoParams, IntoResponses,
    openapi::{
        RefOr, Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        response::{Response, ResponseBuilder},
        schema::{ObjectBuilder, Type},
    },
};
use webhook::{Endpoint, EndpointId};

use crate::{caller::Organization, context::Context, extract::Id, problem::Problem};

/// The organization's endpoint that the path names. Another organization's endpoint is treated like one that
/// does not exist.
pub(in crate::routes) struct Owned(pub(super) Endpoint);

impl FromRequestParts<Context> for Owned {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, context: &Context) -> Result<Self, Problem> {
        let Organization(organization) = Organization::from_request_parts(parts, context).await?;
        let Id(id) = Id::from_request_parts(parts, context).await?;
        let id = EndpointId::new(id);
        match context.store.endpoint(&id).await? {
            Lookup::Found(endpoint) if endpoint.organization_id == organization => Ok(Self(endpoint)),
            _ => Err(Problem::not_found("endpoint", id.as_str())),
        }
    }
}

impl IntoParams for Owned {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let id = ParameterBuilder::new()
            .name("id")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some("The endpoint's id."))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .example(Some(json!("ep_8e0d3e107685e7013e1070dba5f85cc2")));
        vec![id.build()]
    }
}

impl IntoResponses for Owned {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let unknown = ResponseBuilder::new().description("The organization has no such endpoint.");
        BTreeMap::from([("404".to_owned(), unknown.build().into())])
    }
}
