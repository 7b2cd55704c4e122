//! The reasons for which a message is quarantined.

use webhook::Rejection;

/// A message that does not have the format of its queue's messages. The consumer quarantines it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// The body or the message id is not that of an event.
    #[error(transparent)]
    Event(#[from] Rejection),
    /// The properties cannot be read.
    #[error("the message's properties cannot be read: {0}")]
    Unreadable(String),
    /// A delivery header is missing or invalid.
    #[error("header {name} is missing or is not {expected}")]
    Header {
        /// The name of the header.
        name: &'static str,
        /// The value that is expected.
        expected: &'static str,
    },
}

impl BadMessage {
    /// Returns every word that [`reason`](Self::reason) can return.
    pub fn reasons() -> Vec<&'static str> {
        [&Rejection::REASONS[..], &["unreadable_properties", "bad_header"]].concat()
    }

    /// Returns the stable word for the `magnetite-reason` header and for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Event(rejection) => rejection.reason(),
            Self::Unreadable(_) => "unreadable_properties",
            Self::Header { .. } => "bad_header",
        }
    }
}
