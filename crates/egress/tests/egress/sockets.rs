//! The behavior of endpoints over plain HTTP/1.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;
use webhook::{FailureKind, Phase, RESPONSE_BODY_BYTES_MAX};

use crate::support::*;

/// nginx sends a header on as many lines as it has in nginx's configuration.
#[tokio::test]
async fn a_header_that_goes_on_on_the_next_line_is_taken() {
    let folded = "HTTP/1.1 200 OK\r\nContent-Security-Policy: default-src 'self';\r\n  img-src *;\r\n\tscript-src 'none'\r\nContent-Length: 2\r\n\r\nok";
    let answer = answer(&egress(), &responder(folded).await).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]));
}

#[tokio::test]
async fn a_200_is_an_answer() {
    let url = responder("HTTP/1.1 200 OK\r\nRetry-After: 7\r\nContent-Length: 5\r\n\r\nhello").await;
    let answer = answer(&egress(), &url).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.retry_after.as_deref(), Some("7"));
    assert_eq!(&answer.body[..], b"hello");
}

#[tokio::test]
async fn the_request_is_what_the_contract_promises() {
    let (tell, mut told) = mpsc::channel(1);
    let url = receiver(move |mut stream| {
        let tell = tell.clone();
        async move {
            let request = read_request(&mut stream).await.expect("a request");
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
            let _ = tell.send(request).await;
        }
    })
    .await;
    answer(&egress(), &url).await;

    let request = told.recv().await.expect("a request");
    let (head, body) = request.split_once("\r\n\r\n").expect("a head and a body");
    let mut lines: Vec<&str> = head.lines().collect();
    assert_eq!(lines.remove(0), "POST /secret?token=secret HTTP/1.1");
    lines.sort_unstable();
    assert_eq!(lines[0], "Accept: */*");
    assert_eq!(lines[1], "Content-Length: 24");
    assert_eq!(lines[2], "Content-Type: application/json");
    assert!(lines[3].starts_with("Host: 127.0.0.1:"), "{}", lines[3]);
    assert_eq!(lines[4], "User-Agent: Magnetite-Webhooks/1.0");
    assert_eq!(lines[5], "X-Magnetite-Event: lead.created");
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert_eq!(body, "{\"event\":\"lead.created\"}");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let visits = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&visits);
    let target = receiver(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        async {}
    })
    .await;
    for status in [301, 302, 303, 307, 308] {
        let url = responder(format!(
            "HTTP/1.1 {status} Elsewhere\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"
        ))
        .await;
        assert_eq!(answer(&egress(), &url).await.status, status);
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_body_is_cut_at_16_kib() {
    let mut response = b"HTTP/1.1 500 Oh no\r\nContent-Length: 1000000\r\n\r\n".to_vec();
    response.resize(1_000_000, b'x');
    let answer = answer(&egress(), &responder(response).await).await;
    assert_eq!(answer.status, 500);
    assert_eq!(answer.body.len(), RESPONSE_BODY_BYTES_MAX);
}

#[tokio::test]
async fn a_body_that_never_ends_is_not_waited_for_beyond_16_kib() {
    let url = receiver(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        while stream.write_all(b"3e8\r\n").await.is_ok() {
            let _ = stream.write_all(&[b'x'; 1000]).await;
            let _ = stream.write_all(b"\r\n").await;
        }
    })
    .await;
    assert_eq!(answer(&egress(), &url).await.body.len(), RESPONSE_BODY_BYTES_MAX);
}

#[tokio::test]
async fn a_compressed_body_is_not_unpacked() {
    // "hello" as gzip.
    let packed = [
        31, 139, 8, 0, 0, 0, 0, 0, 0, 3, 203, 72, 205, 201, 201, 7, 0, 134, 166, 16, 54, 5, 0, 0, 0,
    ];
    for encoding in ["gzip", "deflate", "br", "zstd"] {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {}\r\n\r\n",
            packed.len()
        );
        let url = responder([head.as_bytes(), &packed[..]].concat()).await;
        assert_eq!(&answer(&egress(), &url).await.body[..], packed, "{encoding}");
    }
}

#[tokio::test]
async fn a_length_that_is_wrong_is_told_apart_by_what_it_does_to_the_response() {
    let long = responder("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nten bytes!").await;
    assert_eq!(&answer(&egress(), &long).await.body[..], b"ten");
    for lengths in [
        "Content-Length: 3\r\nContent-Length: 10",
        "Content-Length: ten",
        "Content-Length: -1",
    ] {
        let url = responder(format!("HTTP/1.1 200 OK\r\n{lengths}\r\n\r\nten bytes!")).await;
        let failure = failure(&egress(), &url).await;
        assert_eq!(
            (failure.kind, failure.phase),
            (FailureKind::Protocol, Phase::Response),
            "{lengths}"
        );
    }
}

#[tokio::test]
async fn a_body_may_end_with_the_connection() {
    let url = responder("HTTP/1.0 200 OK\r\n\r\nbye").await;
    assert_eq!(&answer(&egress(), &url).await.body[..], b"bye");
}

#[tokio::test]
async fn one_connection_serves_one_attempt_after_the_other() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let url = receiver(move |mut stream| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            while read_request(&mut stream).await.is_some() {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await;
            }
        }
    })
    .await;
    let egress = egress();
    for _ in 0..10 {
        answer(&egress.clone(), &url).await;
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_endpoint_that_never_answers_times_out_in_phase_response() {
    let url = receiver(|mut stream| async move { while read_request(&mut stream).await.is_some() {} }).await;
    let begun = Instant::now();
    let failure = failure(&impatient(300), &url).await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::Timeout, Phase::Response)
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn silence_on_a_kept_alive_connection_times_out_in_phase_response() {
    let url = receiver(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        while read_request(&mut stream).await.is_some() {}
    })
    .await;
    let egress = impatient(500);
    answer(&egress, &url).await;
    let failure = failure(&egress, &url).await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::Timeout, Phase::Response)
    );
}

