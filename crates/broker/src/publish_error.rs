//! The errors of publishing.

use std::time::Duration;

use crate::reply::{self, reply_code};

/// The result of a publish.
pub type PublishResult = Result<(), PublishError>;

/// The error of a message that is not known to be in a queue. The message may still be in the queue, unless
/// the broker returned or nacked it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// There was no connection, or no free channel, within the publish timeout.
    #[error(
        "no connection to the broker within {after:?}; check that it is running and that broker.url is correct"
    )]
    NotConnected {
        /// How long the publisher waited.
        after: Duration,
    },
    /// The broker is under a memory or disk alarm and accepts no publishes.
    #[error(
        "the broker blocks publishing (memory or disk alarm) and did not accept the message within {after:?}; free memory or disk \
         space on its nodes"
    )]
    Blocked {
        /// How long the publisher waited.
        after: Duration,
    },
    /// No queue is bound with the message's routing key.
    #[error(
        "no queue receives messages for {target} ({reply}); start a worker or run `magnetite topology declare`"
    )]
    Unroutable {
        /// The exchange, or the queue if the default exchange was used.
        target: String,
        /// The broker's reply text.
        reply: String,
    },
    /// The broker refused the message because a queue is full or because of an internal error.
    #[error("the broker refused the message for {target}: its queue is full or failed; see the broker's log")]
    Nacked {
        /// The exchange or queue.
        target: String,
    },
    /// The broker neither confirmed nor refused the message within the publish timeout.
    #[error(
        "no confirm from the broker for {target} within {after:?}; it is unknown whether the broker has the message"
    )]
    Unconfirmed {
        /// The exchange or queue.
        target: String,
        /// How long the publisher waited.
        after: Duration,
    },
    /// The channel or connection was closed.
    #[error("the channel to the broker was closed while publishing to {target}")]
    Broken {
        /// The exchange or queue.
        target: String,
        /// The error that lapin reported.
        #[source]
        source: lapin::Error,
    },
    /// The link was stopped.
    #[error(transparent)]
    Closed(#[from] crate::Closed),
}

impl PublishError {
    /// Returns whether the broker closed the channel because an exchange that was published to does not
    /// exist.
    pub fn is_missing_exchange(&self) -> bool {
        let Self::Broken { source, .. } = self else {
            return false;
        };
        reply_code(source) == Some(reply::NOT_FOUND)
    }
}
