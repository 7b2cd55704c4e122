//! The endpoints' server: it answers immediately, and records when each delivery first arrived.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use e2e::Certificates;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, BufReader, Lines},
    net::{TcpListener, TcpSocket},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Notify,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{event, process};

/// What a receiver expects, and how it answers.
#[derive(Clone, Deserialize, Serialize)]
pub struct Expected {
    /// The number of events, which are numbered from 0.
    pub events: usize,
    /// The number of endpoints of each event.
    pub fan_out: usize,
    /// The number of organizations. Event n belongs to organization n modulo this.
    pub organizations: usize,
    /// The first request of every n-th delivery is answered with 500; 0 for none.
    pub failing_every: usize,
    /// Whether it answers `Connection: close`.
    pub is_closing: bool,
    /// The file to which the receiver writes the certificate authority that its clients have to trust; `None`
    /// for plain HTTP.
    pub authority: Option<PathBuf>,
}

/// The process of a receiver.
pub struct Receiver {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// The scheme, host and port of its URLs.
    origin: String,
}

/// What a receiver has received.
#[derive(Deserialize, Serialize)]
pub struct Receipts {
    /// The number of requests, including those answered with 500.
    pub requests: usize,
    /// The number of connections that were opened.
    pub connections: u64,
    /// When each delivery was first answered with 200, in Unix nanoseconds; 0 if it was not.
    pub at_ns: Vec<u64>,
    /// When the first attempt of each delivery that has to fail was answered; 0 if there was none. Empty if
    /// no delivery has to fail.
    pub failed_ns: Vec<u64>,
}

/// The length of the accept queue. With the usual 128, some of the 256 connections that a client opens at
/// once are established a second later.
const CONNECTING_MAX: u32 = 4096;

impl Expected {
    /// Returns expectations of one delivery for each event, answered with 200.
    pub fn events(events: usize) -> Self {
        Self {
            events,
            fan_out: 1,
            organizations: 1,
            failing_every: 0,
            is_closing: false,
            authority: None,
        }
    }

    /// Returns the number of deliveries.
    pub fn deliveries(&self) -> usize {
        self.events * self.fan_out
    }

    /// Returns the number of first attempts that fail.
    pub fn failures(&self) -> usize {
        (0..self.deliveries())
            .filter(|delivery| self.fails(*delivery))
            .count()
    }

    fn fails(&self, delivery: usize) -> bool {
        self.failing_every > 0 && delivery.is_multiple_of(self.failing_every)
    }

    /// Returns the number of the delivery of an event to the endpoint with this path. Panics if the event
    /// does not belong to that endpoint.
    fn delivery(&self, event: usize, path: &str) -> usize {
        let mut numbers = path.trim_start_matches('/').split('/').map(str::parse::<usize>);
        let mut number = || {
            numbers
                .next()
                .expect("a path has two numbers")
                .expect("which are decimal")
        };
        let (organization, place) = (number(), number());
        assert_eq!(
            organization,
            event % self.organizations,
            "event {event} is not of {path}"
        );
        assert!(place < self.fan_out, "{path} is no endpoint");
        event * self.fan_out + place
    }
}

