//! Tests the listener over real sockets, with clients that send nothing or half a request.

use std::{
    convert::Infallible,
    future::{pending, ready},
    io::ErrorKind,
    net::SocketAddr,
    sync::Arc,
};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::Request,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use futures_util::{StreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Notify,
    time::Instant,
};
use tokio_util::sync::DropGuard;

use super::*;

const PLACES: usize = 4;
const BOUNDS: Bounds = Bounds {
    connections_max: PLACES,
    headers_timeout: Duration::from_mins(1),
    shutdown_deadline: Duration::ZERO,
};
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n";

/// Starts a server that responds at once, or at `/slow` when `release` is notified.
async fn served(release: Arc<Notify>) -> (SocketAddr, DropGuard) {
    let slow = move || async move {
        release.notified().await;
        "slow"
    };
    let router = Router::new()
        .route("/", get(async || "quick"))
        .route("/slow", get(slow))
        .route("/endless", get(endless))
        .route("/upgrade", get(upgrade));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move { serve(listener, router, &stopping, BOUNDS).await });
    (address, stop.drop_guard())
}

/// Returns a response whose body does not end.
async fn endless(Extension(answering): Extension<Arc<Answering>>) -> Body {
    let rest = async move {
        pending::<()>().await;
        drop(answering);
        Bytes::new()
    };
    let parts = stream::once(ready(Bytes::from_static(b"begun"))).chain(stream::once(rest));
    Body::from_stream(parts.map(Ok::<_, Infallible>))
}

/// Upgrades the connection, and then sends back what arrives. Closes the connection when `close` arrives.
async fn upgrade(Extension(answering): Extension<Arc<Answering>>, mut request: Request) -> impl IntoResponse {
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut upgraded = TokioIo::new(upgrading.await.unwrap());
        let echo = async {
            let mut bytes = [0; 64];
            while let Ok(read @ 1..) = upgraded.read(&mut bytes).await {
                if &bytes[..read] == b"close" {
                    answering.close();
                }
                upgraded.write_all(&bytes[..read]).await.unwrap();
            }
        };
        tokio::select! {
            () = echo => {}
            () = answering.closed() => {}
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "echo")];
    (StatusCode::SWITCHING_PROTOCOLS, headers)
}

/// Opens a connection and upgrades it.
async fn upgraded(address: SocketAddr) -> TcpStream {
    let mut stream = send(
        address,
        b"GET /upgrade HTTP/1.1\r\nHost: api\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
    )
    .await;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let part = read(&mut stream).await;
        assert_ne!(part, "", "{head}");
        head += &part;
    }
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    stream
}

async fn echoes(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    assert_eq!(read(stream).await, text);
}

async fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Reads the next bytes; an empty string means that the connection was closed.
async fn read(stream: &mut TcpStream) -> String {
    let mut answer = vec![0; 4096];
    let read = timeout(Duration::from_secs(10), stream.read(&mut answer)).await;
    let read = read.expect("something within 10 s").unwrap_or_default();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn connections_that_send_nothing_keep_nobody_out() {
    let (address, _stop) = served(Arc::default()).await;
    let mut silent = Vec::new();
    for number in 0..100 {
        let half: &[u8] = if number % 2 == 0 {
            b""
        } else {
            b"GET / HTTP/1.1\r\nHost:"
        };
        silent.push(send(address, half).await);
        let began = Instant::now();
        let answer = read(&mut send(address, REQUEST).await).await;
        assert!(answer.ends_with("quick"), "{answer}");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    for stream in &mut silent[..100 - PLACES] {
        assert_eq!(read(stream).await, "", "the oldest are closed");
    }
}

#[tokio::test]
async fn what_has_sent_requests_is_closed_after_what_has_sent_none_and_never_while_it_is_answered() {
    let release = Arc::new(Notify::new());
    let (address, _stop) = served(Arc::clone(&release)).await;
    let mut answered = send(address, b"GET /slow HTTP/1.1\r\nHost: api\r\n\r\n").await;
    let mut kept = send(address, REQUEST).await;
    assert!(read(&mut kept).await.ends_with("quick"));
    // Open more connections than there are places. Two places are taken.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(send(address, b"").await);
        assert!(read(&mut send(address, REQUEST).await).await.ends_with("quick"));
        kept.write_all(REQUEST).await.unwrap();
        assert!(
            read(&mut kept).await.ends_with("quick"),
            "it is used, and stays open"
        );
    }
    release.notify_waiters();
    assert!(read(&mut answered).await.ends_with("slow"));
}

#[tokio::test]
async fn a_response_that_has_begun_keeps_its_connection_if_it_asks_for_that() {
    let (address, _stop) = served(Arc::default()).await;
    let mut endless = send(address, b"GET /endless HTTP/1.1\r\nHost: api\r\n\r\n").await;
    let mut begun = String::new();
    while !begun.contains("begun") {
        let part = read(&mut endless).await;
        assert_ne!(part, "", "{begun}");
        begun += &part;
    }
    let mut kept = Vec::new();
    for _ in 0..20 {
        let mut stream = send(address, REQUEST).await;
        assert!(read(&mut stream).await.ends_with("quick"));
        kept.push(stream);
    }
    assert_eq!(
        read(&mut kept[0]).await,
        "",
        "the one that has waited longest is closed"
    );
    let error = endless.try_read(&mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "the response goes on");
}

#[tokio::test]
async fn an_upgraded_connection_keeps_its_place_until_it_ends() {
    let (address, _stop) = served(Arc::default()).await;
    let mut all = Vec::new();
    for _ in 0..PLACES {
        all.push(upgraded(address).await);
    }
    let mut next = send(address, REQUEST).await;
    let waits = timeout(Duration::from_millis(500), next.readable()).await;
    assert!(waits.is_err(), "it is accepted when a place is free");
    for stream in &mut all {
        echoes(stream, "still here").await;
    }
    drop(all.pop());
    assert!(read(&mut next).await.ends_with("quick"));
    for stream in &mut all {
        echoes(stream, "and now").await;
    }
}

#[tokio::test]
async fn an_upgraded_connection_can_be_closed() {
    let (address, _stop) = served(Arc::default()).await;
    let mut closed = upgraded(address).await;
    let mut other = upgraded(address).await;
    closed.write_all(b"close").await.unwrap();
    let mut rest = read(&mut closed).await;
    if rest == "close" {
        rest = read(&mut closed).await;
    }
    assert_eq!(rest, "");
    echoes(&mut other, "still here").await;
}

#[tokio::test]
async fn a_shutdown_ends_idle_connections_and_leaves_upgraded_ones_to_their_handlers() {
    let (address, stop) = served(Arc::default()).await;
    let mut other = upgraded(address).await;
    let mut idle = send(address, REQUEST).await;
    assert!(read(&mut idle).await.ends_with("quick"));
    drop(stop);
    assert_eq!(read(&mut idle).await, "");
    echoes(&mut other, "still here").await;
}
