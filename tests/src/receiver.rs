//! The server of an endpoint.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use signature::{Secret, TOLERANCE_S, Verifier};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Notify,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::now_ms;

/// A request as the receiver received it.
#[derive(Clone, Debug)]
pub struct Request {
    /// When its body was complete.
    pub at: Instant,
    /// When its body was complete, in Unix milliseconds.
    pub at_ms: u64,
    /// The path and the query.
    pub path: String,
    /// The headers, with names in lower case.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: Bytes,
    /// The `lead_id` in the body; empty if there is none.
    pub lead: String,
}

/// How the receiver answers a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With this status and these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// With this status and this body.
    Body(u16, &'static str),
    /// With this status, after this delay.
    Late(Duration, u16),
    /// With 200, but not before [`Receiver::release`] is called.
    Hang,
}

/// A receiver that listens on loopback, records every request, and answers as the test specifies. Dropping it
/// closes the socket.
pub struct Receiver {
    address: SocketAddr,
    scheme: &'static str,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

type Respond = dyn Fn(&Request, usize) -> Answer + Send + Sync;

struct State {
    log: Mutex<Log>,
    respond: Box<Respond>,
    release: Notify,
    released: AtomicBool,
    connections: AtomicUsize,
    connections_max: AtomicUsize,
}

#[derive(Default)]
struct Log {
    requests: Vec<Request>,
    /// The number of requests for each event.
    by_event: HashMap<String, usize>,
    /// The receipts for each lead.
    by_lead: HashMap<String, Vec<Receipt>>,
    /// The number of leads for which at least one request was accepted.
    accepted: usize,
}

/// A request about a lead.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    /// When its body was complete.
    pub at: Instant,
    /// Whether the receiver answers it with 2xx. The receiver does not know whether the answer arrives.
    pub accepted: bool,
}

impl Log {
    /// Adds a receipt, and returns its index among the receipts for this lead.
    fn enter(&mut self, lead: &str, at: Instant) -> usize {
        let receipts = self.by_lead.entry(lead.to_owned()).or_default();
        receipts.push(Receipt { at, accepted: false });
        receipts.len() - 1
    }

    fn accept(&mut self, lead: &str, number: usize) {
        let receipts = self.by_lead.get_mut(lead).expect("it was entered when it came");
        self.accepted += usize::from(receipts.iter().all(|receipt| !receipt.accepted));
        receipts[number].accepted = true;
    }
}

impl Answer {
    /// Returns an answer with this status, without headers or a body.
    pub fn status(status: u16) -> Self {
        Self::Status(status, Vec::new())
    }

    fn is_accepting(&self) -> bool {
        match self {
            Self::Status(status, _) | Self::Body(status, _) | Self::Late(_, status) => {
                (200..300).contains(status)
            }
            Self::Hang => false,
        }
    }
}

impl Receiver {
    /// Starts a receiver that answers every request with 200.
    pub async fn ok() -> Self {
        Self::new(|_, _| Answer::status(200)).await
    }

    /// Starts a receiver that answers as `respond` says. `respond` receives the request and the number of
    /// earlier requests with the same `webhook-id`.
    pub async fn new(respond: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").await.unwrap(), respond)
    }

    /// Like [`Receiver::new`], with TLS.
    pub async fn secure(
        tls: TlsAcceptor,
        respond: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serving(listener, Some(tls), respond)
    }

    /// Like [`Receiver::new`], on a socket that is already listening.
    pub fn at(
        listener: TcpListener,
        respond: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::serving(listener, None, respond)
    }

    fn serving(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        respond: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(State {
            log: Mutex::default(),
            respond: Box::new(respond),
            release: Notify::new(),
            released: AtomicBool::default(),
            connections: AtomicUsize::default(),
            connections_max: AtomicUsize::default(),
        });
        let serving = tokio::spawn(serve(listener, tls, Arc::clone(&state)));
        Self {
            address,
            scheme,
            state,
            serving,
        }
    }

    /// Returns the URL to register.
    pub fn url(&self) -> String {
        format!("{}://{}/hook", self.scheme, self.address)
    }

