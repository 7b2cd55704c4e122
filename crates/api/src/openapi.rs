//! The OpenAPI document. It is generated from the handlers' own descriptions and completed with what is the
//! same for all of them.
//!
//! A handler documents what is specific to it: parameters, bodies, responses, and the scope it needs. This
//! module adds the problems that follow from these (an operation that needs a key can answer that the key is
//! revoked; one that reads a body can answer that it is too large), the form of problems, and the headers
//! that every response has.

mod schemas;

use axum::http::StatusCode;
use serde_json::{Value, json};
use utoipa::{OpenApi, openapi::OpenApi as Document};
use webhook::ID_BYTES_MAX;

use crate::{
    caller::ORGANIZATION,
    problem::{Kind, Problem},
};

/// The methods that a document can describe.
pub(crate) const METHODS: [&str; 8] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];
/// The name of the only security scheme. A requirement lists the needed scope under it.
pub(crate) const SECURITY_SCHEME: &str = "api_key";

/// The part of the document that does not depend on the handlers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Magnetite webhooks",
        description = "Manage the endpoints that events are delivered to, publish events, and inspect their deliveries.\n\n\
            Every request except those for this documentation needs an API key in the header `Authorization: Bearer mgk_...`. The first key \
            is created with `magnetite api-key create`. A key belongs to one organization and gives no access to any other: the id of another \
            organization's object is answered like an id that does not exist. A platform key belongs to no organization: each request names \
            the one that it is for in the header `Magnetite-Organization`.\n\n\
            Every response has the header `X-Request-Id`. Its value is the request's own, if that is 1 to 128 characters of \
            `A-Z a-z 0-9 . _ -`, or else a new one. Every error is answered with a problem (RFC 9457): its `type` identifies the kind of \
            error, and its `detail` says what to do.",
        license(name = "MIT", identifier = "MIT"),
        contact(name = "Magnetite", url = "https://magnetite.ai")
    ),
    servers((url = "/", description = "The server that this document was read from")),
    tags(
        (name = "Endpoints", description = "The URLs that events are delivered to."),
        (name = "Event types", description = "The types of events, with their schemas and examples."),
        (name = "Events", description = "Events about leads: publishing them, and the state of their deliveries."),
        (name = "Deliveries", description = "Deliveries, each of one event to one endpoint, and sending them again."),
        (name = "API keys", description = "The keys of an organization, which authenticate requests."),
        (name = "Status", description = "The present state of an organization's endpoints and deliveries."),
        (name = "Changes", description = "The changes to endpoints and API keys, and who made them."),
        (name = "Documentation", description = "This document."),
    ),
    components(schemas(wire::Problem, wire::FieldError))
)]
pub(crate) struct Base;

/// Returns the complete document, given the one that is generated from the handlers.
pub(crate) fn complete(document: &Document) -> Value {
    let mut document = serde_json::to_value(document).expect("the document has text keys");
    let paths = document["paths"].as_object_mut().expect("a document has paths");
    for item in paths.values_mut() {
        for method in METHODS {
            if let Some(operation) = item.get_mut(method) {
                complete_operation(operation);
            }
        }
    }
    let components = &mut document["components"];
    components["securitySchemes"] = json!({
        SECURITY_SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key: `mgk_` and 43 characters. It has one or more scopes: events:write, endpoints:read, \
                endpoints:write, deliveries:read, deliveries:write, or admin for everything.",
        }
    });
    components["headers"] = headers();
    components["responses"] = COMMON
        .into_iter()
        .map(|kind| (name(kind), common(kind)))
        .collect();
    schemas::tidy(&mut components["schemas"]);
    document
}

fn headers() -> Value {
    let header = |description: &str, schema: Value| json!({ "description": description, "required": true, "schema": schema });
    json!({
        "X-Request-Id": header("Identifies the request in the log.", json!({ "type": "string", "example": REQUEST_ID })),
        "Retry-After": header(
            "The number of seconds after which to send the request again.",
            json!({ "type": "integer", "minimum": 1, "example": 5 }),
        ),
        "WWW-Authenticate": header(
            "How to authenticate with a key (RFC 6750).",
            json!({ "type": "string", "example": "Bearer realm=\"magnetite\"" }),
        ),
    })
}

/// The problems that any operation of a certain form can have, unless the operation documents them itself.
const COMMON: [Kind; 10] = [
    Kind::MalformedRequest,
    Kind::Unauthorized,
    Kind::InsufficientScope,
    Kind::BodyTimeout,
    Kind::TooLarge,
    Kind::UnsupportedMediaType,
    Kind::InvalidFields,
    Kind::RateLimited,
    Kind::Internal,
    Kind::Overloaded,
];
/// The problems that operations document themselves.
const SPECIAL: [Kind; 4] = [
    Kind::NotFound,
    Kind::Conflict,
    Kind::VersionMismatch,
    Kind::UpgradeRequired,
];

