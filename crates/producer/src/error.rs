//! The reasons why an event is not known to be published.

use std::time::Duration;

use broker::PublishError;
use webhook::{EventId, Rejection};

/// The reason why an event is not known to be published.
///
/// After any error but [`Invalid`](Self::Invalid), publish the event again with the same id. If the first
/// copy did reach the broker, receivers then recognize both copies as one event.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The event is not valid and was not sent.
    #[error("event {id} is not valid and was not published; correct it before you publish it again")]
    Invalid {
        /// The id as it was given, or derived from the body.
        id: EventId,
        /// The violated rule.
        #[source]
        source: Rejection,
    },
    /// The broker was not connected in time, and the event was not sent.
    #[error(
        "event {id} was not published: no connection to the broker within {after:?}; check that the broker is running and that its URL is correct, then publish the event again"
    )]
    NotConnected {
        /// The id of the event.
        id: EventId,
        /// How long the producer waited.
        after: Duration,
    },
    /// The broker blocks publishing because of a memory or disk alarm.
    #[error(
        "event {id} was not confirmed: the broker blocks publishing (memory or disk alarm), and the alarm did not end within {after:?}; free memory or disk space on the broker, then publish the event again with the same id"
    )]
    Blocked {
        /// The id of the event.
        id: EventId,
        /// How long the producer waited.
        after: Duration,
    },
    /// The exchange does not exist, or no queue is bound to it for this event.
    #[error(
        "event {id} was not published: exchange {exchange} does not exist or has no queue; start a worker or run `magnetite topology declare`, then publish the event again"
    )]
    Unroutable {
        /// The id of the event.
        id: EventId,
        /// The exchange that the event was published to.
        exchange: String,
    },
    /// The broker refused the event with a nack.
    #[error(
        "event {id} was refused by the broker: the events queue is full or failed; check the broker's log and that workers are consuming, then publish the event again"
    )]
    Nacked {
        /// The id of the event.
        id: EventId,
    },
    /// The broker neither confirmed nor refused the event in time.
    #[error(
        "event {id} was not confirmed: the broker did not answer within {after:?}, and may or may not have the event; publish the event again with the same id"
    )]
    Unconfirmed {
        /// The id of the event.
        id: EventId,
        /// How long the producer waited.
        after: Duration,
    },
    /// The connection or channel was closed before the confirm arrived.
    #[error(
        "event {id} was not confirmed: the channel to the broker closed before the confirm, and the broker may or may not have the event; publish the event again with the same id"
    )]
    Broken {
        /// The id of the event.
        id: EventId,
        /// The cause.
        #[source]
        source: PublishError,
    },
    /// The event was not sent, because its batch ended at an earlier event with an error that affects all
    /// events.
    #[error(
        "event {id} was not published: its batch ended at an earlier event, whose error gives the reason; publish the event again"
    )]
    Skipped {
        /// The id of the event.
        id: EventId,
    },
    /// The producer was shut down before the event was published.
    #[error(
        "event {id} was not published: the producer was shut down; publish the event again with a new producer"
    )]
    Closed {
        /// The id of the event.
        id: EventId,
    },
}

/// The reason why a producer cannot publish now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// The broker was not connected in time. The producer continues to connect, and logs each failure with
    /// its cause.
    #[error(
        "no connection to the broker at {address} within {after:?}; check that the broker is running and that its address and password are correct"
    )]
    NotConnected {
        /// The address of the broker, `host:port/vhost`.
        address: String,
        /// How long the producer waited.
        after: Duration,
    },
    /// The broker blocks publishing because of a memory or disk alarm.
    #[error(
        "the broker at {address} blocks publishing (memory or disk alarm), and the alarm did not end within {after:?}; free memory or disk space on the broker"
    )]
    Blocked {
        /// The address of the broker, `host:port/vhost`.
        address: String,
        /// How long the producer waited.
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

    /// Returns the id of the event.
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

    /// Returns whether publishing the same event again with the same producer can succeed.
    pub const fn is_transient(&self) -> bool {
        !matches!(self, Self::Invalid { .. } | Self::Closed { .. })
    }

    /// Returns whether a batch ends at this error: the producer was shut down, or the broker did not answer
    /// in time and the next publish would only time out again.
    pub(crate) const fn ends_a_batch(&self) -> bool {
        matches!(
            self,
            Self::NotConnected { .. } | Self::Blocked { .. } | Self::Unconfirmed { .. } | Self::Closed { .. }
        )
    }
}
