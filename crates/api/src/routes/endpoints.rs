//! Endpoints: registering, listing, showing, changing and deleting them.

mod body;
pub(super) mod ping;
pub(super) mod secret;
pub(super) mod state;
pub(super) mod journal;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use runtime::now_ms;
use serde::Deserialize;
use service::{
    manage,
    view::{self, ForCustomers as _},
    workers::{self, Behind},
};
use store::{Lookup, Store};
use utoipa::IntoParams;
use webhook::{EndpointId, OrganizationId};
use wire::Listing;

use crate::{
    caller::{Caller, Organization},
    context::Context,
    extract::{Id, IfMatch, JsonBody, Query, etag},
    pagination::{Page, listing},
    problem::Problem,
};

use body::{CreateEndpoint, UpdateEndpoint};

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

/// The response header with the names of the workers that are not known to act on a change.
const WORKERS_BEHIND: HeaderName = HeaderName::from_static("magnetite-workers-behind");

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
) -> Result<Response, Problem> {
    let registration = new.registration(organization)?;
    let max = context.config.endpoints_per_organization_max;
    let (store, now_ms) = (
        context.store_for(&caller).per_organization_max(max),
        now_ms() as i64,
    );
    let created = manage::register(&store, &context.egress, registration, now_ms)
        .await
        .map_err(refused)?;
    let location = HeaderValue::from_str(&format!("/v1/endpoints/{}", created.id));
    let mut answer = done(&context, created.version, view::endpoint_with_secret(&created)).await;
    *answer.status_mut() = StatusCode::CREATED;
    answer
        .headers_mut()
        .insert(header::LOCATION, location.expect("ids that we make are ASCII"));
    Ok(answer)
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
    params(("id" = String, Path, description = "The endpoint's id.", example = "ep_8e0d3e107685e7013e1070dba5f85cc2")),
    responses(
        (
            status = 200,
            description = "The endpoint.",
            body = wire::Endpoint,
            headers(("ETag" = String, description = "The endpoint's version.")),
        ),
        (status = 404, description = "The organization has no such endpoint."),
    ),
)]
pub(super) async fn show(
    State(context): State<Context>,
    Organization(organization): Organization,
    Id(id): Id,
) -> Result<Response, Problem> {
    Ok(shown(&find(&context, &organization, id).await?))
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
    params(
        ("id" = String, Path, description = "The endpoint's id.", example = "ep_8e0d3e107685e7013e1070dba5f85cc2"),
        ("If-Match" = Option<String>, Header, description = "ETags of versions that may be changed.", example = "\"17\""),
    ),
    request_body(content = UpdateEndpoint, example = json!({ "events": ["lead.*"] })),
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
pub(super) async fn update(
    State(context): State<Context>,
    caller: Caller,
    Organization(organization): Organization,
    Id(id): Id,
    if_match: IfMatch,
    JsonBody(update): JsonBody<UpdateEndpoint>,
) -> Result<Response, Problem> {
    let change = update.change()?;
    let (id, store) = admitted(&context, &caller, &organization, id, &if_match).await?;
    let changed = manage::change(&store, &context.egress, &id, change, now_ms() as i64).await;
    Ok(changed_to(&context, &changed.map_err(refused)?).await)
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
    params(
        ("id" = String, Path, description = "The endpoint's id.", example = "ep_8e0d3e107685e7013e1070dba5f85cc2"),
        ("If-Match" = Option<String>, Header, description = "ETags of versions that may be deleted.", example = "\"17\""),
    ),
    responses(
        (
            status = 204,
            description = "The endpoint was deleted.",
            headers(("Magnetite-Workers-Behind" = String, description = "The names of workers that are not known to act on the change after 2 s, separated by commas; absent if every running worker does.")),
        ),
        (status = 404, description = "The organization has no such endpoint."),
        (status = 412, description = "If-Match does not name the endpoint's present version."),
    ),
)]
pub(super) async fn delete(
    State(context): State<Context>,
    caller: Caller,
    Organization(organization): Organization,
    Id(id): Id,
    if_match: IfMatch,
) -> Result<Response, Problem> {
    let (id, store) = admitted(&context, &caller, &organization, id, &if_match).await?;
    store.delete_endpoint(&id, now_ms() as i64).await?;
    let behind = workers::act(&context.store, &context.resending.changes).await;
    Ok(naming(&behind, StatusCode::NO_CONTENT.into_response()))
}

/// Returns the organization's endpoint. Another one's endpoint is treated like one that does not exist.
pub(super) async fn find(
    context: &Context,
    organization: &OrganizationId,
    id: String,
) -> Result<webhook::Endpoint, Problem> {
    let id = EndpointId::new(id);
    match context.store.endpoint(&id).await? {
        Lookup::Found(endpoint) if endpoint.organization_id == *organization => Ok(endpoint),
        _ => Err(Problem::not_found("endpoint", id.as_str())),
    }
}

/// Returns the id of the organization's endpoint, if the request permits its present version, and a store
/// that refuses to write if the version has changed since.
async fn admitted(
    context: &Context,
    caller: &Caller,
    organization: &OrganizationId,
    id: String,
    if_match: &IfMatch,
) -> Result<(EndpointId, Store), Problem> {
    let endpoint = find(context, organization, id).await?;
    let expected = if_match.expect(endpoint.version)?;
    Ok((endpoint.id, context.store_for(caller).if_version(expected)))
}

fn shown(endpoint: &webhook::Endpoint) -> Response {
    answer(endpoint.version, view::endpoint(endpoint))
}

/// Returns the response to a change. Waits until every running worker acts on the change; otherwise, the
/// response names the workers that are not known to.
pub(super) async fn done(context: &Context, version: i64, endpoint: wire::Endpoint) -> Response {
    let behind = workers::act(&context.store, &context.resending.changes).await;
    naming(&behind, answer(version, view::behind(endpoint, &behind)))
}

/// Like [`done`], for an endpoint whose secret is not shown.
async fn changed_to(context: &Context, endpoint: &webhook::Endpoint) -> Response {
    done(context, endpoint.version, view::endpoint(endpoint)).await
}

fn naming(behind: &Behind, mut answer: Response) -> Response {
    if !behind.is_empty() {
        let names = HeaderValue::from_str(&behind.names().join(", "));
        answer
            .headers_mut()
            .insert(WORKERS_BEHIND, names.expect("the names of workers are ASCII"));
    }
    answer
}

fn answer(version: i64, endpoint: wire::Endpoint) -> Response {
    ([(header::ETAG, etag(version))], Json(endpoint)).into_response()
}

/// Returns the problem for a refused change. It hides what a customer cannot change, such as the operator's
/// settings.
fn refused(error: manage::Error) -> Problem {
    match error {
        manage::Error::Url(refusal) => Problem::field("/url", refusal.for_customers()),
        manage::Error::Store(error) => error.into(),
    }
}
