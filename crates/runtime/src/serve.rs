//! Serves HTTP with limits on the number and the idle time of connections, and shuts down gracefully, then
//! forcibly.
//!
//! A connection may be upgraded to another protocol. It then belongs to the handler that has upgraded it, which keeps
//! the [`Answering`] of its request: until that is dropped, the connection keeps its place. A shutdown does not wait
//! for upgraded connections.

mod connections;

use std::{pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::Lasting;
use connections::{Connections, Open};

pub use connections::Answering;

/// How long to wait after accepting a connection failed. The usual reason is that there are no free file
/// descriptors; connections that end release some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The maximum number of bytes that a connection reads ahead, in bytes. It also limits the size of a
/// request's head.
const READ_AHEAD_BYTES_MAX: usize = 64 * 1024;

/// The limits of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The maximum number of open connections. A further connection replaces another one: the oldest without
    /// a request, or else the one that has waited longest.
    pub connections_max: usize,
    /// The maximum time to receive the headers of a request, and to stay open without a request.
    pub headers_timeout: Duration,
    /// How long requests in flight may continue after a shutdown begins.
    pub shutdown_deadline: Duration,
}

/// Serves until `stop` is cancelled. After that, requests in flight may continue until the deadline.
pub async fn serve(listener: TcpListener, router: Router, stop: &CancellationToken, bounds: Bounds) {
    let tasks = TaskTracker::new();
    let connections = Connections::new(bounds.connections_max);
    while let Some((stream, open)) = next(&listener, &connections, stop).await {
        tasks.spawn(converse(
            stream,
            Arc::new(open),
            router.clone(),
            bounds,
            stop.clone(),
        ));
    }
    drop(listener);
    tasks.close();
    if timeout(bounds.shutdown_deadline, tasks.wait()).await.is_err() {
        tracing::warn!(
            "abandoning requests in flight: the shutdown deadline has passed (shutdown.deadline; 1 s for probes)"
        );
    }
}

/// Answers the requests of a connection until it ends, is upgraded, or has to give its place to another. Once `stop` is
/// cancelled, only finishes the request in progress.
async fn converse(
    stream: TcpStream,
    open: Arc<Open>,
    router: Router,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let (router, answering) = (TowerToHyperService::new(router), Arc::clone(&open));
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let answering = Arc::new(Answering::of(&answering));
        request.extensions_mut().insert(Arc::clone(&answering));
        let answered = hyper::service::Service::call(&router, request);
        async move {
            let answer = answered.await;
            drop(answering);
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.headers_timeout)
        .max_buf_size(READ_AHEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let (mut connection, mut closed) = (pin!(connection), pin!(open.closed()));
    tokio::select! {
        // An error means that the client has closed the connection.
        _ = connection.as_mut() => return,
        () = closed.as_mut() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = closed => {}
    }
}

/// Returns the next connection and its place; `None` once `stop` is cancelled.
async fn next(
    listener: &TcpListener,
    connections: &Connections,
    stop: &CancellationToken,
) -> Option<(TcpStream, Open)> {
    let accepting = async {
        let stream = accept(listener).await;
        (stream, connections.open().await)
    };
    let (stream, open) = stop.run_until_cancelled(accepting).await?;
    // Responses are small and should be sent at once. A failure is harmless.
    let _ = stream.set_nodelay(true);
    Some((stream, open))
}

async fn accept(listener: &TcpListener) -> TcpStream {
    /// Tracks failures to accept connections, of all listeners.
    static REFUSED: Lasting = Lasting::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                REFUSED.end();
                return stream;
            }
            Err(error) => {
                if REFUSED.again().is_some() {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
