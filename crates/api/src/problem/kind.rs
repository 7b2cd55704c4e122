//! What kinds of problems there are.

use axum::http::StatusCode;

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
    TooManyEndpoints,
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

impl Kind {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 19] = [
        Self::MalformedRequest,
        Self::Unauthorized,
        Self::InsufficientScope,
        Self::OtherOrganization,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::Conflict,
        Self::TooManyEndpoints,
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
            Self::TooManyEndpoints => (
                "too-many-endpoints",
                StatusCode::CONFLICT,
                "There are too many endpoints",
            ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_documented_with_its_status() {
        let page = include_str!("../../../../docs/api.md");
        for kind in Kind::ALL {
            let (name, status, _) = kind.parts();
            let row = format!("| `{name}` | {} |", status.as_u16());
            assert!(page.contains(&row), "docs/api.md lacks {row}");
        }
    }
}
