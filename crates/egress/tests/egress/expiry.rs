//! Expiries of certificates, and inspections of the network path.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use egress::{Egress, NetworkPath, Policy};
use rcgen::date_time_ymd;
use rustls::HandshakeKind;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use url::Url;

use crate::certificates::{Authority, greet, params, tls_receiver};
use crate::support::*;

const DAY_S: u64 = 24 * 60 * 60;

#[expect(clippy::disallowed_methods, reason = "egress does not depend on `runtime`")]
fn in_days(days: u64) -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a later time");
    since_epoch.as_secs() + days * DAY_S
}

/// Returns an acceptor with a certificate for localhost that expires at `unix_s`.
fn good_until(authority: &Authority, unix_s: u64) -> TlsAcceptor {
    let mut params = params("localhost");
    params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_s);
    authority.acceptor(&params, &[])
}

fn noted(egress: &Egress) -> Vec<(String, i64)> {
    egress.certificates().expiries().into_iter().collect()
}

#[tokio::test]
async fn a_handshake_leaves_behind_until_when_the_certificate_is_good() {
    let (authority, until_s) = (Authority::new(), in_days(60));
    let url = tls_receiver(good_until(&authority, until_s), greet).await;
    let egress = authority.trusted();
    assert_eq!(noted(&egress), []);
    for _ in 0..3 {
        answer(&egress, &url).await;
        assert_eq!(noted(&egress), [("localhost".to_owned(), until_s as i64)]);
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_leaves_nothing_behind() {
    let url = tls_receiver(good_until(&Authority::new(), in_days(60)), greet).await;
    let egress = Authority::new().trusted();
    failure(&egress, &url).await;
    assert_eq!(noted(&egress), []);
}

/// Returns how the second of two connections begins, to a server whose certificate expires in this many days.
async fn second_handshake(days: u64) -> HandshakeKind {
    let (authority, kinds) = (Authority::new(), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&kinds);
    let greet_once = move |mut stream: TlsStream<TcpStream>| {
        let seen = Arc::clone(&seen);
        async move {
            let kind = stream.get_ref().1.handshake_kind().expect("it is completed");
            seen.lock().expect("no panic").push(kind);
            read_request(&mut stream).await;
            let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(response).await;
            let _ = stream.shutdown().await;
        }
    };
    let url = tls_receiver(good_until(&authority, in_days(days)), greet_once).await;
    let egress = authority.trusted();
    answer(&egress, &url).await;
    answer(&egress, &url).await;
    let kinds = kinds.lock().expect("no panic");
    assert_eq!((kinds.len(), kinds[0]), (2, HandshakeKind::Full));
    kinds[1]
}

#[tokio::test]
async fn where_a_certificate_expires_soon_the_next_handshake_shows_whether_it_was_renewed() {
    assert_eq!(second_handshake(60).await, HandshakeKind::Resumed);
    assert_eq!(second_handshake(5).await, HandshakeKind::Full);
}

async fn probe(egress: &Egress, url: &str) -> NetworkPath {
    egress.probe(&Url::parse(url).expect("a URL")).await
}

#[tokio::test]
async fn the_way_is_shown_with_the_chain() {
    let (authority, until_s) = (Authority::new(), in_days(60));
    let url = tls_receiver(good_until(&authority, until_s), greet).await;
    let egress = authority.trusted();
    let way = probe(&egress, &url).await;
    assert!(way.lookup.is_some() && way.connect.is_some(), "{way:?}");
    assert!(
        way.connected.is_some_and(|address| address.is_loopback()),
        "{way:?}"
    );
    let tls = way.tls.expect("a handshake");
    assert_eq!((tls.version, tls.protocol), (Some("TLS 1.3"), None));
    assert!(tls.took.is_some() && tls.refused.is_none());
    let [shown] = &tls.chain[..] else {
        panic!("{:?}", tls.chain)
    };
    assert_eq!(
        (&*shown.subject, shown.not_after_s),
        ("localhost", until_s as i64)
    );
    assert_eq!(noted(&egress), [], "a look is not an attempt");
}

#[tokio::test]
async fn what_is_wrong_on_the_way_ends_it_and_the_chain_is_shown_all_the_same() {
    let url = tls_receiver(good_until(&Authority::new(), in_days(60)), greet).await;
    let tls = probe(&egress(), &url).await.tls.expect("a handshake");
    assert_eq!((tls.chain.len(), tls.took, tls.version), (1, None, None));
    let refused = tls.refused.expect("a reason");
    assert!(refused.contains("its issuer is unknown"), "{refused}");

    let closed = probe(&egress(), "https://127.0.0.1:1/").await;
    assert_eq!((closed.addresses.len(), closed.connected), (1, None));
    assert!(closed.tls.is_none() && closed.lookup.is_none());
}

#[tokio::test]
async fn the_way_ends_where_the_policy_forbids_it() {
    let url = receiver(|_| async { unreachable!("no client connects") }).await;
    let strict = Egress::new(&egress::Config::default()).expect("an egress");
    let way = probe(&strict, &url).await;
    let refusal = Policy::default().check_addr("127.0.0.1".parse().expect("an address"));
    assert_eq!(
        way.addresses,
        [("127.0.0.1".parse().expect("an address"), refusal.err())]
    );
    assert_eq!(way.connected, None);
    let named = probe(&strict, &url.replace("127.0.0.1", "localhost")).await;
    assert!(
        named.addresses.iter().all(|(_, refusal)| refusal.is_some()),
        "{named:?}"
    );
    assert_eq!(named.connected, None);
}
