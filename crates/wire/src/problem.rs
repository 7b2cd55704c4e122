//! Errors, in the form of RFC 9457.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The reason why a request failed (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(title = "Problem")]
pub struct Problem {
    /// Identifies the kind of problem, for programs.
    #[serde(rename = "type")]
    #[schema(format = "uri", example = "urn:magnetite:problem:invalid-fields")]
    pub kind: String,
    /// The same for every problem of this kind, for people.
    #[schema(example = "Fields are not valid")]
    pub title: String,
    /// The HTTP status code of the response.
    #[schema(minimum = 400, maximum = 599, example = 422)]
    pub status: u16,
    /// What to do about it.
    #[schema(example = "Correct what `errors` names, and send the request again.")]
    pub detail: String,
    /// The request's id, as in the header X-Request-Id. The operator can find the request in the log by it.
    #[schema(example = "req_5f0c8a0e8d3b4b6c9f5a1e2d3c4b5a69")]
    pub instance: String,
    /// The parts of the request that are not valid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldError>,
}

/// A part of the request that is not valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// The location in the body, as a JSON Pointer (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/url", nullable = false)]
    pub pointer: Option<String>,
    /// The name of the parameter in the path or query, or of the header.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "limit", nullable = false)]
    pub parameter: Option<String>,
    /// What is wrong, or what was expected.
    #[schema(example = "the URL has no host")]
    pub detail: String,
}

impl Problem {
    /// What every `type` begins with. The rest is the name of the kind.
    pub const KINDS: &'static str = "urn:magnetite:problem:";

    /// Returns the last part of `type`, such as `invalid-fields`, by which programs distinguish problems.
    pub fn name(&self) -> &str {
        self.kind.strip_prefix(Self::KINDS).unwrap_or(&self.kind)
    }
}

impl FieldError {
    /// Creates the error for the part of the body at this pointer.
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            pointer: Some(pointer.into()),
            parameter: None,
            detail: detail.into(),
        }
    }

    /// Creates the error for the parameter or header with this name.
    pub fn of_parameter(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            pointer: None,
            parameter: Some(name.into()),
            detail: detail.into(),
        }
    }
}
