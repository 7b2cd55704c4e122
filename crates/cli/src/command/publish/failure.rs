//! The reasons why an event is not known to be published.

use std::{sync::Arc, time::Duration};

use anyhow::anyhow;
use producer::Error;

use crate::remote;

/// The reason why an event is not known to be published.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The event is not valid, or the API refuses it. It was not published, but other events can be.
    Refused(String),
    /// The event may be accepted later.
    Away {
        error: Arc<anyhow::Error>,
        /// The least time to wait before the event is published again.
        after: Duration,
    },
    /// No event is accepted until something is changed.
    Lasting(Arc<anyhow::Error>),
}

impl Failure {
    pub(super) fn away(error: impl Into<anyhow::Error>, after: Duration) -> Self {
        let error = Arc::new(error.into());
        Self::Away { error, after }
    }

    pub(super) fn lasting(error: impl Into<anyhow::Error>) -> Self {
        Self::Lasting(Arc::new(error.into()))
    }

    /// Returns the error for a command that gives up.
    pub(super) fn into_error(self) -> anyhow::Error {
        match self {
            Self::Refused(why) => anyhow!("the event was not published: {why}"),
            Self::Away { error, .. } | Self::Lasting(error) => anyhow!("{error:#}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid { source, .. } => Self::Refused(source.to_string()),
            error if is_lasting(&error) => Self::lasting(error),
            error => Self::away(error, Duration::ZERO),
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        let is_fault = error.problem().is_some_and(|problem| problem.status >= 500);
        if is_fault || error.is_transient() {
            let after = error.retry_after().unwrap_or(Duration::ZERO);
            Self::away(remote::told(error), after)
        } else {
            Self::lasting(remote::told(error))
        }
    }
}

/// Returns whether retrying is useless, because something is not bound, not declared or not permitted.
fn is_lasting(error: &Error) -> bool {
    let refused = ["NOT_FOUND", "ACCESS_REFUSED"];
    let chain = || std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    matches!(error, Error::Unroutable { .. } | Error::Closed { .. })
        || chain().any(|error| refused.iter().any(|word| error.to_string().contains(word)))
}