#[tokio::test]
async fn a_body_that_dribbles_past_the_deadline_is_a_failure_although_the_status_was_200() {
    let url = receiver(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            .await;
        let mut every = tokio::time::interval(Duration::from_millis(20));
        while stream.write_all(b"x").await.is_ok() {
            every.tick().await;
        }
    })
    .await;
    let failure = failure(&impatient(400), &url).await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::Timeout, Phase::Response)
    );
}

#[tokio::test]
async fn a_connection_that_nobody_accepts_times_out_in_phase_connect() {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("its address");
    // When the queue of connections to accept is full, Linux does not answer further connection requests.
    let mut queue = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        queue.push(stream);
    }
    let failure = failure(&impatient(300), &format!("http://{address}/secret")).await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::Timeout, Phase::Connect)
    );
}

#[tokio::test]
async fn a_handshake_that_stalls_times_out_in_phase_tls() {
    let url = receiver(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let failure = failure(&impatient(300), &url.replace("http:", "https:")).await;
    assert_eq!((failure.kind, failure.phase), (FailureKind::Timeout, Phase::Tls));
}

#[tokio::test]
async fn a_closed_port_refuses_the_connection() {
    let url = {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        format!("http://{}/secret", listener.local_addr().expect("its address"))
    };
    let failure = failure(&egress(), &url).await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::ConnectionRefused, Phase::Connect)
    );
    assert_eq!(failure.detail, "127.0.0.1 refused the connection");
}

#[tokio::test]
async fn a_connection_that_ends_before_or_within_the_response_is_reset() {
    let responses: [&[u8]; 4] = [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes!",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nten bytes!",
    ];
    for response in responses {
        let failure = failure(&egress(), &responder(response).await).await;
        let text = String::from_utf8_lossy(response);
        assert_eq!(
            (failure.kind, failure.phase),
            (FailureKind::ConnectionReset, Phase::Response),
            "{text:?}: {}",
            failure.detail
        );
    }
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_response_is_a_reset() {
    let url = receiver(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
            .await;
        let _ = stream.set_zero_linger();
    })
    .await;
    let failure = failure(&egress(), &url).await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::ConnectionReset, Phase::Response)
    );
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_failure() {
    let responses: [&[u8]; 5] = [
        b"220 mail.example.com ESMTP ready\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"\x16\x03\x01\x00\x02\x01\x00",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a length\r\n",
    ];
    for response in responses {
        let failure = failure(&egress(), &responder(response).await).await;
        let text = String::from_utf8_lossy(response);
        assert_eq!(
            (failure.kind, failure.phase),
            (FailureKind::Protocol, Phase::Response),
            "{text:?}: {}",
            failure.detail
        );
    }
}

#[tokio::test]
async fn headers_without_an_end_are_a_protocol_failure() {
    for line in [
        "X-Endless: 1\r\n".to_owned(),
        format!("X-{}: 1\r\n", "a".repeat(100_000)),
    ] {
        let url = receiver(move |mut stream| {
            let line = line.clone();
            async move {
                read_request(&mut stream).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
                while stream.write_all(line.as_bytes()).await.is_ok() {}
            }
        })
        .await;
        let failure = failure(&egress(), &url).await;
        assert_eq!(
            (failure.kind, failure.phase),
            (FailureKind::Protocol, Phase::Response)
        );
    }
}

#[tokio::test]
async fn what_is_refused_is_not_connected_to() {
    let visits = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&visits);
    let url = receiver(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        async {}
    })
    .await;
    let strict = egress::Egress::new(&egress::Config {
        allow: Vec::new(),
        ..config()
    })
    .expect("an egress");
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "[::ffff:127.0.0.1]",
        "localhost",
    ] {
        let failure = failure(&strict, &url.replace("127.0.0.1", host)).await;
        assert_eq!(
            (failure.kind, failure.phase),
            (FailureKind::AddressRefused, Phase::Resolve),
            "{host}"
        );
        assert!(
            failure.detail.contains("MAGNETITE_EGRESS__ALLOW="),
            "{}",
            failure.detail
        );
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_url_that_went_bad_is_a_failure_of_the_endpoint() {
    let failure = failure(&egress(), "https://user:secret@example.com/").await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::BadUrl, Phase::Resolve)
    );
}

#[tokio::test]
async fn a_header_that_cannot_be_sent_is_our_fault() {
    let headers = vec![("x-magnetite-event", "two\r\nlines".to_owned())];
    let egress = egress();
    let fault = egress
        .post(&egress.target("http://127.0.0.1:9/"), headers, "{}".into())
        .await
        .expect_err("a fault");
    assert!(matches!(
        fault,
        egress::Fault::Header {
            name: "x-magnetite-event"
        }
    ));
}

/// The environment of a process cannot be changed safely while it runs, so this test runs another test in a
/// process of its own.
#[tokio::test]
async fn the_environments_proxies_are_ignored() {
    let mut child = Command::new(std::env::current_exe().expect("this test's executable"));
    child
        .args(["--exact", "sockets::a_200_is_an_answer"])
        .env_remove("NO_PROXY")
        .env_remove("no_proxy");
    for name in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        // The discard port, where no server listens.
        child.env(name, "http://127.0.0.1:9");
    }
    let output = child.stdin(Stdio::null()).output().await.expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
