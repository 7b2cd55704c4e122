//! The connection over which deliveries are sent again and workers are told of changes, and what its failures
//! mean to a client.

use std::time::Duration;

use broker::{Changes, Config, Link, Publisher, Topology};
use service::resend::{CLAIM, Error, Sender};
use store::Store;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::problem::{Kind, Problem};

/// How long a broker that is away or blocks is waited for before a request is told.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends again what requests ask for.
pub(crate) struct Resending {
    pub(crate) sender: Sender,
    /// After how long a delivery that is still pending was lost.
    pub(crate) late: Duration,
    /// Tells workers of changes.
    pub(crate) changes: Changes,
    link: Link,
    stop: CancellationToken,
}

impl Resending {
    /// Starts to connect.
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

    /// Without a broker nothing is requested either.
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

    /// Returns the connection that deliveries are sent again over.
    pub(crate) fn link(&self) -> Link {
        self.link.clone()
    }

    /// Closes the connection.
    pub(crate) async fn shutdown(&self) {
        self.stop.cancel();
        self.link.closed().await;
    }
}

/// What others have in hand is done, or can be sent by anyone, when their claim is over.
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
