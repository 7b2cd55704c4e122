//! The connection over which deliveries are sent again and workers are notified of changes, and the problems
//! that clients get for its failures.

use std::time::Duration;

use broker::{Changes, Config, Link, Publisher, Topology};
use service::resend::{CLAIM, Error, Sender};
use store::Store;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::problem::{Kind, Problem};

/// How long to wait for a broker that is unavailable or blocks the connection, before the request is answered
/// with an error.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends deliveries again on request.
pub(crate) struct Resending {
    pub(crate) sender: Sender,
    /// The time after which a delivery that is still pending is considered lost.
    pub(crate) late: Duration,
    /// Notifies workers of changes.
    pub(crate) changes: Changes,
    link: Link,
    stop: CancellationToken,
}

impl Resending {
    /// Starts to connect to the broker.
    pub(crate) fn start(broker: &Config, topology: Topology, store: Store, late: Duration) -> Self {
        let stop = CancellationToken::new();
        let link = Link::publishing(broker, "magnetite api", stop.clone());
        Self {
            changes: Changes::over(link.clone(), topology.clone()),
            sender: Sender::new(store, Publisher::new(link.clone(), broker), topology),
            late,
            link,
            stop,
        }
    }

    /// Waits until the broker accepts messages. Called before anything is requested in the database, so that
    /// nothing is requested while it does not.
    pub(crate) async fn ready(&self) -> Result<(), Problem> {
        match timeout(PATIENCE, self.link.writable()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Problem::new(
                Kind::BrokerUnavailable,
                "Nothing was sent. Send the request again.",
            )
            .retry_after(5)),
        }
    }

    /// Returns the connection over which deliveries are sent again.
    pub(crate) fn link(&self) -> Link {
        self.link.clone()
    }

    /// Closes the connection.
    pub(crate) async fn shutdown(&self) {
        self.stop.cancel();
        self.link.closed().await;
    }
}

/// Returns the problem for deliveries that are not known to be sent. When the claims of other processes
/// expire, these deliveries have been sent or can be claimed again.
pub(crate) fn unsent() -> Problem {
    Problem::new(
        Kind::BrokerUnavailable,
        "Not everything is known to be sent. Send the request again: it sends what is left, and nothing twice.",
    )
    .retry_after(CLAIM.as_secs())
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Store(error) => error.into(),
            Error::Publish { .. } => unsent().because(&error),
            Error::Unmarked { .. } => Self::new(
                Kind::DatabaseUnavailable,
                "What was sent could not be noted. Send the request again: a few may be sent twice, with the same webhook-id.",
            )
            .retry_after(CLAIM.as_secs())
            .because(&error),
        }
    }
}
