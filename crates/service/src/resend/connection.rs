//! The connection over which deliveries are sent again and workers are notified of changes.

use std::time::Duration;

use broker::{Changes, Config, Link, Publisher, Topology};
use store::Store;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Sender;

/// How long to wait for a broker that is unavailable or blocks the connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// The broker does not accept messages. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker does not accept messages")]
pub struct NotReady;

/// Sends deliveries again on request.
pub struct Resending {
    /// Sends the requested runs.
    pub sender: Sender,
    /// The time after which a delivery that is still pending is considered lost.
    pub late: Duration,
    /// Notifies workers of changes.
    pub changes: Changes,
    link: Link,
    stop: CancellationToken,
}

impl Resending {
    /// Starts to connect to the broker.
    pub fn start(broker: &Config, topology: Topology, store: Store, late: Duration) -> Self {
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
    ///
    /// # Errors
    /// Returns an error if it does not accept any within a second.
    pub async fn ready(&self) -> Result<(), NotReady> {
        match timeout(PATIENCE, self.link.writable()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(NotReady),
        }
    }

    /// Returns the connection over which deliveries are sent again.
    pub fn link(&self) -> Link {
        self.link.clone()
    }

    /// Closes the connection.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.link.closed().await;
    }
}
