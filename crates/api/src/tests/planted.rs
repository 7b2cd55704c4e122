//! Tests of routes that are not in the document: requests to them are denied, and these tests name them.

use std::collections::BTreeSet;

use axum::{
    Router,
    body::Body,
    http::{Method, Request},
    routing::{get, put},
};
use serde_json::Value;
use tower::ServiceExt as _;
use utoipa_axum::router::OpenApiRouter;

use crate::{Config, context::Context, routes};

use super::bed::Bed;

/// Returns the operations that are routed but not documented, such as `GET /v1/planted`.
async fn undocumented(handlers: Router<Context>, document: &Value, context: &Context) -> BTreeSet<String> {
    let paths = routed(&handlers);
    assert!(
        paths.contains("/v1/endpoints/{id}"),
        "axum shows its routes in another way: {paths:?}"
    );
    let router = handlers.with_state(context.clone());
    let mut found = BTreeSet::new();
    for path in paths {
        for method in [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
            Method::TRACE,
        ] {
            let concrete = path.replace(['{', '}'], "");
            let request = Request::builder()
                .method(&method)
                .uri(concrete)
                .body(Body::empty())
                .unwrap();
            let status = router.clone().oneshot(request).await.unwrap().status();
            // At the root is the fallback, which answers every request that is not routed.
            let is_routed = status != 405 && (path != "/" || status != 404);
            let is_documented = document["paths"][&path]
                .get(method.as_str().to_lowercase())
                .is_some();
            if is_routed && !is_documented {
                found.insert(format!("{method} {path}"));
            }
        }
    }
    found
}

/// Returns every path of a router. They are available only in its debug output.
fn routed(router: &Router<Context>) -> BTreeSet<String> {
    let debug = format!("{router:?}");
    let texts = debug.split("RouteId(").skip(1);
    let path = |text: &str| {
        let (_, rest) = text.split_once("): \"")?;
        let (path, _) = rest.split_once('"')?;
        (path.starts_with('/') && !path.contains("__private")).then(|| path.to_owned())
    };
    texts.filter_map(path).collect()
}

#[tokio::test]
async fn every_route_is_documented() {
    let bed = Bed::new().await;
    let found = undocumented(bed.handlers.clone(), &bed.document, &bed.context).await;
    assert_eq!(
        found,
        BTreeSet::new(),
        "these are routed and not in the OpenAPI document"
    );
}

#[tokio::test]
async fn a_planted_route_is_denied_and_named() {
    let planted = routes::all()
        .route("/v1/planted", get(async || "planted body"))
        .route("/v1/planted/{id}", put(async || "planted body"))
        .merge(OpenApiRouter::from(
            Router::new().route("/v1/event-types", put(async || "planted body")),
        ));
    let bed = Bed::with(Config::default(), planted).await;
    let key = bed.key("org_1", "admin").await;
    for (method, path, status) in [
        ("GET", "/v1/planted", 404),
        ("HEAD", "/v1/planted", 404),
        ("PUT", "/v1/planted/7", 404),
        ("PUT", "/v1/event-types", 405),
    ] {
        for key in ["", &key] {
            let answer = bed.send(method, path, key, "").await;
            assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
            assert!(!answer.body.to_string().contains("planted body"), "{answer:?}");
        }
    }
    let found = undocumented(bed.handlers.clone(), &bed.document, &bed.context).await;
    let expected = ["GET /v1/planted", "PUT /v1/event-types", "PUT /v1/planted/{id}"];
    assert_eq!(found, expected.map(str::to_owned).into());
}