fn complete_operation(operation: &mut Value) {
    if let Some(security) = operation["security"].as_array_mut() {
        // An empty requirement also means that no key is needed.
        security.retain(|requirement| *requirement != json!({}));
    }
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        schemas::tidy_parameter(parameter);
    }
    let follows = what_follows(operation);
    if needs_key(operation) {
        add_parameter(operation, organization());
    }
    let answers = operation["responses"]
        .as_object_mut()
        .expect("an operation has responses");
    for (status, answer) in &mut *answers {
        complete_answer(status, answer);
    }
    for kind in COMMON.into_iter().filter(|kind| follows(*kind)) {
        let reference = json!({ "$ref": format!("#/components/responses/{}", name(kind)) });
        answers.entry(kind.status().as_str()).or_insert(reference);
    }
}

/// Returns a function that says which of the common problems an operation can have.
fn what_follows(operation: &Value) -> impl Fn(Kind) -> bool + use<> {
    let has_body = operation.get("requestBody").is_some();
    let has_parameters = operation.get("parameters").is_some();
    let needs_key = needs_key(operation);
    move |kind| match kind {
        Kind::Unauthorized | Kind::InsufficientScope | Kind::RateLimited => needs_key,
        // The organization in the headers can be invalid as well.
        Kind::InvalidFields => has_body || needs_key,
        Kind::MalformedRequest => has_body || has_parameters,
        Kind::BodyTimeout | Kind::TooLarge | Kind::UnsupportedMediaType => has_body,
        _ => true,
    }
}

fn needs_key(operation: &Value) -> bool {
    let security = operation["security"].as_array();
    security.is_some_and(|security| !security.is_empty())
}

fn add_parameter(operation: &mut Value, parameter: Value) {
    match operation.get_mut("parameters").and_then(Value::as_array_mut) {
        Some(parameters) => parameters.push(parameter),
        None => operation["parameters"] = json!([parameter]),
    }
}

/// Returns the parameter that names the organization of a request.
fn organization() -> Value {
    json!({
        "name": ORGANIZATION,
        "in": "header",
        "required": false,
        "description": "The id of the organization that the request is for. A request with a platform key needs it, except to publish \
            events, to list objects of all organizations and to read event types. With any other key it may be absent, or name the key's \
            organization.",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": ID_BYTES_MAX,
            "pattern": r"^[^\u0000-\u001f\u007f-\u009f,]+$",
        },
        "example": "org_123abc",
    })
}

/// Returns the name of a problem's component, such as `TooLarge` for `too-large`.
fn name(kind: Kind) -> String {
    let capitalized = |word: &str| word[..1].to_uppercase() + &word[1..];
    kind.name().split('-').map(capitalized).collect()
}

fn common(kind: Kind) -> Value {
    let mut answer = json!({ "description": format!("{}.", kind.title()) });
    complete_answer(kind.status().as_str(), &mut answer);
    answer
}

/// Adds the headers that every response has, and the form of a problem.
fn complete_answer(status: &str, answer: &mut Value) {
    let more = match status {
        "401" => &["X-Request-Id", "WWW-Authenticate"][..],
        "429" | "503" => &["X-Request-Id", "Retry-After"],
        _ => &["X-Request-Id"],
    };
    for name in more {
        answer["headers"][name] = json!({ "$ref": format!("#/components/headers/{name}") });
    }
    let kind = COMMON
        .into_iter()
        .chain(SPECIAL)
        .find(|kind| kind.status().as_str() == status);
    if let Some(kind) = kind {
        answer["content"]["application/problem+json"] = json!({
            "schema": { "$ref": "#/components/schemas/Problem" },
            "example": example(kind),
        });
    }
}

const REQUEST_ID: &str = "req_5f0c8a0e8d3b4b6c9f5a1e2d3c4b5a69";

/// Returns an example of a problem, as it is answered.
fn example(kind: Kind) -> Value {
    let problem = match kind {
        Kind::MalformedRequest => Problem::parameter("limit", "expected an integer from 1 to 100"),
        Kind::InvalidFields => Problem::field("/url", "the URL has no host"),
        Kind::VersionMismatch => Problem::version_mismatch(),
        Kind::NotFound => Problem::not_found("endpoint", "ep_8e0d3e107685e7013e1070dba5f85cc2"),
        Kind::Unauthorized => Problem::new(kind, "The key was revoked; use another one."),
        Kind::InsufficientScope => Problem::new(
            kind,
            "Use a key with the scope endpoints:write; this one has endpoints:read.",
        ),
        Kind::BodyTimeout => Problem::new(kind, "Send the whole body within 10 s."),
        Kind::UpgradeRequired => Problem::new(kind, "Send the headers of a WebSocket (RFC 6455)."),
        Kind::TooLarge => Problem::new(kind, "An event has at most 262144 bytes: send less in `data`."),
        Kind::UnsupportedMediaType => {
            Problem::new(kind, "Send JSON, and the header Content-Type: application/json.")
        }
        kind if kind.status() == StatusCode::INTERNAL_SERVER_ERROR => Problem::of_status(kind.status()),
        kind => Problem::new(kind, "Send the request again later."),
    };
    serde_json::from_slice(&problem.body(REQUEST_ID)).expect("the body of a problem is JSON")
}
