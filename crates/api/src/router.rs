//! From a request to its handler: the layers, outermost first.
//!
//! | layer | does |
//! |---|---|
//! | `observe` | request id, log, duration, the body of a problem |
//! | catch panic | 500 instead of a broken connection |
//! | timeout | 503 after 40 s |
//! | slots | 503 while too many requests are worked on |
//! | `admit` | who may do what, and how often |
//! | body limit | 413 |

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use swagger_ui_dist::{ApiDefinition, OpenApiSource};
use tower_http::{catch_panic::CatchPanicLayer, set_header::SetResponseHeaderLayer, timeout::TimeoutLayer};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    auth::{self, DOCS},
    config::REQUEST_TIMEOUT,
    context::Context,
    observe::observe,
    openapi::{self, Base},
    problem::{Kind, Problem},
};

const OPENAPI: &str = "/openapi.json";

/// The page is made of scripts of its own, and asks nobody but us.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     frame-ancestors 'none'; base-uri 'none'",
);

/// The handlers, and the document that tells of them.
pub(crate) fn parts(operations: OpenApiRouter<Context>) -> (Router<Context>, Value) {
    let documented = OpenApiRouter::with_openapi(Base::openapi()).merge(operations);
    let (router, document) = documented.split_for_parts();
    (router, openapi::complete(&document))
}

/// Everything that is served.
pub(crate) fn router(handlers: Router<Context>, context: Context) -> Router {
    let body_bytes_max = context.config.body_bytes_max;
    handlers
        .with_state(context.clone())
        .merge(docs())
        .fallback(async || StatusCode::NOT_FOUND)
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .layer(from_fn_with_state(context.clone(), auth::admit))
        .layer(from_fn_with_state(context, slots))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::SERVICE_UNAVAILABLE,
            REQUEST_TIMEOUT,
        ))
        .layer(CatchPanicLayer::new())
        // Answers are about now, and one of them has a secret.
        .layer(SetResponseHeaderLayer::if_not_present(
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-store"),
        ))
        .layer(from_fn(observe))
}

/// The browsable page. Its parts are in this program: it needs no network but the way here.
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

/// Refuses what would be worked on beyond the bound, instead of letting it wait: memory is bounded by it.
async fn slots(State(context): State<Context>, request: Request, next: Next) -> Response {
    let Ok(_slot) = context.slots.try_acquire() else {
        let problem = Problem::new(Kind::Overloaded, "Send the request again, and fewer at once.");
        return problem.retry_after(1).into_response();
    };
    next.run(request).await
}
