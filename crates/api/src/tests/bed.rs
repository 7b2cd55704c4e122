//! The test bed: one API, and functions that send requests to it.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use broker::Topology;
use egress::Egress;
use http_body_util::BodyExt as _;
use producer::Producer;
use runtime::{
    now_ms,
    serve::{Bounds, serve},
};
use serde_json::Value;
use service::{publish::Publishing, resend::Resending};
use store::{ApiKeyRow, NewApiKey, Store};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use utoipa_axum::router::OpenApiRouter;
use webhook::{ApiKey, ApiKeyId, OrganizationId};

use crate::{
    Config,
    caller::ORGANIZATION,
    config::{ARRIVING_MAX, IN_FLIGHT_MAX, PINGS_MAX},
    context::{Context, Shared},
    key_cache::KeyCache,
    openapi::METHODS,
    operations::Operations,
    relays::Relays,
    router, routes,
    shares::Shares,
    streams::Streams,
};

/// The id of all requests, which is fixed so that responses can be compared.
pub(super) const REQUEST_ID: &str = "req_1";
/// An address at which no broker listens.
const NO_BROKER: &str = "amqp://guest:guest@127.0.0.1:1/%2f";

pub(super) struct Bed {
    pub(super) context: Context,
    pub(super) document: Value,
    /// The handlers without the layers.
    pub(super) handlers: Router<Context>,
    /// The broker of the API, which only some tests have.
    pub(super) broker: broker::Config,
    /// Cancelled when the programs of relays have to connect to another process.
    pub(super) stop: CancellationToken,
    router: Router,
    _directory: TempDir,
}

/// A response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Null if the body is empty, a string if it is not JSON.
    pub(super) body: Value,
}

impl Bed {
    pub(super) async fn new() -> Self {
        Self::with(Config::default(), routes::all()).await
    }

