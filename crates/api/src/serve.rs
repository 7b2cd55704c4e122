//! The listener: connections with a bound on their number and on their patience, and an end in two steps.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use runtime::Lasting;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::config::{CONNECTIONS_MAX, HEADERS_TIMEOUT};

/// Mostly file descriptors that have run out: connections that end give some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` is cancelled; then requests in flight have until the deadline.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    stop: &CancellationToken,
    deadline: Duration,
) {
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Some((stream, slot)) = next(&listener, &slots, stop).await {
        let service = TowerToHyperService::new(router.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // An error is the client's going away.
            let _ = connection.await;
            drop(slot);
        });
    }
    drop(listener);
    if timeout(deadline, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests in flight are given up: shutdown.deadline has passed");
    }
}

/// The next connection and its slot; none once `stop` is cancelled.
async fn next(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let accepting = async {
        let slot = Arc::clone(slots).acquire_owned().await;
        let slot = slot.expect("nobody closes the semaphore");
        (accept(listener).await, slot)
    };
    let (stream, slot) = stop.run_until_cancelled(accepting).await?;
    // Answers are small, and wait for nothing.
    let _ = stream.set_nodelay(true);
    Some((stream, slot))
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
