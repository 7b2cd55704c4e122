//! The behavior of TLS servers.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use egress::{Config, Egress, SetupError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use webhook::{AttemptResult, FailureKind, Phase};

use crate::support::*;

/// A private certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate"),
        )
    }

    pub(crate) fn trusted(&self) -> Egress {
        let root_certificates = vec![self.0.pem().into_bytes()];
        Egress::new(&Config {
            root_certificates,
            ..config()
        })
        .expect("an egress")
    }

    fn issue(&self, params: &CertificateParams) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        (certificate.der().clone(), key.into())
    }

    pub(crate) fn acceptor(&self, params: &CertificateParams, protocols: &[&str]) -> TlsAcceptor {
        acceptor(self.issue(params), protocols)
    }
}

fn acceptor(
    (certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>),
    protocols: &[&str],
) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate and its key");
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

pub(crate) fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).expect("parameters")
}

/// Starts a receiver with TLS at localhost, and returns its URL.
pub(crate) async fn tls_receiver<F, H>(acceptor: TlsAcceptor, handle: H) -> String
where
    H: Fn(TlsStream<TcpStream>) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, handle) = (acceptor.clone(), handle.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    handle(stream).await;
                }
            });
        }
    });
    format!("https://localhost:{port}/secret?token=secret")
}

pub(crate) async fn greet(mut stream: TlsStream<TcpStream>) {
    while read_request(&mut stream).await.is_some() {
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
    }
}

#[tokio::test]
async fn a_certificate_of_a_configured_authority_is_good() {
    let authority = Authority::new();
    let url = tls_receiver(authority.acceptor(&params("localhost"), &[]), greet).await;
    let egress = authority.trusted();
    assert_eq!(&answer(&egress, &url).await.body[..], b"ok");
    // And again, on the existing connection.
    assert_eq!(answer(&egress, &url).await.status, 200);
}

#[tokio::test]
async fn a_bad_certificate_is_told_in_words() {
    let authority = Authority::new();
    let mut expired = params("localhost");
    expired.not_after = date_time_ymd(2020, 1, 1);
    let mut early = params("localhost");
    early.not_before = date_time_ymd(2200, 1, 1);
    for (params, words) in [
        (expired, "the certificate of localhost has expired"),
        (early, "the certificate of localhost is not valid yet"),
        (
            params("other.example.com"),
            "the certificate is not valid for localhost, only for other.example.com",
        ),
    ] {
        let url = tls_receiver(authority.acceptor(&params, &[]), greet).await;
        let failure = failure(&authority.trusted(), &url).await;
        assert_eq!((failure.kind, failure.phase), (FailureKind::Tls, Phase::Tls));
        assert!(failure.detail.starts_with(words), "{}", failure.detail);
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_told_in_words() {
    let url = tls_receiver(Authority::new().acceptor(&params("localhost"), &[]), greet).await;
    let failure = failure(&egress(), &url).await;
    assert_eq!((failure.kind, failure.phase), (FailureKind::Tls, Phase::Tls));
    assert!(
        failure
            .detail
            .contains("is self-signed, or its issuer is unknown"),
        "{}",
        failure.detail
    );
}

#[tokio::test]
async fn a_certificate_in_the_name_of_a_trusted_authority_is_told_in_words() {
    // All authorities in these tests have the same name.
    let url = tls_receiver(Authority::new().acceptor(&params("localhost"), &[]), greet).await;
    let failure = failure(&Authority::new().trusted(), &url).await;
    assert_eq!((failure.kind, failure.phase), (FailureKind::Tls, Phase::Tls));
    assert_eq!(
        failure.detail,
        "the certificate of localhost was not signed by the issuer that it names"
    );
}

#[tokio::test]
async fn a_self_signed_certificate_is_told_in_words() {
    let mut authority = params("localhost");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for (params, words) in [
        (params("localhost"), "is self-signed, or its issuer is unknown"),
        (
            authority,
            "is an authority's (CA:TRUE), as most self-signed ones are",
        ),
    ] {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        let url = tls_receiver(acceptor((certificate, key.into()), &[]), greet).await;
        let failure = failure(&egress(), &url).await;
        assert_eq!((failure.kind, failure.phase), (FailureKind::Tls, Phase::Tls));
        assert!(failure.detail.contains(words), "{}", failure.detail);
    }
}

#[tokio::test]
async fn a_port_that_does_not_speak_tls_is_told_in_words() {
    let url = responder_to_anything("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let failure = failure(&egress(), &url).await;
    assert_eq!((failure.kind, failure.phase), (FailureKind::Tls, Phase::Tls));
    assert_eq!(
        failure.detail,
        "127.0.0.1 does not speak TLS at this port; use the port for https"
    );
}

async fn responder_to_anything(response: &'static str) -> String {
    let url = receiver(move |mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(response.as_bytes()).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    url.replace("http:", "https:")
}

#[tokio::test]
async fn a_connection_that_ends_during_the_handshake_is_reset_in_phase_tls() {
    let url = receiver(|mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
    })
    .await;
    let failure = failure(&egress(), &url.replace("http:", "https:")).await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::ConnectionReset, Phase::Tls)
    );
}

#[tokio::test]
async fn a_body_may_end_with_a_connection_that_ends_without_goodbye() {
    let authority = Authority::new();
    for (head, taken) in [
        ("HTTP/1.1 200 OK\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", false),
    ] {
        let url = tls_receiver(
            authority.acceptor(&params("localhost"), &[]),
            move |mut stream| async move {
                read_request(&mut stream).await;
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(b"bye").await;
                let _ = stream.flush().await;
                let (tcp, _) = stream.into_inner();
                drop(tcp);
            },
        )
        .await;
        if taken {
            assert_eq!(&answer(&authority.trusted(), &url).await.body[..], b"bye");
        } else {
            let failure = failure(&authority.trusted(), &url).await;
            assert_eq!(
                (failure.kind, failure.phase),
                (FailureKind::ConnectionReset, Phase::Response)
            );
        }
    }
}

#[tokio::test]
async fn http_2_is_spoken_where_it_is_offered() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&params("localhost"), &["h2", "http/1.1"]);
    let url = tls_receiver(acceptor, |stream| async move {
        let mut connection = h2::server::handshake(stream).await.expect("a preface");
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.headers()["content-length"], "24");
            assert_eq!(request.headers()["x-magnetite-event"], "lead.created");
            let head = hyper::Response::builder()
                .status(202)
                .body(())
                .expect("a response");
            let mut body = respond.send_response(head, false).expect("sent");
            body.send_data(Bytes::from(vec![b'x'; 60_000]), true)
                .expect("sent");
        }
    })
    .await;
    let egress = authority.trusted();
    for _ in 0..3 {
        let answer = answer(&egress, &url).await;
        assert_eq!(
            (answer.status, answer.body.len()),
            (202, webhook::RESPONSE_BODY_BYTES_MAX)
        );
    }
}

