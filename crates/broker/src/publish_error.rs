//! Why a publish failed.

use std::time::Duration;

use crate::reply::{self, reply_code};

/// What became of a publish.
pub type PublishResult = Result<(), PublishError>;

/// Why a message is not known to be in a queue. It may be there all the same, unless it was returned or
/// nacked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// There was no connection, or none with a free channel, within the time.
    #[error("the broker was not connected within {after:?}; is it running, and is broker.url right?")]
    NotConnected {
        /// How long was waited.
        after: Duration,
    },
    /// The broker is under a memory or disk alarm and takes no publishes.
    #[error(
        "the broker blocks publishing (memory or disk alarm) and did not stop within {after:?}; free its memory or disk"
    )]
    Blocked {
        /// How long was waited.
        after: Duration,
    },
    /// No queue is bound for it.
    #[error(
        "no queue takes messages for {target} ({reply}); start a worker or run `magnetite topology declare`"
    )]
    Unroutable {
        /// The exchange, or the queue when the default exchange was used.
        target: String,
        /// The broker's words.
        reply: String,
    },
    /// The broker refused it: a queue is full, or an internal fault.
    #[error("the broker refused the message for {target}: its queue is full or failed; see the broker's log")]
    Nacked {
        /// The exchange or queue.
        target: String,
    },
    /// Neither a confirm nor a refusal came.
    #[error(
        "no confirm from the broker for {target} within {after:?}; whether it has the message is not known"
    )]
    Unconfirmed {
        /// The exchange or queue.
        target: String,
        /// How long was waited.
        after: Duration,
    },
    /// The channel or connection broke.
    #[error("the channel to the broker broke while publishing to {target}")]
    Broken {
        /// The exchange or queue.
        target: String,
        /// lapin's words.
        #[source]
        source: lapin::Error,
    },
    /// The link was stopped.
    #[error(transparent)]
    Closed(#[from] crate::Closed),
}

impl PublishError {
    /// Whether the channel broke because an exchange that was published to does not exist.
    pub fn is_missing_exchange(&self) -> bool {
        let Self::Broken { source, .. } = self else {
            return false;
        };
        reply_code(source) == Some(reply::NOT_FOUND)
    }
}
