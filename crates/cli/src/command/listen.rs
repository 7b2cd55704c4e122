//! `magnetite listen`: a receiver like a customer's, for trying things out.
//!
//! It verifies both signatures as the contract requires and answers 401 if either is wrong. It answers
//! verified requests as `--fail` says and then with 200, or as the application of `--forward` does. It stores
//! nothing on disk. It is not a server for production: it has no TLS and prints every body.

mod answer;
mod forward;
mod seen;
mod verification;
mod request;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use signature::Verifier;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{Usage, limits, output, signals};

use super::arguments;

use answer::{Answer, Plan};
use forward::Forward;
use seen::Seen;

/// The maximum number of connections, which is more than any worker opens to one endpoint.
const CONNECTIONS_MAX: usize = 16_384;
/// The maximum time for requests in flight when the receiver ends.
const GRACE: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The endpoint's secret, whsec_...; give both secrets during a rotation
    #[arg(
        long,
        required = true,
        env = "WEBHOOK_SECRET",
        hide_env_values = true,
        value_delimiter = ','
    )]
    secret: Vec<String>,
    /// The address to listen on; port 0 chooses any free port
    #[arg(long, default_value = "127.0.0.1:9000")]
    addr: SocketAddr,
    /// Answers to give in turn, then 200: a status, ok, hang (never answer) or drop (close the connection)
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    fail: Vec<Answer>,
    /// Start --fail from the beginning for every event, instead of once for all requests
    #[arg(long, requires = "fail")]
    fail_each: bool,
    /// Exit after this many verified requests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Forward verified requests to this URL, with their headers and exact bytes, and return its answer; 502
    /// if it does not answer
    #[arg(long, value_name = "URL", conflicts_with = "fail")]
    forward: Option<String>,
    #[command(flatten)]
    trust: arguments::Trust,
    /// Print bodies as received, on one line, and no headers
    #[arg(long)]
    compact: bool,
    /// Print one JSON object per line, for each request
    #[arg(long)]
    json: bool,
}

type Print = dyn Fn(&str) -> Result<(), output::Closed> + Send + Sync;

/// The state that all connections share.
struct Receiver {
    verifier: Verifier,
    plan: Plan,
    forward: Option<Forward>,
    seen: Seen,
    json: bool,
    compact: bool,
    count: Option<u64>,
    /// The number of requests so far.
    received: AtomicU64,
    verified: AtomicU64,
    /// Cancelled when enough requests were verified, on a signal, or when standard output is closed.
    done: CancellationToken,
    closed: OnceLock<output::Closed>,
    /// Writes the text that is printed for one request.
    print: Box<Print>,
}

/// Receives requests until a signal arrives or `--count` is reached.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let secrets: Vec<_> = arguments
        .secret
        .iter()
        .map(|text| arguments::secret(text))
        .collect::<Result<_, _>>()?;
    if let Err(error) = limits::raise_descriptors() {
        tracing::warn!(%error, "cannot raise the limit of file descriptors");
    }
    let forward = arguments.forward.as_deref();
    if forward.is_none() && arguments.trust.is_given() {
        bail!(Usage(
            "--cacert and --insecure apply only to --forward, which is not given".to_owned()
        ));
    }
    let forward = forward
        .map(|url| Forward::to(url, &arguments.trust))
        .transpose()?;
    let addr = arguments.addr;
    let listener = TcpListener::bind(addr)
        .await
        .with_context(|| format!("cannot listen on {addr}; choose another address with --addr"))?;
    let stop = signals::stop_on_signal()?;
    let receiver = Arc::new(Receiver {
        verifier: Verifier::new(&secrets),
        plan: Plan::new(arguments.fail, arguments.fail_each),
        forward,
        seen: Seen::default(),
        json: arguments.json,
        compact: arguments.compact,
        count: arguments.count,
        received: AtomicU64::new(0),
        verified: AtomicU64::new(0),
        done: stop,
        closed: OnceLock::new(),
        print: Box::new(output::line),
    });
    greet(listener.local_addr().unwrap_or(addr));
    Arc::clone(&receiver).serve(listener).await;
    match Arc::into_inner(receiver).and_then(|receiver| receiver.closed.into_inner()) {
        Some(closed) => Err(closed.into()),
        None => Ok(()),
    }
}

fn greet(addr: SocketAddr) {
    output::note(&format!("listening on http://{addr}/"));
    output::note(&format!(
        "register it:  magnetite endpoint create --org ORGANIZATION --url http://{addr}/webhook"
    ));
    if addr.ip().is_loopback() {
        output::note(
            "this needs:   MAGNETITE_EGRESS__ALLOW=127.0.0.0/8,::1/128 for that command and for the worker",
        );
    }
}

impl Receiver {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Some(accepted) = self.done.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => drop(connections.spawn(Arc::clone(&self).converse(stream))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
            if connections.len() >= CONNECTIONS_MAX {
                connections.join_next().await;
            }
        }
        let ended = async { while connections.join_next().await.is_some() {} };
        // Aborts requests that `--fail` keeps hanging.
        let _ = timeout(GRACE, ended).await;
        connections.shutdown().await;
    }

    async fn converse(self: Arc<Self>, stream: TcpStream) {
        // Without this, batched answers would make the receiver look slow.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| self.answer(request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.done.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

#[cfg(test)]
mod tests;
