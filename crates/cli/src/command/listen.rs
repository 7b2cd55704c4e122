//! `magnetite listen`: a receiver like a customer's, for trying things out.
//!
//! It verifies both signatures as the contract requires and answers 401 if either is wrong. It answers
//! verified requests as `--fail` says and then with 200, or as the application of `--forward` does. It stores
//! nothing on disk. It is not a server for production: it has no TLS and prints every body.
//!
//! Requests arrive on a port of this machine or, over the HTTP API, as those of a relay, which lives as long as this
//! command. `request` treats both in the same way.

mod answer;
mod forward;
mod seen;
mod verification;
mod request;
mod relay;

use std::{
    env,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
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
    sync::Mutex,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use webhook::Subscription;

use crate::{
    Usage,
    configuration::{self, Place},
    limits, output,
    remote::{self, Chooser, Remote},
    signals,
};

use super::arguments;

use answer::{Answer, Plan};
use forward::Forward;
use relay::Relay;
use seen::Seen;

/// The maximum number of connections, which is more than any worker opens to one endpoint.
const CONNECTIONS_MAX: usize = 16_384;
/// The maximum time for requests in flight when the receiver ends.
const GRACE: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The default address.
const ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9000);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The endpoint's secret, whsec_...; give both secrets during a rotation. Over the HTTP API, none is given
    #[arg(long, env = "WEBHOOK_SECRET", hide_env_values = true, value_delimiter = ',')]
    secret: Vec<String>,
    /// The address to listen on, by default 127.0.0.1:9000; port 0 chooses any free port
    #[arg(long)]
    addr: Option<SocketAddr>,
    /// Over the HTTP API: the event types to receive, such as lead.completed,research.*, instead of all
    #[arg(long, value_name = "LIST")]
    events: Option<Subscription>,
    /// Over the HTTP API: receive only this project's events
    #[arg(long, value_parser = arguments::id)]
    project: Option<String>,
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
    plan: Plan,
    forward: Option<Forward>,
    seen: Seen,
    json: bool,
    compact: bool,
    count: Option<u64>,
    /// The number of requests so far.
    received: AtomicU64,
    verified: AtomicU64,
    /// Cancelled on a signal.
    stop: CancellationToken,
    /// Cancelled when enough requests were verified, on a signal, or when standard output is closed.
    done: CancellationToken,
    closed: OnceLock<output::Closed>,
    /// Writes the text that is printed for one request.
    print: Arc<Print>,
    /// Locked while a request is printed, so that at most one thread waits for standard output.
    printing: Mutex<()>,
}

/// Receives requests until a signal arrives or `--count` is reached. `config` is the file of `--config`.
pub(super) async fn run(
    arguments: Arguments,
    options: &remote::Options,
    config: Option<&Path>,
) -> anyhow::Result<()> {
    let api = arguments.api(options, config)?;
    // Before anything is opened, so that it is closed again.
    let stop = signals::stop_on_signal()?;
    if let Err(error) = limits::raise_descriptors() {
        tracing::warn!(%error, "cannot raise the limit of file descriptors");
    }
    match api {
        None => on_port(arguments, stop).await,
        Some(api) => over_api(arguments, &api, stop).await,
    }
}

/// Receives the requests that arrive on a port.
async fn on_port(arguments: Arguments, stop: CancellationToken) -> anyhow::Result<()> {
    let secrets: Vec<_> = arguments
        .secret
        .iter()
        .map(|text| arguments::secret(text))
        .collect::<Result<_, _>>()?;
    let forward = arguments.forwarder()?;
    let addr = arguments.addr.unwrap_or(ADDR);
    let listener = TcpListener::bind(addr)
        .await
        .with_context(|| format!("cannot listen on {addr}; choose another address with --addr"))?;
    let receiver = Receiver::new(arguments, forward, stop);
    greet(listener.local_addr().unwrap_or(addr));
    let verifier = Arc::new(Verifier::new(&secrets));
    Arc::clone(&receiver).serve(listener, verifier).await;
    ended(receiver)
}

/// Receives the requests of a relay.
async fn over_api(arguments: Arguments, api: &Remote, stop: CancellationToken) -> anyhow::Result<()> {
    let forward = arguments.forwarder()?;
    let relay = Relay::new(api, arguments.events.as_ref(), arguments.project.clone())?;
    let receiver = Receiver::new(arguments, forward, stop);
    let served = relay.run(&receiver).await;
    served.and_then(|()| ended(receiver))
}

