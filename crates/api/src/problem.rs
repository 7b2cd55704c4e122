//! What went wrong, in the form of RFC 9457.
//!
//! ```json
//! {
//!   "type": "urn:magnetite:problem:invalid-fields",
//!   "title": "Fields are not valid",
//!   "status": 422,
//!   "detail": "Correct what `errors` names, and send the request again.",
//!   "instance": "req_5f0c8a0e8d3b4b6c9f5a1e2d3c4b5a69",
//!   "errors": [{ "pointer": "/url", "detail": "the URL has no host" }]
//! }
//! ```
//!
//! A handler returns a [`Problem`]; `observe` gives it the request's id and makes the body, also for errors that axum and the layers
//! answer with.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The kinds of problem: a closed set, which `docs/api.md` explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    MalformedRequest,
    Unauthorized,
    InsufficientScope,
    OtherOrganization,
    NotFound,
    MethodNotAllowed,
    BodyTimeout,
    Conflict,
    VersionMismatch,
    TooLarge,
    UnsupportedMediaType,
    InvalidFields,
    RateLimited,
    Internal,
    BrokerUnavailable,
    DatabaseUnavailable,
    Overloaded,
    TimedOut,
}

/// Why a request was not done.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    kind: Kind,
    /// What to do about it.
    detail: String,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// For the log alone.
    cause: Option<String>,
}

/// A part of the request that is not valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// Where in the body, as a JSON Pointer (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/url", nullable = false)]
    pub(crate) pointer: Option<String>,
    /// Which parameter of the path or query, or which header.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "limit", nullable = false)]
    pub(crate) parameter: Option<&'static str>,
    /// What was expected.
    #[schema(example = "the URL has no host")]
    pub(crate) detail: String,
}

/// Why a request was not done (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem, title = "Problem")]
pub(crate) struct ProblemBody<'a> {
    /// Names the kind of problem; for programs.
    #[serde(rename = "type")]
    #[schema(format = "uri", example = "urn:magnetite:problem:invalid-fields")]
    kind: String,
    /// The same for every problem of the kind; for people.
    #[schema(example = "Fields are not valid")]
    title: &'static str,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599, example = 422)]
    status: u16,
    /// What to do about it.
    #[schema(example = "Correct what `errors` names, and send the request again.")]
    detail: &'a str,
    /// The request's id, as in the header X-Request-Id; whoever runs Magnetite finds it in the log.
    #[schema(example = "req_5f0c8a0e8d3b4b6c9f5a1e2d3c4b5a69")]
    instance: &'a str,
    /// Each part of the request that is not valid.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<FieldError>, required = false)]
    errors: &'a [FieldError],
}

