//! Why a message is quarantined.

use webhook::Rejection;

/// A message that is not what its queue holds; it is quarantined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// The body or the message id is not an event's.
    #[error(transparent)]
    Event(#[from] Rejection),
    /// The properties cannot be read.
    #[error("{0}, so its properties cannot be read")]
    Unreadable(String),
    /// A delivery header is missing or not readable.
    #[error("header {name} is not {expected}")]
    Header {
        /// The header.
        name: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

impl BadMessage {
    /// Every word that [`reason`](Self::reason) returns.
    pub fn reasons() -> Vec<&'static str> {
        [&Rejection::REASONS[..], &["unreadable_properties", "bad_header"]].concat()
    }

    /// The stable word for the `magnetite-reason` header and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Event(rejection) => rejection.reason(),
            Self::Unreadable(_) => "unreadable_properties",
            Self::Header { .. } => "bad_header",
        }
    }
}
