//! Endpoints: registering, listing, showing, changing and deleting them.

mod body;
mod change;
mod owned;
pub(super) mod ping;
pub(super) mod relay;
pub(super) mod secret;
pub(super) mod state;
pub(super) mod journal;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use egress::Egress;
use runtime::now_ms;
use serde::Deserialize;
use service::{
    manage,
    view::{self, ForCustomers as _},
};
use utoipa::IntoParams;
use webhook::EndpointId;
use wire::Listing;

use crate::{
    caller::{Caller, Organization},
    context::Context,
    extract::{JsonBody, Query, etag},
    pagination::{Page, listing},
    problem::{FieldError, Problem},
};

use body::{CreateEndpoint, UpdateEndpoint};
use change::{Change, Changed, deleted};
use owned::Owned;

/// The query of the list of endpoints.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// List only endpoints whose last attempt was not answered with a 2xx, except those that were disabled by
    /// hand.
    #[serde(default)]
    #[param(default = false)]
    failing: bool,
    /// The maximum number of endpoints on the page.
    #[param(minimum = 1, maximum = 100, default = 20, example = 20, nullable = false)]
    limit: Option<u32>,
    /// `next_cursor` of the previous page; omit it for the first page.
    #[param(max_length = 2304, nullable = false)]
    cursor: Option<String>,
}

/// Register an endpoint.
///
/// Every event of the organization that is published after the response is delivered to the endpoint,
/// if the endpoint subscribes to it. The response contains the endpoint's secret, with which the receiver
/// verifies signatures; it is not shown again. The URL must resolve to a public address.
#[utoipa::path(
    post,
    path = "/v1/endpoints",
    operation_id = "createEndpoint",
    tag = "Endpoints",
    security(("api_key" = ["endpoints:write"])),
    request_body(
        content = CreateEndpoint,
        example = json!({ "url": "https://example.com/webhook", "events": ["lead.completed", "research.*"] }),
    ),
    responses(
        (
            status = 201,
            description = "The endpoint, with its secret.",
            body = wire::Endpoint,
            headers(
                ("ETag" = String, description = "The endpoint's version."),
                ("Location" = String, description = "The endpoint's path."),
                ("Magnetite-Workers-Behind" = String, description = "The names of workers that are not known to act on the change after 2 s, separated by commas; absent if every running worker does."),
            ),
        ),
        (status = 409, description = "The organization or the installation has its maximum number of endpoints."),
    ),
)]
pub(super) async fn create(
    State(context): State<Context>,
    caller: Caller,
    Organization(organization): Organization,
    JsonBody(new): JsonBody<CreateEndpoint>,
) -> Result<impl IntoResponse, Problem> {
    let url = new.url.clone();
    let registration = match new.registration(organization) {
        Ok(registration) => registration,
        Err(errors) => return Err(invalid(errors, Some(&url), &context.egress).await),
    };
    let max = context.config.endpoints_per_organization_max;
    let (store, now_ms) = (
        context.store_for(&caller).per_organization_max(max),
        now_ms() as i64,
    );
    let created = manage::register(&store, &context.egress, registration, now_ms)
        .await
        .map_err(refused)?;
    let location = format!("/v1/endpoints/{}", created.id);
    let changed = Changed::to(view::endpoint_with_secret(&created), &context).await;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], changed))
}

/// List endpoints.
///
/// Ordered by id, without their secrets, including disabled ones. With `failing=true`, returns only endpoints
/// that are failing now, with since when and why. With a platform key and without Magnetite-Organization,
/// lists the endpoints of all organizations.
#[utoipa::path(
    get,
    path = "/v1/endpoints",
    operation_id = "listEndpoints",
    tag = "Endpoints",
    security(("api_key" = ["endpoints:read"])),
    params(Which),
    responses((status = 200, description = "A page of endpoints.", body = Listing<wire::Endpoint>)),
)]
pub(super) async fn list(
    State(context): State<Context>,
    caller: Caller,
    Query(which): Query<Which>,
) -> Result<Json<Listing<wire::Endpoint>>, Problem> {
    let page = Page::new(which.limit, which.cursor);
    let (limit, after) = (page.limit()?, page.after()?.map(|id: String| EndpointId::new(id)));
    let organization = caller.organization.as_ref();
    if which.failing {
        let failing = context
            .store
            .failing(organization, after.as_ref(), limit + 1, now_ms())
            .await?;
        let place = |last: &store::Failing| last.endpoint.id.to_string();
        let shown = |found| view::failing_endpoint(&found).for_customers();
        return Ok(Json(listing(failing, limit, place, shown)));
    }
    let endpoints = context
        .store
        .list_endpoints(organization, after.as_ref(), limit + 1)
        .await?;
    let place = |last: &webhook::Endpoint| last.id.to_string();
    Ok(Json(listing(endpoints, limit, place, |endpoint| {
        view::endpoint(&endpoint)
    })))
}

