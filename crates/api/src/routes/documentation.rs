//! The OpenAPI document, served as an operation.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use crate::context::Context;

/// Show this document.
///
/// Returns the OpenAPI 3.1 document, from which clients can be generated.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "getOpenApi",
    tag = "Documentation",
    security(()),
    responses((status = 200, description = "This document.", body = Object)),
)]
pub(super) async fn openapi(State(context): State<Context>) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, context.document.clone()).into_response()
}