impl Receiver {
    /// Starts a receiver: this program with the arguments `receiver` and `expected`, which its `main` passes
    /// to [`run`].
    pub async fn start(expected: &Expected) -> Self {
        let mut child = Command::new(process::this())
            .args(["receiver", &serde_json::to_string(expected).unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let origin = lines.next_line().await.unwrap().expect("the receiver listens");
        Self {
            child,
            stdin,
            lines,
            origin,
        }
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it has not ended")
    }

    /// Returns the URL of an organization's endpoint, where `place` is its index among `fan_out` endpoints.
    pub fn url(&self, organization: usize, place: usize) -> String {
        format!("{}/{organization}/{place}", self.origin)
    }

    /// Waits until every delivery has arrived.
    pub async fn complete(&mut self, limit: Duration) {
        let line = timeout(limit, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("not every delivery arrived within {limit:?}: see the workers' logs, which --profile DIRECTORY keeps"));
        assert_eq!(line.unwrap().as_deref(), Some("complete"));
    }

    /// Stops the receiver, and returns what it has received.
    pub async fn end(mut self) -> Receipts {
        drop(self.stdin);
        let line = self.lines.next_line().await.unwrap();
        let receipts = serde_json::from_str(&line.expect("the receiver reports")).unwrap();
        assert!(self.child.wait().await.unwrap().success());
        receipts
    }
}

struct Seen {
    expected: Expected,
    requests: AtomicUsize,
    connections: AtomicU64,
    missing: AtomicUsize,
    complete: Notify,
    at_ns: Vec<AtomicU64>,
    failed_ns: Vec<AtomicU64>,
}

/// Runs the receiver. It prints its URL, then `complete` once it has every delivery, and, after the end of
/// standard input, its receipts.
pub async fn run(expected: Expected) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = socket.listen(CONNECTING_MAX).unwrap();
    let scheme = if expected.authority.is_some() {
        "https"
    } else {
        "http"
    };
    let deliveries = expected.deliveries();
    let never = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
    let seen = Arc::new(Seen {
        requests: AtomicUsize::new(0),
        connections: AtomicU64::new(0),
        missing: AtomicUsize::new(deliveries),
        complete: Notify::new(),
        at_ns: never(deliveries),
        failed_ns: never(if expected.failing_every > 0 { deliveries } else { 0 }),
        expected,
    });
    let address = listener.local_addr().unwrap();
    let tls = seen.expected.authority.as_ref().map(|file| {
        let certificates = Certificates::new();
        certificates.write_pem(file);
        certificates.good(&["http/1.1"])
    });
    tokio::spawn(serve(listener, tls, Arc::clone(&seen)));
    println!("{scheme}://{address}");
    let (mut stdin, mut nothing) = (tokio::io::stdin(), Vec::new());
    let mut ended = pin!(stdin.read_to_end(&mut nothing));
    let is_complete = tokio::select! {
        _ = &mut ended => false,
        () = seen.complete.notified() => true,
    };
    if is_complete {
        println!("complete");
        ended.await.unwrap();
    }
    println!("{}", serde_json::to_string(&seen.receipts()).unwrap());
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, seen: Arc<Seen>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = stream.set_nodelay(true);
        seen.connections.fetch_add(1, Relaxed);
        let (seen, tls) = (Arc::clone(&seen), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => converse(stream, &seen).await,
                // An error means that the client has closed the connection.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(stream, &seen).await;
                    }
                }
            }
        });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, seen: &Seen) {
    let service = service_fn(|request| answer(seen, request));
    // An error means that the client has closed the connection.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(seen: &Seen, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let mut response = Response::new(Empty::new());
    if let Ok(body) = body.collect().await {
        let event = event::number(&body.to_bytes()).expect("one of our events");
        *response.status_mut() = seen.note(seen.expected.delivery(event, parts.uri.path()));
    }
    if seen.expected.is_closing {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

impl Seen {
    /// Records a request of this delivery, and returns the status to answer with.
    fn note(&self, delivery: usize) -> StatusCode {
        let now_ns = now_ns();
        let is_first = |at: &AtomicU64| at.compare_exchange(0, now_ns, Relaxed, Relaxed).is_ok();
        self.requests.fetch_add(1, Relaxed);
        if self.expected.fails(delivery) && is_first(&self.failed_ns[delivery]) {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        if is_first(&self.at_ns[delivery]) && self.missing.fetch_sub(1, Relaxed) == 1 {
            self.complete.notify_one();
        }
        StatusCode::OK
    }

    fn receipts(&self) -> Receipts {
        let load = |times: &[AtomicU64]| times.iter().map(|at| at.load(Relaxed)).collect();
        Receipts {
            requests: self.requests.load(Relaxed),
            connections: self.connections.load(Relaxed),
            at_ns: load(&self.at_ns),
            failed_ns: load(&self.failed_ns),
        }
    }
}

/// Returns the current time in Unix nanoseconds.
#[expect(clippy::disallowed_methods, reason = "`now_ms` is too coarse")]
pub(crate) fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos() as u64
}
