//! Errors, in the form of RFC 9457.
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
//! A handler returns a [`Problem`]. `observe` adds the request's id and creates the body, including for
//! errors that axum and the layers return.

mod kind;
mod service;

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

pub(crate) use self::service::unsent;
pub(crate) use kind::Kind;
pub(crate) use wire::FieldError;

pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The reason why a request failed.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    kind: Kind,
    /// What the client should do about it.
    detail: String,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The cause, which is only logged.
    cause: Option<String>,
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

    /// Returns the problem for an object that does not exist. It is the same for an object of another
    /// organization, so that a client cannot find out whether one exists.
    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        Self::new(
            Kind::NotFound,
            format!("The organization has no {what} {id}. Use the list operation to find the right id."),
        )
    }

    /// Returns the problem for invalid fields of the body, or an invalid header `Magnetite-Organization`.
    pub(crate) fn fields(errors: Vec<FieldError>) -> Self {
        let detail = "Correct what `errors` names, and send the request again.";
        Self::new(Kind::InvalidFields, detail).with_errors(errors)
    }

    /// Returns the problem for one invalid field of the body.
    pub(crate) fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(vec![FieldError::at(pointer, detail)])
    }

    /// Returns the problem for an invalid parameter of the path or the query, or another invalid header.
    pub(crate) fn parameter(name: &str, expected: impl Into<String>) -> Self {
        let detail = format!("Correct {name}, and send the request again.");
        Self::new(Kind::MalformedRequest, detail).with_errors(vec![FieldError::of_parameter(name, expected)])
    }

    /// Adds the parts of the request that the problem is about.
    #[must_use]
    pub(crate) fn with_errors(self, errors: Vec<FieldError>) -> Self {
        Self { errors, ..self }
    }

    #[must_use]
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds the time after which to send the request again, at least one second.
    #[must_use]
    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        self.with_header(header::RETRY_AFTER, seconds.max(1).into())
    }

    /// Adds the cause, for the log.
    #[must_use]
    pub(crate) fn because(mut self, cause: &dyn std::error::Error) -> Self {
        self.cause = Some(runtime::display_chain(cause));
        self
    }

    /// Returns the problem for an error response that has none, from axum or a layer.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::new(
                Kind::NotFound,
                "This path does not exist. /docs describes the API.",
            ),
            StatusCode::METHOD_NOT_ALLOWED => Self::new(
                Kind::MethodNotAllowed,
                "Use one of the methods that the header Allow lists.",
            ),
            StatusCode::SERVICE_UNAVAILABLE => Self::new(
                Kind::TimedOut,
                "It is not known whether the request was carried out. Send it again.",
            )
            .retry_after(5),
            status if status.is_server_error() => Self::new(Kind::Internal, INTERNAL),
            _ => Self::new(
                Kind::MalformedRequest,
                "The request was not understood. /docs describes the API.",
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
        let body = wire::Problem {
            kind: self.kind.uri(),
            title: self.kind.title().to_owned(),
            status: self.kind.status().as_u16(),
            detail: self.detail.clone(),
            instance: request_id.to_owned(),
            errors: self.errors.clone(),
        };
        serde_json::to_vec(&body).expect("a problem has text keys and contains only texts and numbers")
    }
}

const INTERNAL: &str = "It is not known whether the request was carried out. Give the operator the value of `instance`, which identifies the cause in the log.";

/// Creates a response with only the status. `observe` adds the headers and the body.
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
            store::Error::ApiKeyNotFound { id } => return Self::not_found("API key", id.as_str()),
            store::Error::VersionMismatch { .. } => return Self::version_mismatch(),
            store::Error::RelayUrl { .. } => {
                return Self::field(
                    "/url",
                    "the endpoint is a relay, which has no URL to change; create another endpoint with the URL",
                );
            }
            store::Error::OrganizationFull { max, .. } => {
                let detail = format!(
                    "The organization already has {max} endpoints, the maximum. Delete one, or ask the operator for a higher limit."
                );
                return Self::new(Kind::TooManyEndpoints, detail);
            }
            store::Error::TooManyApiKeys { max, .. } => {
                let detail = format!(
                    "The organization already has {max} keys that are not revoked, the maximum. Revoke keys that are no longer used, including expired ones."
                );
                return Self::new(Kind::Conflict, detail);
            }
            store::Error::TooManyEndpoints => Self::new(
                Kind::TooManyEndpoints,
                "This installation has reached its maximum number of endpoints. Tell the operator.",
            ),
            error if error.is_full() => Self::new(
                Kind::DatabaseUnavailable,
                "Nothing was changed: the database has no room left. Send the request again later.",
            )
            .retry_after(30),
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
            "If-Match does not name the endpoint's present version. Get the endpoint again, check whether the change still applies, and send its new ETag.",
        )
    }
}