impl Kind {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 18] = [
        Self::MalformedRequest,
        Self::Unauthorized,
        Self::InsufficientScope,
        Self::OtherOrganization,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::Conflict,
        Self::VersionMismatch,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidFields,
        Self::RateLimited,
        Self::Internal,
        Self::BrokerUnavailable,
        Self::DatabaseUnavailable,
        Self::Overloaded,
        Self::TimedOut,
    ];

    /// The last part of `type`, the status and the title.
    pub(crate) const fn parts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::MalformedRequest => (
                "malformed-request",
                StatusCode::BAD_REQUEST,
                "The request cannot be read",
            ),
            Self::Unauthorized => ("unauthorized", StatusCode::UNAUTHORIZED, "No valid API key"),
            Self::InsufficientScope => (
                "insufficient-scope",
                StatusCode::FORBIDDEN,
                "The API key does not allow this",
            ),
            Self::OtherOrganization => (
                "other-organization",
                StatusCode::FORBIDDEN,
                "The API key is another organization's",
            ),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is no such thing"),
            Self::MethodNotAllowed => (
                "method-not-allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                "The method is not allowed here",
            ),
            Self::BodyTimeout => (
                "body-timeout",
                StatusCode::REQUEST_TIMEOUT,
                "The body did not arrive in time",
            ),
            Self::Conflict => ("conflict", StatusCode::CONFLICT, "This cannot be done now"),
            Self::VersionMismatch => (
                "version-mismatch",
                StatusCode::PRECONDITION_FAILED,
                "It was changed meanwhile",
            ),
            Self::TooLarge => (
                "too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The body is too large",
            ),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body is not JSON",
            ),
            Self::InvalidFields => (
                "invalid-fields",
                StatusCode::UNPROCESSABLE_ENTITY,
                "Fields are not valid",
            ),
            Self::RateLimited => ("rate-limited", StatusCode::TOO_MANY_REQUESTS, "Too many requests"),
            Self::Internal => (
                "internal-error",
                StatusCode::INTERNAL_SERVER_ERROR,
                "Something is wrong with Magnetite",
            ),
            Self::BrokerUnavailable => (
                "broker-unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "The broker takes no messages",
            ),
            Self::DatabaseUnavailable => (
                "database-unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "The database is away",
            ),
            Self::Overloaded => (
                "overloaded",
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many requests are worked on",
            ),
            Self::TimedOut => (
                "timed-out",
                StatusCode::SERVICE_UNAVAILABLE,
                "The request took too long",
            ),
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        self.parts().1
    }

    /// The value of `type`.
    pub(crate) fn uri(self) -> String {
        format!("urn:magnetite:problem:{}", self.parts().0)
    }
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            headers: Vec::new(),
            cause: None,
        }
    }

    /// Like what is not there at all; whoever asks does not learn whether it is another organization's.
    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        Self::new(
            Kind::NotFound,
            format!("There is no {what} {id} in the key's organization; list those there are."),
        )
    }

    /// Fields of the body.
    pub(crate) fn fields(errors: Vec<FieldError>) -> Self {
        let detail = "Correct what `errors` names, and send the request again.";
        Self {
            errors,
            ..Self::new(Kind::InvalidFields, detail)
        }
    }

    /// One field of the body.
    pub(crate) fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(vec![FieldError::at(pointer, detail)])
    }

    /// A parameter of the path or the query, or a header.
    pub(crate) fn parameter(name: &'static str, expected: impl Into<String>) -> Self {
        let error = FieldError {
            pointer: None,
            parameter: Some(name),
            detail: expected.into(),
        };
        Self {
            errors: vec![error],
            ..Self::new(
                Kind::MalformedRequest,
                format!("Correct {name}, and send the request again."),
            )
        }
    }

    #[must_use]
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// When to send the request again; at least a second from now.
    #[must_use]
    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        self.with_header(header::RETRY_AFTER, seconds.max(1).into())
    }

    /// What the log is to say of it.
    #[must_use]
    pub(crate) fn because(mut self, cause: &dyn std::error::Error) -> Self {
        self.cause = Some(chain(cause));
        self
    }

    /// What an answer without a problem of ours comes to: axum's own, or a layer's.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::new(
                Kind::NotFound,
                "There is nothing at this path; /docs shows what there is.",
            ),
            StatusCode::METHOD_NOT_ALLOWED => Self::new(
                Kind::MethodNotAllowed,
                "The header Allow has the methods that are allowed here.",
            ),
            StatusCode::SERVICE_UNAVAILABLE => Self::new(
                Kind::TimedOut,
                "Whether it was done is not known; send the request again.",
            )
            .retry_after(5),
            status if status.is_server_error() => Self::new(Kind::Internal, INTERNAL),
            _ => Self::new(
                Kind::MalformedRequest,
                "The request is not understood; /docs shows what is.",
            ),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    pub(crate) fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    pub(crate) fn body(&self, request_id: &str) -> Vec<u8> {
        let (_, status, title) = self.kind.parts();
        let body = ProblemBody {
            kind: self.kind.uri(),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            instance: request_id,
            errors: &self.errors,
        };
        serde_json::to_vec(&body).expect("texts and numbers under text keys")
    }
}

const INTERNAL: &str =
    "Whether it was done is not known. Tell whoever runs Magnetite `instance`: the log has the cause.";

impl FieldError {
    pub(crate) fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            pointer: Some(pointer.into()),
            parameter: None,
            detail: detail.into(),
        }
    }
}

/// Without its headers and body, which `observe` adds.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        let problem = match &error {
            store::Error::EndpointNotFound { id } => return Self::not_found("endpoint", id.as_str()),
            store::Error::VersionMismatch { .. } => return Self::version_mismatch(),
            store::Error::TooManyEndpoints => return Self::new(Kind::Conflict, format!("{error}.")),
            error if error.is_unavailable() => {
                Self::new(Kind::DatabaseUnavailable, "Send the request again.").retry_after(5)
            }
            _ => Self::new(Kind::Internal, INTERNAL),
        };
        problem.because(&error)
    }
}

impl Problem {
    pub(crate) fn version_mismatch() -> Self {
        Self::new(
            Kind::VersionMismatch,
            "Its version is not one that If-Match names: get it again, decide again, and send its new ETag.",
        )
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_documented_with_its_status() {
        let page = include_str!("../../../docs/api.md");
        for kind in Kind::ALL {
            let (name, status, _) = kind.parts();
            let row = format!("| `{name}` | {} |", status.as_u16());
            assert!(page.contains(&row), "docs/api.md lacks {row}");
        }
    }
}