    /// Creates an API with a real broker, on which no other test uses the same names.
    pub(super) async fn with_broker() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let url = std::env::var("MAGNETITE_BROKER__URL").expect(
            "MAGNETITE_BROKER__URL is not set: run tests/run.sh, or export the line that \
             `deploy/local/broker.sh start DIR` prints",
        );
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("test-api-{}-{number}", std::process::id());
        let broker = broker::Config::new(&url, prefix).unwrap();
        Self::over(broker, Config::default(), routes::all()).await
    }

    pub(super) async fn with(config: Config, operations: OpenApiRouter<Context>) -> Self {
        Self::over(broker::Config::new(NO_BROKER, "m").unwrap(), config, operations).await
    }

    async fn over(broker: broker::Config, config: Config, operations: OpenApiRouter<Context>) -> Self {
        let directory = TempDir::new().unwrap();
        let url = format!("sqlite://{}/magnetite.db", directory.path().display());
        let store = Store::connect(&url, &[]).await.unwrap();
        store.migrate().await.unwrap();
        let (handlers, document) = router::parts(operations);
        let (topology, stop) = (Topology::new(&broker.prefix, &[]), CancellationToken::new());
        let streams = Streams::new(&broker, topology.clone(), CancellationToken::new());
        let context = Context::new(Shared {
            keys: KeyCache::new(store.clone(), config.rate_per_key),
            relays: Relays::start(&broker, topology.clone(), store.clone(), stop.clone()),
            resending: Resending::start(&broker, topology, store.clone(), Duration::from_mins(10)),
            publishing: Publishing::start(Producer::connect(broker.clone())),
            operations: Operations::of(&document).unwrap(),
            document: document.to_string().into(),
            arriving: Shares::new(ARRIVING_MAX),
            body_bytes: Shares::new(config.bodies_bytes_max()),
            slots: Shares::new(IN_FLIGHT_MAX),
            pings: Shares::new(PINGS_MAX),
            streams,
            egress: Egress::new(&egress::Config::default()).unwrap(),
            store,
            config,
        });
        Self {
            router: router::router(handlers.clone(), context.clone()),
            context,
            document,
            handlers,
            broker,
            stop,
            _directory: directory,
        }
    }

    /// Serves the API at an address of this host, until the test ends.
    pub(super) async fn served(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, router) = (listener.local_addr().unwrap(), self.router.clone());
        let bounds = Bounds {
            connections_max: 16,
            headers_timeout: Duration::from_secs(10),
            shutdown_deadline: Duration::ZERO,
        };
        tokio::spawn(async move { serve(listener, router, &CancellationToken::new(), bounds).await });
        address
    }

    /// Creates a key with these scopes. Returns the key and its row.
    pub(super) async fn key_row(
        &self,
        organization: &str,
        scopes: &str,
        expires_at_ms: Option<u64>,
    ) -> (String, ApiKeyRow) {
        self.new_key(Some(organization), scopes, expires_at_ms).await
    }

    /// Creates a platform key with these scopes. Returns the key and its row.
    pub(super) async fn platform_key_row(&self, scopes: &str) -> (String, ApiKeyRow) {
        self.new_key(None, scopes, None).await
    }

    async fn new_key(
        &self,
        organization: Option<&str>,
        scopes: &str,
        expires_at_ms: Option<u64>,
    ) -> (String, ApiKeyRow) {
        let key = ApiKey::generate(rand::random());
        let new = NewApiKey {
            organization_id: organization.map(OrganizationId::new),
            name: "test".to_owned(),
            scopes: scopes.parse().unwrap(),
            key: key.clone(),
            expires_at_ms,
        };
        let id = ApiKeyId::generate(rand::random());
        let row = self
            .context
            .store
            .create_api_key(new, id, now_ms())
            .await
            .unwrap();
        (key.expose().to_owned(), row)
    }

    pub(super) async fn key(&self, organization: &str, scopes: &str) -> String {
        self.key_row(organization, scopes, None).await.0
    }

    pub(super) async fn platform_key(&self, scopes: &str) -> String {
        self.platform_key_row(scopes).await.0
    }

    /// Creates an endpoint of the organization, and returns the body of the response.
    pub(super) async fn endpoint(&self, organization: &str) -> Value {
        let key = self.key(organization, "endpoints:write").await;
        let created = self
            .post("/v1/endpoints", &key, r#"{"url":"https://93.184.216.34/hook"}"#)
            .await;
        assert_eq!(created.status, 201, "{created:?}");
        created.body
    }

    pub(super) async fn get(&self, path: &str, key: &str) -> Answer {
        self.ask(request("GET", path, key).body(Body::empty()).unwrap())
            .await
    }

    pub(super) async fn post(&self, path: &str, key: &str, json: &str) -> Answer {
        self.send("POST", path, key, json).await
    }

    pub(super) async fn send(&self, method: &str, path: &str, key: &str, json: &str) -> Answer {
        let request = request(method, path, key).header(header::CONTENT_TYPE, "application/json");
        self.ask(request.body(Body::from(json.to_owned())).unwrap()).await
    }

    /// Sends a request for this organization.
    pub(super) async fn send_for(
        &self,
        organization: &str,
        method: &str,
        path: &str,
        key: &str,
        json: &str,
    ) -> Answer {
        let request = request(method, path, key)
            .header(header::CONTENT_TYPE, "application/json")
            .header(ORGANIZATION, organization);
        self.ask(request.body(Body::from(json.to_owned())).unwrap()).await
    }

    /// Sends a request. Also checks what holds for every response: it is documented, it has the request's id,
    /// and an error is a problem.
    pub(super) async fn ask(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let answer = Answer {
            status: parts.status,
            headers: parts.headers,
            body: match &body[..] {
                [] => Value::Null,
                body => serde_json::from_slice(body)
                    .unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned().into()),
            },
        };
        let id = answer.header("x-request-id");
        assert!(!id.is_empty(), "{answer:?}");
        if answer.status.as_u16() >= 400 && method != Method::HEAD {
            assert_eq!(
                answer.header("content-type"),
                "application/problem+json",
                "{answer:?}"
            );
            assert_eq!(answer.body["status"], answer.status.as_u16());
            assert_eq!(answer.body["instance"], id);
        }
        if let Some(operation) = self.operation(&method, &path) {
            let status = answer.status.as_str();
            let documented = operation["responses"].get(status).is_some();
            assert!(
                documented,
                "{method} {path} answers {status}, which is not documented: {answer:?}"
            );
        }
        answer
    }

    /// Returns the documentation of an operation.
    fn operation(&self, method: &Method, path: &str) -> Option<&Value> {
        let paths = self.document["paths"].as_object().unwrap();
        let (_, item) = paths.iter().find(|(template, _)| matches(template, path))?;
        item.get(method.as_str().to_lowercase())
    }

    /// Returns every operation: its method, its path and its documentation.
    pub(super) fn operations(&self) -> Vec<(Method, &str, &Value)> {
        let paths = self.document["paths"].as_object().unwrap();
        paths
            .iter()
            .flat_map(|(path, item)| {
                METHODS.iter().filter_map(move |name| {
                    let method = name.to_uppercase().parse().unwrap();
                    Some((method, path.as_str(), item.get(*name)?))
                })
            })
            .collect()
    }
}

/// Returns whether a path matches a template, in which a segment in braces matches any text.
fn matches(template: &str, path: &str) -> bool {
    let (template, path) = (template.split('/'), path.split('/'));
    template.clone().count() == path.clone().count()
        && template
            .zip(path)
            .all(|(template, part)| template.starts_with('{') || template == part)
}

/// Begins a request, with the key unless it is empty.
pub(super) fn request(method: &str, path: &str, key: &str) -> axum::http::request::Builder {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("x-request-id", REQUEST_ID);
    if key.is_empty() {
        request
    } else {
        request.header(header::AUTHORIZATION, format!("Bearer {key}"))
    }
}

impl Answer {
    /// Returns the header; empty if it is absent.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the last part of the problem's type.
    pub(super) fn problem(&self) -> &str {
        let kind = self.body["type"].as_str().unwrap_or_default();
        kind.rsplit(':').next().unwrap_or_default()
    }
}
