//! The path of a request to its handler: the layers, outermost first.
//!
//! | layer | does |
//! |---|---|
//! | `observe` | request id, log, duration, the body of a problem |
//! | catch panic | 500 instead of a broken connection |
//! | timeout | 503 after 40 s |
//! | `admit` | authentication, rate limit and scope |
//! | `receive` | reads the body, takes a slot: 408, 413, or 503 if the caller's share of either is used up |

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderValue, StatusCode, header},
    middleware::{from_fn, from_fn_with_state},
};
use serde_json::Value;
use swagger_ui_dist::{ApiDefinition, OpenApiSource};
use tower_http::{catch_panic::CatchPanicLayer, set_header::SetResponseHeaderLayer, timeout::TimeoutLayer};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    auth::{self, DOCS},
    body::receive,
    config::REQUEST_TIMEOUT,
    context::Context,
    observe::observe,
    openapi::{self, Base},
};

const OPENAPI: &str = "/openapi.json";

/// The content security policy of the documentation page, which uses inline scripts and loads everything from
/// this server.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     frame-ancestors 'none'; base-uri 'none'",
);

/// Returns the handlers, and the OpenAPI document that describes them.
pub(crate) fn parts(operations: OpenApiRouter<Context>) -> (Router<Context>, Value) {
    let documented = OpenApiRouter::with_openapi(Base::openapi()).merge(operations);
    let (router, document) = documented.split_for_parts();
    (router, openapi::complete(&document))
}

/// Returns the router for everything that is served.
pub(crate) fn router(handlers: Router<Context>, context: Context) -> Router {
    handlers
        .with_state(context.clone())
        .merge(docs())
        .fallback(async || StatusCode::NOT_FOUND)
        // `receive` limits bodies.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(context.clone(), receive))
        .layer(from_fn_with_state(context, auth::admit))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::SERVICE_UNAVAILABLE,
            REQUEST_TIMEOUT,
        ))
        .layer(CatchPanicLayer::new())
        // Responses must not be cached: they show the present state, and some contain a secret.
        .layer(SetResponseHeaderLayer::if_not_present(
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-store"),
        ))
        .layer(from_fn(observe))
}

/// Returns the routes of the browsable documentation. Its files are compiled into this program, so that a
/// browser needs no other server.
fn docs() -> Router {
    let page = swagger_ui_dist::generate_routes(ApiDefinition {
        uri_prefix: DOCS,
        api_definition: OpenApiSource::Uri(OPENAPI),
        title: Some("Magnetite webhooks"),
    });
    page.layer(SetResponseHeaderLayer::overriding(
        header::CONTENT_SECURITY_POLICY,
        PAGE_POLICY,
    ))
}
