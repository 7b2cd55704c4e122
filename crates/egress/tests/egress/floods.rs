//! Endpoints that send as fast as they can without making progress with a response.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use webhook::{Failure, FailureKind, Phase};

use crate::certificates::{Authority, params, tls_receiver};
use crate::support::*;

/// The size that the buffers of two sockets can reach, which is several MiB on Linux, and what is read from
/// them.
const TAKEN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Much less than the deadline, even on a busy machine.
const SOON: Duration = Duration::from_secs(5);

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Sends the same bytes repeatedly, and counts the bytes sent. Meanwhile it reads what arrives, because
/// unread replies would stall the connection.
async fn pour(stream: impl AsyncRead + AsyncWrite, first: &[u8], again: &[u8], sent: &AtomicUsize) {
    let (mut reading, mut writing) = tokio::io::split(stream);
    let pouring = async {
        let _ = writing.write_all(first).await;
        let batch = again.repeat(16 * 1024 / again.len() + 1);
        while writing.write_all(&batch).await.is_ok() {
            sent.fetch_add(batch.len(), Ordering::Relaxed);
        }
    };
    let draining = async {
        let mut rest = [0; 4096];
        while reading.read(&mut rest).await.is_ok_and(|length| length > 0) {}
    };
    tokio::select! {
        () = pouring => {}
        () = draining => {}
    }
}

fn assert_flood(what: &str, failure: &Failure, began: Instant, sent: &AtomicUsize) {
    let told = (failure.kind, failure.phase);
    assert_eq!(told, (FailureKind::Flood, Phase::Response), "{what}: {failure:?}");
    assert!(began.elapsed() < SOON, "{what} took {:?}", began.elapsed());
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < TAKEN_BYTES_MAX, "{what}: {sent} bytes were taken");
}

async fn assert_ends(what: &str, first: &'static [u8], again: &'static [u8]) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let url = receiver(move |mut stream| {
        let sent = Arc::clone(&counter);
        async move {
            read_request(&mut stream).await;
            pour(stream, first, again, &sent).await;
        }
    })
    .await;
    let began = Instant::now();
    let failure = failure(&egress(), &url).await;
    assert_flood(what, &failure, began, &sent);
}