#[tokio::test]
async fn silence_over_http_2_times_out_in_phase_response() {
    let authority = Authority::new();
    let url = tls_receiver(
        authority.acceptor(&params("localhost"), &["h2"]),
        |stream| async move {
            let mut connection = h2::server::handshake(stream).await.expect("a preface");
            let mut held = Vec::new();
            while let Some(Ok(request)) = connection.accept().await {
                held.push(request);
            }
        },
    )
    .await;
    let attempt_timeout = std::time::Duration::from_secs(1);
    let root_certificates = vec![authority.0.pem().into_bytes()];
    let egress = Egress::new(&Config {
        attempt_timeout,
        root_certificates,
        ..config()
    })
    .expect("an egress");
    let failure = failure(&egress, &url).await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::Timeout, Phase::Response)
    );
}

#[tokio::test]
async fn an_http_2_connection_that_ends_without_an_answer_is_reset() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&params("localhost"), &["h2"]);
    let url = tls_receiver(acceptor, |stream| async move {
        let mut connection = h2::server::handshake(stream).await.expect("a preface");
        let _ = connection.accept().await;
    })
    .await;
    let failure = failure(&authority.trusted(), &url).await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::ConnectionReset, Phase::Response)
    );
    assert_eq!(
        failure.detail,
        "localhost closed the connection before it answered"
    );
}

#[tokio::test]
async fn a_refused_http_2_stream_is_a_protocol_failure_and_is_not_sent_again() {
    let authority = Authority::new();
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let acceptor = authority.acceptor(&params("localhost"), &["h2"]);
    let url = tls_receiver(acceptor, move |stream| {
        let counter = Arc::clone(&counter);
        async move {
            let mut connection = h2::server::handshake(stream).await.expect("a preface");
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
        }
    })
    .await;
    let failure = failure(&authority.trusted(), &url).await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::Protocol, Phase::Response)
    );
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_host_that_requires_http_1_1_is_spoken_to_in_it_from_the_next_attempt_on() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&params("localhost"), &["h2", "http/1.1"]);
    let by_http2 = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&by_http2);
    let url = tls_receiver(acceptor, move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                let mut connection = h2::server::handshake(stream).await.expect("a preface");
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    counter.fetch_add(1, Ordering::SeqCst);
                    respond.send_reset(h2::Reason::HTTP_1_1_REQUIRED);
                }
            } else {
                while read_request(&mut stream).await.is_some() {
                    let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                    let _ = stream.flush().await;
                }
            }
        }
    })
    .await;
    let egress = authority.trusted();
    let failure = failure(&egress, &url).await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::Protocol, Phase::Response)
    );
    assert!(failure.detail.contains("HTTP_1_1_REQUIRED"), "{}", failure.detail);
    for _ in 0..2 {
        assert_eq!(answer(&egress, &url).await.status, 204);
    }
    assert_eq!(by_http2.load(Ordering::SeqCst), 1);

    // `ask` makes the second attempt immediately.
    let egress = authority.trusted();
    let target = egress.target(&url);
    let reply = egress.ask(&target, Vec::new(), Bytes::from_static(b"{}")).await;
    let result = reply.expect("no fault of ours").result;
    assert!(
        matches!(&result, AttemptResult::Answered(answer) if answer.status == 204),
        "{result:?}"
    );
    assert_eq!(by_http2.load(Ordering::SeqCst), 2);
}

#[test]
fn a_configured_root_certificate_must_be_one() {
    for pem in [
        "",
        "nonsense",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let config = Config {
            root_certificates: vec![pem.as_bytes().to_vec()],
            ..config()
        };
        assert!(
            matches!(Egress::new(&config), Err(SetupError::RootCertificate(_))),
            "{pem}"
        );
    }
}
