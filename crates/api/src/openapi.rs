//! The OpenAPI document: made of the handlers' own descriptions, and completed with what is the same for all of them.
//!
//! A handler documents what is its own: parameters, bodies, answers, the scope it needs. Added here: the problems that follow from that
//! (who needs a key can be told that it is revoked, who reads a body can be told that it is too large), the problems' form, and the
//! headers that every answer has.

use serde_json::{Map, Value, json};
use utoipa::{OpenApi, openapi::OpenApi as Document};

use crate::problem::{FieldError, Kind, Problem, ProblemBody};

/// The methods that the document has names for.
pub(crate) const METHODS: [&str; 8] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];
/// The name of the one security scheme; scopes stand beside it as its roles.
pub(crate) const SECURITY_SCHEME: &str = "api_key";

/// What handlers begin with.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Magnetite webhooks",
        description = "Manage the endpoints that events are delivered to, publish events, and see what became of them.\n\n\
            Every request but those for this documentation needs an API key in the header `Authorization: Bearer mgk_...`. A key is made \
            with `magnetite api-key create`; it belongs to one organization and sees nothing of any other: another organization's id is \
            answered like one that does not exist.\n\n\
            Every answer has the header `X-Request-Id`: the request's own, if it has one of 1 to 128 characters of `A-Z a-z 0-9 . _ -`, or a \
            new one. Whatever goes wrong is answered with a problem (RFC 9457), whose `type` names it and whose `detail` says what to do.",
        license(name = "MIT", identifier = "MIT"),
        contact(name = "Magnetite", url = "https://magnetite.ai")
    ),
    servers((url = "/", description = "Where this document was read from")),
    tags(
        (name = "Endpoints", description = "The URLs that events are delivered to."),
        (name = "Event types", description = "What can happen, and what events about it look like."),
        (name = "Events", description = "What has happened to leads."),
        (name = "Documentation", description = "This document."),
    ),
    components(schemas(ProblemBody, FieldError))
)]
pub(crate) struct Base;

/// The whole document, from what the handlers say.
pub(crate) fn complete(document: &Document) -> Value {
    let mut document = serde_json::to_value(document).expect("the document has text keys");
    document["components"]["securitySchemes"] = json!({
        SECURITY_SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key, `mgk_` and 43 characters. What it may do is a list of scopes: events:write, endpoints:read, \
                endpoints:write, deliveries:read, deliveries:write, or admin for everything.",
        }
    });
    document["components"]["headers"] = json!({
        "X-Request-Id": {
            "description": "Names the request in the log.",
            "required": true,
            "schema": { "type": "string", "example": "req_5f0c8a0e8d3b4b6c9f5a1e2d3c4b5a69" },
        },
        "Retry-After": {
            "description": "After how many seconds to send the request again.",
            "required": true,
            "schema": { "type": "integer", "minimum": 1, "example": 5 },
        },
        "WWW-Authenticate": {
            "description": "How to show a key (RFC 6750).",
            "required": true,
            "schema": { "type": "string", "example": "Bearer realm=\"magnetite\"" },
        },
    });
    let paths = document["paths"].as_object_mut().expect("a document has paths");
    for item in paths.values_mut() {
        for method in METHODS {
            if let Some(operation) = item.get_mut(method) {
                complete_operation(operation);
            }
        }
    }
    document
}

fn complete_operation(operation: &mut Value) {
    if let Some(security) = operation["security"].as_array_mut() {
        // Another way to say that there is none.
        security.retain(|requirement| *requirement != json!({}));
    }
    let has_body = operation.get("requestBody").is_some();
    let has_parameters = operation.get("parameters").is_some();
    let needs_key = operation["security"]
        .as_array()
        .is_some_and(|security| !security.is_empty());
    let follows = |kind| match kind {
        Kind::Unauthorized | Kind::InsufficientScope | Kind::RateLimited => needs_key,
        Kind::MalformedRequest => has_body || has_parameters,
        Kind::BodyTimeout | Kind::TooLarge | Kind::UnsupportedMediaType | Kind::InvalidFields => has_body,
        Kind::Internal | Kind::Overloaded => true,
        _ => false,
    };
    let answers = operation["responses"]
        .as_object_mut()
        .expect("an operation has responses");
    for kind in COMMON.into_iter().filter(|kind| follows(*kind)) {
        let (_, status, title) = kind.parts();
        let answer = answers.entry(status.as_str()).or_insert_with(|| json!({}));
        if answer.get("description").is_none() {
            answer["description"] = format!("{title}.").into();
        }
    }
    for (status, answer) in answers {
        complete_answer(status, answer);
    }
}

/// What can happen to any request of its kind.
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

fn complete_answer(status: &str, answer: &mut Value) {
    let mut headers = answer["headers"].as_object().cloned().unwrap_or_default();
    let mut add = |name: &str| {
        let header = json!({ "$ref": format!("#/components/headers/{name}") });
        headers.insert(name.to_owned(), header);
    };
    add("X-Request-Id");
    match status {
        "401" => add("WWW-Authenticate"),
        "429" | "503" => add("Retry-After"),
        _ => {}
    }
    answer["headers"] = Value::Object(headers);
    if status.starts_with(['4', '5']) && answer.get("content").is_none() {
        answer["content"] = problem_content(status);
    }
}

fn problem_content(status: &str) -> Value {
    json!({
        "application/problem+json": {
            "schema": { "$ref": "#/components/schemas/Problem" },
            "example": example(status),
        }
    })
}

/// A problem as it is answered, for the first kind with the status.
fn example(status: &str) -> Value {
    let kind = COMMON
        .into_iter()
        .chain(SPECIAL)
        .find(|kind| kind.status().as_str() == status);
    let Some(kind) = kind else {
        return Value::Object(Map::new());
    };
    let problem = match kind {
        Kind::InvalidFields => Problem::field("/url", "the URL has no host"),
        Kind::VersionMismatch => Problem::version_mismatch(),
        kind => Problem::new(kind, DETAIL),
    };
    serde_json::from_slice(&problem.body("req_5f0c8a0e8d3b4b6c9f5a1e2d3c4b5a69")).expect("we wrote it")
}

const DETAIL: &str = "What to do about it.";
/// The other kinds that operations document.
const SPECIAL: [Kind; 3] = [Kind::NotFound, Kind::Conflict, Kind::VersionMismatch];