/// Returns an error if standard output was closed.
fn ended(receiver: Arc<Receiver>) -> anyhow::Result<()> {
    match Arc::into_inner(receiver).and_then(|receiver| receiver.closed.into_inner()) {
        Some(closed) => Err(closed.into()),
        None => Ok(()),
    }
}

impl Arguments {
    /// Returns the HTTP API whose requests are received; `None` if requests are received on a port. With a secret,
    /// neither a variable nor the default profile chooses an API.
    fn api(&self, options: &remote::Options, config: Option<&Path>) -> anyhow::Result<Option<Remote>> {
        if self.secret.is_empty() {
            let place = configuration::given_by(config);
            let chooser = if place.is_some() {
                Chooser::Variables
            } else {
                Chooser::DefaultProfile
            };
            let api = Remote::chosen(options, chooser, |name| env::var_os(name))?;
            return match api {
                Some(_) if self.addr.is_some() => usage(
                    "--addr is for requests that arrive on a port: give the endpoint's secret with --secret or WEBHOOK_SECRET",
                ),
                Some(api) => Ok(Some(api)),
                None => usage(&nothing_given(place.as_ref())),
            };
        }
        if options.choose_api() {
            return usage(
                "omit --secret and unset WEBHOOK_SECRET: over the HTTP API, which --api or --profile chooses, the API names the secret",
            );
        }
        if self.events.is_some() || self.project.is_some() {
            return usage(
                "--events and --project apply only over the HTTP API, without --secret and WEBHOOK_SECRET",
            );
        }
        Ok(None)
    }

    /// Returns what forwards verified requests, if they are to be forwarded.
    fn forwarder(&self) -> anyhow::Result<Option<Forward>> {
        let Some(url) = &self.forward else {
            if self.trust.is_given() {
                bail!(Usage(
                    "--cacert and --insecure apply only to --forward, which is not given".to_owned()
                ));
            }
            return Ok(None);
        };
        Forward::to(url, &self.trust).map(Some)
    }
}

fn usage<T>(text: &str) -> anyhow::Result<T> {
    Err(Usage(text.to_owned()).into())
}

/// Returns the message that there is neither a secret nor an API. `place` is the reason why there is a configuration,
/// which precedes the default profile.
fn nothing_given(place: Option<&Place>) -> String {
    let needed =
        "give the endpoint's secret with --secret or WEBHOOK_SECRET, or receive events over the HTTP API";
    match (Remote::of_default_profile(|name| env::var_os(name)), place) {
        (Some(profile), Some(place)) => format!("{needed}; {}", profile.unused(place)),
        _ => format!("{needed}: `magnetite login`, or --api"),
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
    /// Creates a receiver that ends when `stop` is cancelled.
    fn new(arguments: Arguments, forward: Option<Forward>, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            plan: Plan::new(arguments.fail, arguments.fail_each),
            forward,
            seen: Seen::default(),
            json: arguments.json,
            compact: arguments.compact,
            count: arguments.count,
            received: AtomicU64::new(0),
            verified: AtomicU64::new(0),
            done: stop.child_token(),
            stop,
            closed: OnceLock::new(),
            print: Arc::new(output::line),
            printing: Mutex::default(),
        })
    }

    /// Says that the command is ending, if a signal ends it.
    fn tell_end(&self) {
        if self.stop.is_cancelled() {
            output::note("ending; a second signal ends at once");
        }
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, verifier: Arc<Verifier>) {
        let mut connections = JoinSet::new();
        while let Some(accepted) = self.done.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    connections.spawn(Arc::clone(&self).converse(stream, Arc::clone(&verifier)));
                }
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
        self.tell_end();
        let ended = async { while connections.join_next().await.is_some() {} };
        // Aborts requests that `--fail` keeps hanging.
        let _ = timeout(GRACE, ended).await;
        let _ = timeout(GRACE, connections.shutdown()).await;
    }

    async fn converse(self: Arc<Self>, stream: TcpStream, verifier: Arc<Verifier>) {
        // Without this, batched answers would make the receiver look slow.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| self.answer_http(&verifier, request));
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