    /// Returns all requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.state.log.lock().unwrap().requests.clone()
    }

    /// Returns the number of requests so far.
    pub fn count(&self) -> usize {
        self.state.log.lock().unwrap().requests.len()
    }

    /// Returns the number of distinct events received so far.
    pub fn distinct(&self) -> usize {
        self.state.log.lock().unwrap().by_event.len()
    }

    /// Returns the number of leads for which at least one request was accepted so far.
    pub fn accepted(&self) -> usize {
        self.state.log.lock().unwrap().accepted
    }

    /// Returns the attempt numbers of the requests so far for each lead, in order of arrival.
    pub fn attempts(&self) -> HashMap<String, Vec<u32>> {
        let mut attempts: HashMap<_, Vec<_>> = HashMap::new();
        for request in self.requests() {
            attempts
                .entry(request.lead.clone())
                .or_default()
                .push(request.attempt());
        }
        attempts
    }

    /// Panics unless every event was received with exactly these attempt numbers.
    pub fn assert_attempts(&self, expected: &[u32]) {
        for (lead, attempts) in self.attempts() {
            assert_eq!(attempts, expected, "attempts of {lead} at {}", self.address);
        }
    }

    /// Returns the time from each publish to the first request about its lead, in milliseconds. Panics if a
    /// lead was not received.
    pub fn latencies_ms(&self, published: &[(String, Instant)]) -> Vec<f64> {
        let receipts = self.receipts();
        let took = published.iter().map(|(lead, at)| receipts[lead][0].at - *at);
        took.map(|took| took.as_secs_f64() * 1000.0).collect()
    }

    /// Returns the receipts so far for each lead.
    pub fn receipts(&self) -> HashMap<String, Vec<Receipt>> {
        self.state.log.lock().unwrap().by_lead.clone()
    }

    /// Returns the maximum number of connections that were open at the same time.
    pub fn connections_max(&self) -> usize {
        self.state.connections_max.load(Ordering::SeqCst)
    }

    /// Answers every request that hangs, and lets later requests be answered without hanging.
    pub fn release(&self) {
        self.state.released.store(true, Ordering::SeqCst);
        self.state.release.notify_waiters();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Request {
    /// Returns the value of a header. Panics if the header is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers))
    }

    /// Returns the header `webhook-id`.
    pub fn event_id(&self) -> String {
        self.header("webhook-id").to_owned()
    }

    /// Returns the header `x-magnetite-delivery`.
    pub fn delivery_id(&self) -> &str {
        self.header("x-magnetite-delivery")
    }

    /// Returns the header `x-magnetite-attempt`.
    pub fn attempt(&self) -> u32 {
        self.header("x-magnetite-attempt").parse().unwrap()
    }

    /// Returns the body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Panics unless both signatures are valid.
    pub fn verify(&self, secret: &str) {
        let verifier = Verifier::new(&[Secret::parse(secret).unwrap()]);
        verifier
            .verify(&self.body, self.header(signature::SIGNATURE_HEADER))
            .unwrap();
        let (id, timestamp) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let now_s = (self.at_ms / 1000) as i64;
        let signatures = self.header("webhook-signature");
        verifier
            .verify_standard(id, timestamp, signatures, &self.body, now_s, TOLERANCE_S)
            .unwrap();
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = stream.set_nodelay(true);
        let (state, tls) = (Arc::clone(&state), tls.clone());
        let open = state.connections.fetch_add(1, Ordering::SeqCst) + 1;
        state.connections_max.fetch_max(open, Ordering::SeqCst);
        connections.spawn(async move {
            match tls {
                None => converse(stream, &state).await,
                // An error means that the client does not trust the certificate.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(stream, &state).await;
                    }
                }
            }
            state.connections.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: S, state: &Arc<State>) {
    let service = service_fn(|request| respond(Arc::clone(state), request));
    // An error means that the client has closed the connection.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(
    state: Arc<State>,
    request: hyper::Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    // A request whose body was cut off does not count as received. The client has disconnected, so the
    // response does not matter.
    let Ok(body) = body.collect().await else {
        return Ok(Response::new(Full::default()));
    };
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let body = body.to_bytes();
    let lead = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|json| Some(json["lead_id"].as_str()?.to_owned()));
    let request = Request {
        at: Instant::now(),
        at_ms: now_ms(),
        path: parts.uri.to_string(),
        headers: parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        lead: lead.unwrap_or_default(),
        body,
    };
    let lead = request.lead.clone();
    let (answer, number) = {
        let mut log = state.log.lock().unwrap();
        let seen = log.by_event.entry(request.event_id()).or_default();
        let answer = (state.respond)(&request, *seen);
        *seen += 1;
        let number = log.enter(&lead, request.at);
        if answer.is_accepting() {
            log.accept(&lead, number);
        }
        log.requests.push(request);
        (answer, number)
    };
    Ok(match answer {
        Answer::Status(status, headers) => {
            let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Full::default()).unwrap()
        }
        Answer::Body(status, body) => {
            let response = Response::builder().status(StatusCode::from_u16(status).unwrap());
            response.body(Full::from(body)).unwrap()
        }
        Answer::Late(after, status) => {
            tokio::time::sleep(after).await;
            let response = Response::builder().status(StatusCode::from_u16(status).unwrap());
            response.body(Full::default()).unwrap()
        }
        Answer::Hang => {
            let released = state.release.notified();
            if !state.released.load(Ordering::SeqCst) {
                released.await;
            }
            state.log.lock().unwrap().accept(&lead, number);
            Response::new(Full::default())
        }
    })
}
