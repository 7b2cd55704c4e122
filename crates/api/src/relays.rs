//! Relays: passes the requests of endpoints without a URL to the programs that are connected to this process, over
//! WebSockets, and the programs' answers to the workers.
//!
//! A task of its own receives the requests of a relay and serves its connection, so that a client that disconnects at
//! any moment leaves no queue behind. The broker lets one connection receive the requests of a relay at a time. A
//! further one waits until the former has ended, to whichever process that is connected.

mod answer;
mod connection;
mod end;
mod frame;
mod lease;
mod outstanding;
mod pace;
mod program;
mod replies;
mod waiters;

use std::{sync::Arc, time::Duration};

use axum::extract::ws::WebSocket;
use broker::{Closed, Link, Publisher, RelayError, Requests, Topology};
use runtime::{Lasting, display_chain};
use store::Store;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use webhook::EndpointId;

use crate::{
    caller::Caller,
    config::RELAYS_MAX,
    meters,
    shares::{Share, Shares},
};

use connection::Connection;
use replies::Replies;
use waiters::Waiters;

pub(crate) use program::Program;

/// How long a new connection waits for a former one to end. A connection from which nothing arrives ends within this
/// time: after 25 s, and what it takes to close it.
const TAKE_OVER_MAX: Duration = Duration::from_secs(28);
const TAKE_OVER_POLL: Duration = Duration::from_millis(500);
/// How long the upgrade may take after the response was returned.
const UPGRADE_MAX: Duration = Duration::from_secs(10);
/// How long a shutdown waits until all connections have ended.
const END_MAX: Duration = Duration::from_secs(1);

/// The relays whose programs are connected to this process.
pub(crate) struct Relays {
    link: Link,
    /// Publishes answers, on channels of its own.
    publisher: Publisher,
    topology: Topology,
    store: Store,
    places: Shares,
    waiters: Waiters,
    /// The tasks of the connections.
    tasks: TaskTracker,
    /// Cancelled when programs have to connect to another process.
    stop: CancellationToken,
    /// Cancelled when the link is no longer needed.
    close: CancellationToken,
}

impl Relays {
    /// Starts to connect to the broker. All programs are disconnected when `stop` is cancelled.
    pub(crate) fn start(
        broker: &broker::Config,
        topology: Topology,
        store: Store,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let close = CancellationToken::new();
        let link = Link::open(broker, "magnetite api relays", close.clone());
        meters::RELAYS.level([]).set(0.0);
        Arc::new(Self {
            publisher: Publisher::new(link.clone(), broker),
            link,
            topology,
            store,
            places: Shares::new(RELAYS_MAX),
            waiters: Waiters::default(),
            tasks: TaskTracker::new(),
            stop,
            close,
        })
    }

    /// Takes a place for a program that connects. Returns `None` if the caller's share is used up.
    pub(crate) fn place(&self, caller: &Caller) -> Option<Share> {
        self.places.take(caller, 1)
    }

    /// Returns the number of places that are free.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.places.free()
    }

    /// Receives the requests of a relay, as soon as no other connection does. Returns what the WebSocket is to be sent
    /// to, once the connection is upgraded.
    ///
    /// # Errors
    /// Returns an error if the requests cannot be received.
    ///
    /// # Cancel safety
    /// If the future is dropped, the requests are no longer received.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        program: Program,
    ) -> Result<oneshot::Sender<WebSocket>, RelayError> {
        let (ready, is_ready) = oneshot::channel();
        let (upgraded, socket) = oneshot::channel();
        let relays = Arc::clone(self);
        self.tasks.spawn(async move {
            relays.serve(program, ready, socket).await;
        });
        // The task drops its end only if it panics.
        is_ready.await.unwrap_or(Err(RelayError::Closed(Closed)))?;
        Ok(upgraded)
    }

    /// Receives the requests of a relay and serves its program, until one of them ends.
    async fn serve(
        self: Arc<Self>,
        program: Program,
        mut ready: oneshot::Sender<Result<(), RelayError>>,
        socket: oneshot::Receiver<WebSocket>,
    ) {
        let requests = match self.receive(&program.endpoint_id, &mut ready).await {
            Ok(requests) => requests,
            Err(error) => {
                drop(program);
                // An error means that the client has disconnected.
                let _ = ready.send(Err(error));
                return;
            }
        };
        // An error, here as well, means that the client has disconnected before the upgrade.
        let _ = ready.send(Ok(()));
        let Ok(Ok(socket)) = timeout(UPGRADE_MAX, socket).await else {
            requests.close().await;
            return;
        };
        let connection = Connection {
            requests,
            replies: Replies::new(
                self.publisher.clone(),
                self.topology.clone(),
                program.endpoint_id.clone(),
            ),
            store: self.store.clone(),
            stop: self.stop.clone(),
            program,
        };
        connection.run(socket).await;
    }

    /// Receives the relay's requests as soon as a former connection has ended. Gives up when the client does, and
    /// at once if another client waits for them already.
    async fn receive(
        &self,
        endpoint_id: &EndpointId,
        ready: &mut oneshot::Sender<Result<(), RelayError>>,
    ) -> Result<Requests, RelayError> {
        let Some(_waiter) = self.waiters.enter(endpoint_id) else {
            return Err(RelayError::Taken);
        };
        let deadline = Instant::now() + TAKE_OVER_MAX;
        loop {
            let received = Requests::receive(&self.link, &self.topology, endpoint_id).await;
            note(received.as_ref().err());
            match received {
                Err(RelayError::Taken) if Instant::now() < deadline => {}
                received => return received,
            }
            tokio::select! {
                () = sleep(TAKE_OVER_POLL) => {}
                () = ready.closed() => return Err(RelayError::Taken),
                () = self.stop.cancelled() => return Err(RelayError::Closed(Closed)),
            }
        }
    }

    /// Waits until all connections have ended, for a second at most, and closes the connection to the broker.
    pub(crate) async fn shutdown(&self) {
        self.tasks.close();
        if timeout(END_MAX, self.tasks.wait()).await.is_err() {
            tracing::debug!("not every connection of a relay has ended in time");
        }
        self.close.cancel();
        self.link.closed().await;
    }
}

/// Logs when the broker refuses the queues of relays, once a minute.
fn note(error: Option<&RelayError>) {
    static REFUSED: Lasting = Lasting::new();
    match error {
        // The link logs that there is no connection.
        None | Some(RelayError::Taken) => {
            REFUSED.end();
        }
        Some(RelayError::Closed(_) | RelayError::TimedOut) => {}
        Some(error @ (RelayError::Forbidden { .. } | RelayError::Refused(_))) => {
            if let Some(report) = REFUSED.again() {
                tracing::warn!(
                    error = display_chain(error),
                    requests = report.times,
                    "programs cannot connect to relays: they are answered with 503"
                );
            }
        }
    }
}
