//! The kinds of problems.

use axum::http::StatusCode;
use strum::IntoStaticStr;

/// The kinds of problems. A closed set, which `docs/api.md` documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr)]
#[cfg_attr(test, derive(strum::VariantArray))]
#[strum(serialize_all = "kebab-case")]
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
    UpgradeRequired,
    TooLarge,
    UnsupportedMediaType,
    InvalidFields,
    RateLimited,
    #[strum(serialize = "internal-error")]
    Internal,
    BrokerUnavailable,
    DatabaseUnavailable,
    Overloaded,
    TimedOut,
}

impl Kind {
    /// Returns the last part of `type`.
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }

    /// Returns the value of `type`.
    pub(crate) fn uri(self) -> String {
        format!("{}{}", wire::Problem::KINDS, self.name())
    }

    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::MalformedRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::InsufficientScope | Self::OtherOrganization => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict | Self::TooManyEndpoints => StatusCode::CONFLICT,
            Self::VersionMismatch => StatusCode::PRECONDITION_FAILED,
            Self::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidFields => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::BrokerUnavailable | Self::DatabaseUnavailable | Self::Overloaded | Self::TimedOut => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::MalformedRequest => "The request cannot be read",
            Self::Unauthorized => "No valid API key",
            Self::InsufficientScope => "The API key does not allow this",
            Self::OtherOrganization => "The organizations do not match",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "The method is not allowed here",
            Self::BodyTimeout => "The body did not arrive in time",
            Self::Conflict => "The request conflicts with the present state",
            Self::TooManyEndpoints => "There are too many endpoints",
            Self::VersionMismatch => "The endpoint was changed in the meantime",
            Self::UpgradeRequired => "The request asks for no WebSocket",
            Self::TooLarge => "The body is too large",
            Self::UnsupportedMediaType => "The Content-Type is not JSON",
            Self::InvalidFields => "Fields are not valid",
            Self::RateLimited => "Too many requests",
            Self::Internal => "Internal error",
            Self::BrokerUnavailable => "The broker is unavailable",
            Self::DatabaseUnavailable => "The database is unavailable",
            Self::Overloaded => "Too many requests are in progress",
            Self::TimedOut => "The request took too long",
        }
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantArray as _;

    use super::*;

    #[test]
    fn every_kind_is_documented_with_its_status() {
        let page = include_str!("../../../../docs/api.md");
        for kind in Kind::VARIANTS {
            let row = format!("| `{}` | {} |", kind.name(), kind.status().as_u16());
            assert!(page.contains(&row), "docs/api.md lacks {row}");
        }
    }
}
