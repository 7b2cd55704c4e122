//! The endpoint's server: answers 200 at once, and notes when each event first arrived.

use std::{
    convert::Infallible,
    pin::pin,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Notify,
    time::timeout,
};

use crate::{event, process};

/// A receiver's process.
pub(crate) struct Receiver {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    address: String,
}

/// What arrived.
pub(crate) struct Receipts {
    pub(crate) requests: u64,
    pub(crate) connections: u64,
    /// When each event first arrived, in Unix nanoseconds; 0 if it did not.
    pub(crate) at_ns: Vec<u64>,
}

impl Receiver {
    /// Starts a receiver of events 0 to `events`.
    pub(crate) async fn start(events: usize) -> Self {
        let mut child = Command::new(process::this())
            .args(["receiver", &events.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next_line().await.unwrap().expect("the receiver listens");
        Self {
            child,
            stdin,
            lines,
            address,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Waits until every event has arrived.
    pub(crate) async fn complete(&mut self, limit: Duration) {
        let line = timeout(limit, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("not every event arrived within {limit:?}"));
        assert_eq!(line.unwrap().as_deref(), Some("complete"));
    }

    /// Ends it.
    pub(crate) async fn end(mut self) -> Receipts {
        drop(self.stdin);
        let line = self
            .lines
            .next_line()
            .await
            .unwrap()
            .expect("the receiver reports");
        let report: Value = serde_json::from_str(&line).unwrap();
        assert!(self.child.wait().await.unwrap().success());
        Receipts {
            requests: report["requests"].as_u64().unwrap(),
            connections: report["connections"].as_u64().unwrap(),
            at_ns: serde_json::from_value(report["at_ns"].clone()).unwrap(),
        }
    }
}

struct Seen {
    requests: AtomicU64,
    connections: AtomicU64,
    missing: AtomicUsize,
    complete: Notify,
    at_ns: Vec<AtomicU64>,
}

/// The receiver: prints its address, `complete` when it has every event, and after the end of standard input what it saw.
pub(crate) async fn run(events: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let seen = Arc::new(Seen {
        requests: AtomicU64::new(0),
        connections: AtomicU64::new(0),
        missing: AtomicUsize::new(events),
        complete: Notify::new(),
        at_ns: (0..events).map(|_| AtomicU64::new(0)).collect(),
    });
    tokio::spawn(serve(listener, Arc::clone(&seen)));
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
    let at_ns: Vec<_> = seen.at_ns.iter().map(|at| at.load(Relaxed)).collect();
    let (requests, connections) = (seen.requests.load(Relaxed), seen.connections.load(Relaxed));
    println!(
        "{}",
        json!({"requests": requests, "connections": connections, "at_ns": at_ns})
    );
}

async fn serve(listener: TcpListener, seen: Arc<Seen>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = stream.set_nodelay(true);
        seen.connections.fetch_add(1, Relaxed);
        let seen = Arc::clone(&seen);
        let service = service_fn(move |request| answer(Arc::clone(&seen), request));
        // An error is the client's going away.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(seen: Arc<Seen>, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    if let Ok(body) = request.into_body().collect().await {
        let number = event::number(&body.to_bytes()).expect("one of our events");
        seen.note(number);
    }
    Ok(Response::new(Empty::new()))
}

impl Seen {
    fn note(&self, number: usize) {
        let at_ns = now_ns();
        self.requests.fetch_add(1, Relaxed);
        let first = self.at_ns[number].compare_exchange(0, at_ns, Relaxed, Relaxed);
        if first.is_ok() && self.missing.fetch_sub(1, Relaxed) == 1 {
            self.complete.notify_one();
        }
    }
}

/// Unix nanoseconds.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos() as u64
}
