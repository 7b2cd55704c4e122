//! Finding a broker that accepts the connection, among brokers that are down or hang.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{fs, time::Duration};

use broker::{Config, Link, Outgoing, PublishError, Publisher, Server, Topology};
use bytes::Bytes;
use e2e::{shared_broker, wait_until};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use webhook::journal::BatchStamp;

/// Many times the duration of any step.
const SOON: Duration = Duration::from_secs(20);

/// Returns an address whose port was free just before, so that it refuses connections.
async fn refusing() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Returns the rest of the bytes that were sent, once the other side has closed the connection.
async fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let reading = timeout(SOON, stream.read_to_end(&mut rest)).await;
    // A connection that was reset is closed as well.
    let _ = reading.expect("the connection is still open");
    rest
}

/// Returns the number of threads that lapin runs for its connections in this process. Each test is a process
/// of its own.
fn connection_threads() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")));
    names
        .filter(|name| name.as_ref().is_ok_and(|name| name.starts_with("lapin-io")))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_accepts_and_never_answers_is_left_again_each_time() {
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "amqp://{}/%2f?connection_timeout=100",
        hanging.local_addr().unwrap()
    );
    let config = Config::new(&url, "unused").unwrap();
    let stop = CancellationToken::new();
    let link = Link::open(&config, "broker tests", stop.clone());
    let accept = async || timeout(SOON, hanging.accept()).await.unwrap().unwrap().0;
    for _ in 0..4 {
        let said = closed(&mut accept().await).await;
        assert_eq!(said, b"AMQP\x00\x00\x09\x01");
    }
    let mut last = accept().await;
    assert!(
        connection_threads() <= 2,
        "threads were left: {}",
        connection_threads()
    );
    assert!(!link.is_up());
    stop.cancel();
    closed(&mut last).await;
    wait_until("the last thread has ended", SOON, || connection_threads() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_fails_a_publish_within_its_bound() {
    let mut config = Config::new(&format!("amqp://{}/%2f", refusing().await), "unused").unwrap();
    config.publish_timeout = Duration::from_millis(300);
    let stop = CancellationToken::new();
    let publisher = Publisher::new(Link::open(&config, "broker tests", stop.clone()), &config);
    let before = Instant::now();
    let stamp = BatchStamp {
        worker: "w".to_owned(),
        number: 1,
        settled: 0,
        made_ms: 1,
    };
    let batch = Bytes::from_static(b"a batch");
    let message = Outgoing::journal(&Topology::new("unused", &[]), &stamp, batch);
    let error = publisher.publish(&message).await.unwrap_err();
    assert!(matches!(error, PublishError::NotConnected { .. }), "{error}");
    assert!(
        before.elapsed() < Duration::from_secs(2),
        "{:?}",
        before.elapsed()
    );
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_addresses_a_link_finds_the_one_that_answers_wherever_it_begins() {
    // Accepts connections and sends nothing, like a node that hangs.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (hangs, refuses, url) = (silent.local_addr().unwrap(), refusing().await, shared_broker());
    let address = Config::new(&url, "addresses").unwrap().address();
    let urls = format!("amqp://{hangs}/%2f?connection_timeout=300,amqp://{refuses}/%2f,{url}");
    let config = Config::new(&urls, "addresses").unwrap();
    // Links begin at a random node: of twenty, some begin at each.
    for _ in 0..20 {
        let stop = CancellationToken::new();
        let link = Link::open(&config, "broker tests", stop.clone());
        let connecting = timeout(Duration::from_secs(5), link.connection());
        connecting
            .await
            .expect("within a round of all addresses")
            .unwrap();
        assert_eq!(link.address(), address);
        stop.cancel();
        link.closed().await;
    }
    let asked: Vec<_> = Server::of_each(&config).await;
    let answers: Vec<_> = asked.iter().map(|(_, server)| server.is_ok()).collect();
    assert_eq!(answers, [false, false, true], "{asked:?}");
    assert!(Server::of(&config).await.is_ok());
}
