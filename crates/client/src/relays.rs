//! Relays: endpoints whose requests a program receives and answers over a connection of its own.

use serde::Serialize;
use wire::Endpoint;

use crate::{
    client::Client, error::Error, operation::Operation, relay_connection::RelayConnection, request::Request,
};

/// A relay to open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OpenRelay {
    /// The event types to deliver: each is a type, a family such as `research.*`, or `*` for all. `None` for
    /// all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
    /// Deliver only this project's events; `None` for those of all projects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
}

/// Relays, which need a key with the scope `endpoints:write`. Only the key that opened a relay can connect to it.
impl Client {
    /// Opens a relay. Returns its endpoint, with the secret that signs the requests; it is not shown again.
    ///
    /// The key's former relay in the organization ends. A relay also ends about a minute after its last connection, and
    /// with [`delete_endpoint`](Self::delete_endpoint).
    ///
    /// # Errors
    /// Returns an error if the API refuses the request, or is not reached.
    pub async fn open_relay(&self, new: &OpenRelay) -> Result<Endpoint, Error> {
        let request = Request::new(Operation::OPEN_RELAY).json(new)?;
        self.send(&request).await?.json()
    }

    /// Connects to a relay, whose requests then arrive over this connection. A relay has one connection at a time: if
    /// another one is open, the API waits up to 25 s for its end.
    ///
    /// This is a WebSocket over HTTP/1.1. A proxy between the client and an API with `http` has to support it; with
    /// `https`, every proxy does.
    ///
    /// The client makes one try only, whatever [`Retries`](crate::Retries) allow, because a program also has to connect
    /// again when a connection is lost.
    ///
    /// # Errors
    /// Returns an error if the API refuses the request, or is not reached.
    pub async fn connect_relay(&self, id: &str) -> Result<RelayConnection, Error> {
        let request = Request::about(Operation::CONNECT_RELAY, id)?.long();
        let upgraded = self.upgrade(&request).await?;
        Ok(RelayConnection::over(upgraded).await)
    }
}