#[tokio::test]
async fn endless_interim_responses_end_the_attempt() {
    assert_ends("100", b"", CONTINUE).await;
    assert_ends("103", b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").await;
    assert_ends("102 without a reason", b"", b"HTTP/1.1 102 \r\n\r\n").await;
}

#[tokio::test]
async fn a_chunk_length_that_never_ends_ends_the_attempt() {
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_ends("zeros", head, b"0000000000000000").await;
}

#[tokio::test]
async fn interim_responses_are_counted_anew_for_every_request_of_a_connection() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let url = receiver(move |mut stream| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            while read_request(&mut stream).await.is_some() {
                let _ = stream.write_all(&CONTINUE.repeat(100)).await;
                let _ = stream.write_all(OK).await;
            }
        }
    })
    .await;
    let egress = egress();
    for _ in 0..10 {
        assert_eq!(answer(&egress, &url).await.status, 200);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_is_not_worn_out_by_the_answers_it_brings() {
    // Responses that are read to their end, whose total size is more than the limit for one response.
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let url = receiver(move |mut stream| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            let body = "x".repeat(16_000);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            while read_request(&mut stream).await.is_some() {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await;
    let egress = egress();
    for _ in 0..200 {
        assert_eq!(answer(&egress, &url).await.body.len(), 16_000);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// Returns a frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short frame");
    let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
    [&head[..], payload].concat()
}

/// Reads the preface and every frame up to the request's headers.
async fn read_http2_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.ok()?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.ok()?;
        if head[3] == 1 {
            return Some(());
        }
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const UNKNOWN: u8 = 0xfa;
const END_HEADERS: u8 = 4;
/// `:status: 200` from HPACK's static table.
const STATUS_200: &[u8] = &[0x88];
/// `:status: 103`, with the name from the static table.
const STATUS_103: &[u8] = &[0x08, 3, b'1', b'0', b'3'];

/// Sends frames repeatedly over HTTP/2, after empty settings. Returns the failure, when the attempt began,
/// and the counter of bytes sent.
async fn http2_failure(what: &str, first: Vec<u8>, again: Vec<u8>) -> (Failure, Instant, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let authority = Authority::new();
    let acceptor = authority.acceptor(&params("localhost"), &["h2"]);
    let counter = Arc::clone(&sent);
    let first = [frame(SETTINGS, 0, 0, &[]), first].concat();
    let url = tls_receiver(acceptor, move |mut stream| {
        let (first, again, sent) = (first.clone(), again.clone(), Arc::clone(&counter));
        async move {
            read_http2_request(&mut stream).await.expect("a request");
            pour(stream, &first, &again, &sent).await;
        }
    })
    .await;
    let began = Instant::now();
    let failure = failure(&authority.trusted(), &url).await;
    assert!(began.elapsed() < SOON, "{what} took {:?}", began.elapsed());
    (failure, began, sent)
}

#[tokio::test]
async fn endless_frames_of_http_2_end_the_attempt() {
    let answered = frame(HEADERS, END_HEADERS, 1, STATUS_200);
    for (what, first, again) in [
        ("interim", vec![], frame(HEADERS, END_HEADERS, 1, STATUS_103)),
        ("ping", vec![], frame(PING, 0, 0, b"pingping")),
        ("ping answers", vec![], frame(PING, 1, 0, b"pingping")),
        ("settings", vec![], frame(SETTINGS, 0, 0, &[])),
        (
            "one setting",
            vec![],
            frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
        ),
        ("priority", vec![], frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])),
        ("unknown", vec![], frame(UNKNOWN, 0, 0, &[])),
        ("pings in an answer", answered, frame(PING, 0, 0, b"pingping")),
    ] {
        let (failure, began, sent) = http2_failure(what, first, again).await;
        assert_flood(what, &failure, began, &sent);
    }
}

/// Some of these are limited by the HTTP library, and the others only by our meter. In both cases the attempt
/// ends soon.
#[tokio::test]
async fn other_endless_frames_of_http_2_end_the_attempt_as_well() {
    let headers_without_end = frame(HEADERS, 0, 1, STATUS_200);
    let answered = frame(HEADERS, END_HEADERS, 1, STATUS_200);
    for (what, first, again) in [
        (
            "continuation",
            headers_without_end,
            frame(CONTINUATION, 0, 1, &[]),
        ),
        ("empty data", answered.clone(), frame(DATA, 0, 1, &[])),
        ("window", vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 0])),
        ("window of 1", vec![], frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        (
            "padding alone",
            answered,
            frame(DATA, 8, 1, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ),
        ("reset", vec![], frame(RESET, 0, 1, &[0, 0, 0, 8])),
        ("reset of another", vec![], frame(RESET, 0, 3, &[0, 0, 0, 8])),
    ] {
        let (failure, _, sent) = http2_failure(what, first, again).await;
        let is_expected = matches!(
            failure.kind,
            FailureKind::Flood | FailureKind::Protocol | FailureKind::ConnectionReset
        );
        assert!(is_expected, "{what}: {failure:?}");
        let sent = sent.load(Ordering::Relaxed);
        assert!(sent < TAKEN_BYTES_MAX, "{what}: {sent} bytes were taken");
    }
}

/// The server starts to flood as soon as the handshake is done, which is sometimes before the request is
/// sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_before_the_request_has_left_end_the_attempt_in_phase_response() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&params("localhost"), &["h2"]);
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let settings = frame(SETTINGS, 0, 0, &[]);
    let url = tls_receiver(acceptor, move |stream| {
        let (settings, sent) = (settings.clone(), Arc::clone(&counter));
        async move { pour(stream, &settings, &frame(PING, 0, 0, b"pingping"), &sent).await }
    })
    .await;
    let attempts = (0..200).map(|_| async {
        let failure = failure(&authority.trusted(), &url).await;
        (failure.kind, failure.phase)
    });
    for told in join_all(attempts).await {
        assert_eq!(told, (FailureKind::Flood, Phase::Response));
    }
}