/// Show an endpoint.
///
/// Returns the endpoint without its secret.
#[utoipa::path(
    get,
    path = "/v1/endpoints/{id}",
    operation_id = "getEndpoint",
    tag = "Endpoints",
    security(("api_key" = ["endpoints:read"])),
    params(Owned),
    responses(
        (
            status = 200,
            description = "The endpoint.",
            body = wire::Endpoint,
            headers(("ETag" = String, description = "The endpoint's version.")),
        ),
        Owned,
    ),
)]
pub(super) async fn show(Owned(endpoint): Owned) -> impl IntoResponse {
    let tag = [(header::ETAG, etag(endpoint.version))];
    (tag, Json(view::endpoint(&endpoint)))
}

/// Change an endpoint.
///
/// Fields that are absent stay as they are (RFC 7396). With the header If-Match, the endpoint is changed only
/// if its present version is one of those named, so that no concurrent change is overwritten unnoticed.
#[utoipa::path(
    patch,
    path = "/v1/endpoints/{id}",
    operation_id = "updateEndpoint",
    tag = "Endpoints",
    security(("api_key" = ["endpoints:write"])),
    params(Change),
    request_body(content = UpdateEndpoint, example = json!({ "events": ["lead.*"] })),
    responses(Changed, Change),
)]
pub(super) async fn update(
    Change { context, id, store }: Change,
    JsonBody(update): JsonBody<UpdateEndpoint>,
) -> Result<Changed, Problem> {
    let url = update.url.clone();
    let update = match update.change() {
        Ok(update) => update,
        Err(errors) => return Err(invalid(errors, url.as_deref(), &context.egress).await),
    };
    let changed = manage::change(&store, &context.egress, &id, update, now_ms() as i64).await;
    Ok(Changed::to(view::endpoint(&changed.map_err(refused)?), &context).await)
}

/// Delete an endpoint.
///
/// Deletes the endpoint and its secret permanently. Its pending deliveries are cancelled: no request to it
/// begins after the response.
#[utoipa::path(
    delete,
    path = "/v1/endpoints/{id}",
    operation_id = "deleteEndpoint",
    tag = "Endpoints",
    security(("api_key" = ["endpoints:write"])),
    params(Change),
    responses(
        (
            status = 204,
            description = "The endpoint was deleted.",
            headers(("Magnetite-Workers-Behind" = String, description = "The names of workers that are not known to act on the change after 2 s, separated by commas; absent if every running worker does.")),
        ),
        Change,
    ),
)]
pub(super) async fn delete(Change { context, id, store }: Change) -> Result<Response, Problem> {
    store.delete_endpoint(&id, now_ms() as i64).await?;
    Ok(deleted(&context).await)
}

/// Returns the problem for invalid fields. Checks the URL as well, so that all errors are reported at once; if the
/// other fields are valid, [`manage`] checks it.
async fn invalid(mut errors: Vec<FieldError>, url: Option<&str>, egress: &Egress) -> Problem {
    if let Some(url) = url
        && let Err(refusal) = egress.check_endpoint(url).await
    {
        errors.insert(0, FieldError::at("/url", refusal.for_customers()));
    }
    Problem::fields(errors)
}

/// Returns the problem for a refused change. It hides what a customer cannot change, such as the operator's
/// settings.
fn refused(error: manage::Error) -> Problem {
    match error {
        manage::Error::Url(refusal) => Problem::field("/url", refusal.for_customers()),
        manage::Error::Store(error) => error.into(),
    }
}
