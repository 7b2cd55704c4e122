//! A listener: connections with a bound on their number and on their patience, and an end in two steps.

mod connections;

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::Lasting;
use connections::{Connections, Open};

/// Mostly file descriptors that have run out: connections that end give some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The most bytes that a connection reads ahead of what is worked on, and so of a request's head.
const READ_AHEAD_BYTES_MAX: usize = 64 * 1024;

/// The bounds of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most open connections. A further one takes the place of another: the oldest without a request, or
    /// the one that has waited longest.
    pub connections_max: usize,
    /// How long the headers of a request may take, and a connection stay open without one.
    pub headers_timeout: Duration,
    /// How long requests in flight may go on after the shutdown began.
    pub shutdown_deadline: Duration,
}

/// Serves until `stop` is cancelled; then requests in flight have until the deadline.
pub async fn serve(listener: TcpListener, router: Router, stop: &CancellationToken, bounds: Bounds) {
    let graceful = GracefulShutdown::new();
    let connections = Connections::new(bounds.connections_max);
    while let Some((stream, open)) = next(&listener, &connections, stop).await {
        let open = Arc::new(open);
        let (router, answering) = (TowerToHyperService::new(router.clone()), Arc::clone(&open));
        let service = service_fn(move |request| {
            let answering = answering.answering();
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
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            tokio::select! {
                // An error is the client's going away.
                _ = connection => {}
                () = open.closed() => {}
            }
        });
    }
    drop(listener);
    if timeout(bounds.shutdown_deadline, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("requests in flight are given up: shutdown.deadline has passed");
    }
}

/// The next connection and its place; none once `stop` is cancelled.
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
    // Answers are small, and wait for nothing.
    let _ = stream.set_nodelay(true);
    Some((stream, open))
}

async fn accept(listener: &TcpListener) -> TcpStream {
    /// No connection is accepted, on any listener.
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
