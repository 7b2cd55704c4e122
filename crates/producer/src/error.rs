//! Why an event is not known to be published.

use std::time::Duration;

use broker::PublishError;
use webhook::{EventId, Rejection};

/// Why an event is not known to be published. All but [`Invalid`](Self::Invalid) ask for the same: publish
/// the event again, under the same id, so that a copy that did arrive and this one are one event.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The event breaks a rule; nothing was sent.
    #[error("event {id} is not valid and was not published; correct it, publishing it again would not help")]
    Invalid {
        /// As it was given, or derived from the body.
        id: EventId,
        /// Which rule.
        #[source]
        source: Rejection,
    },
    /// There was no connection in time; nothing was sent.
    #[error(
        "event {id} was not published: no connection to the broker within {after:?}; is it running, and is its URL right? then publish the event again"
    )]
    NotConnected {
        /// The event.
        id: EventId,
        /// How long was waited.
        after: Duration,
    },
    /// The broker is under a memory or disk alarm.
    #[error(
        "event {id} is not confirmed: the broker blocks publishing (memory or disk alarm) and did not stop within {after:?}; free its memory or disk, then publish the event again under the same id"
    )]
    Blocked {
        /// The event.
        id: EventId,
        /// How long was waited.
        after: Duration,
    },
    /// The exchange does not exist or has no queue for it.
    #[error(
        "event {id} was not published: exchange {exchange} does not exist or has no queue; start a worker or run `magnetite topology declare`, then publish the event again"
    )]
    Unroutable {
        /// The event.
        id: EventId,
        /// Where it was published to.
        exchange: String,
    },
    /// The broker refused it.
    #[error(
        "event {id} was refused by the broker: the events queue is full or failed; see the broker's log and whether workers consume, then publish the event again"
    )]
    Nacked {
        /// The event.
        id: EventId,
    },
    /// Neither a confirm nor a refusal came in time.
    #[error(
        "event {id} is not confirmed: the broker did not answer within {after:?}, and whether it has the event is not known; publish the event again under the same id"
    )]
    Unconfirmed {
        /// The event.
        id: EventId,
        /// How long was waited.
        after: Duration,
    },
    /// The connection or channel broke before the confirm came.
    #[error(
        "event {id} is not confirmed: the channel to the broker broke first, and whether it has the event is not known; publish the event again under the same id"
    )]
    Broken {
        /// The event.
        id: EventId,
        /// What broke it.
        #[source]
        source: PublishError,
    },
    /// An earlier event of the batch met a fault that concerns all; this one was not sent.
    #[error(
        "event {id} was not published: its batch was given up at an earlier event, whose error says why; publish the event again"
    )]
    Skipped {
        /// The event.
        id: EventId,
    },
    /// The producer was shut down.
    #[error(
        "event {id} was not published: the producer was shut down; publish the event again with a new one"
    )]
    Closed {
        /// The event.
        id: EventId,
    },
}

/// Why a producer cannot publish now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// There was no connection in time. It is still being tried, and each failure is logged with its cause.
    #[error(
        "no connection to the broker at {address} within {after:?}; is it running, and are its address and password right?"
    )]
    NotConnected {
        /// `host:port/vhost`.
        address: String,
        /// How long was waited.
        after: Duration,
    },
    /// The broker is under a memory or disk alarm.
    #[error(
        "the broker at {address} blocks publishing (memory or disk alarm) and did not stop within {after:?}; free its memory or disk"
    )]
    Blocked {
        /// `host:port/vhost`.
        address: String,
        /// How long was waited.
        after: Duration,
    },
    /// The producer was shut down.
    #[error("the producer was shut down")]
    Closed,
}

impl Error {
    pub(crate) fn publish(id: EventId, error: PublishError) -> Self {
        let missing_exchange = error.is_missing_exchange();
        match error {
            PublishError::Unroutable { target: exchange, .. } => Self::Unroutable { id, exchange },
            PublishError::Broken { target: exchange, .. } if missing_exchange => {
                Self::Unroutable { id, exchange }
            }
            PublishError::NotConnected { after } => Self::NotConnected { id, after },
            PublishError::Blocked { after } => Self::Blocked { id, after },
            PublishError::Nacked { .. } => Self::Nacked { id },
            PublishError::Unconfirmed { after, .. } => Self::Unconfirmed { id, after },
            PublishError::Closed(_) => Self::Closed { id },
            PublishError::Broken { .. } => Self::Broken { id, source: error },
        }
    }

    /// The event that is concerned.
    pub const fn event_id(&self) -> &EventId {
        match self {
            Self::Invalid { id, .. }
            | Self::NotConnected { id, .. }
            | Self::Blocked { id, .. }
            | Self::Unroutable { id, .. }
            | Self::Nacked { id }
            | Self::Unconfirmed { id, .. }
            | Self::Broken { id, .. }
            | Self::Skipped { id }
            | Self::Closed { id } => id,
        }
    }

    /// Whether publishing the same event again with the same producer can succeed.
    pub const fn is_transient(&self) -> bool {
        !matches!(self, Self::Invalid { .. } | Self::Closed { .. })
    }

    /// Whether the broker was too long silent: the next publish would only wait as long again.
    pub(crate) const fn ends_a_batch(&self) -> bool {
        matches!(
            self,
            Self::NotConnected { .. } | Self::Blocked { .. } | Self::Unconfirmed { .. } | Self::Closed { .. }
        )
    }
}
