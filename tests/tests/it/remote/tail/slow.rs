//! Tests clients of a stream that read nothing.

use std::time::Instant;

use e2e::{Receiver, SOON, event, wait_until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{Rig, SHUTDOWN_MAX, Tail};

const ENDPOINTS: usize = 40;
/// The lines of their attempts have about 9 MiB. The API keeps 512 KiB for a client, and Linux up to 4 MiB.
const EVENTS: usize = 600;
/// The number of events that are published at once. The lines about them, and about half as many more, fit into what
/// the API keeps for a client, so that a client that reads loses none, however busy the machine is.
const AT_ONCE: usize = 15;
/// The size of the receive buffer of the client.
const BUFFER_BYTES: u32 = 16 * 1024;
const DROPPED: &str = "\"kind\":\"dropped\"";

/// Opens a stream, and reads up to the first line.
async fn open(rig: &Rig) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(BUFFER_BYTES).unwrap();
    let address = rig.api.url().trim_start_matches("http://").to_owned();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let request = format!(
        "GET /v1/tail HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\r\n",
        rig.laptop.key
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, "\"kind\":\"watching\"").await;
    stream
}

/// Reads until the words have arrived.
async fn read_until(stream: &mut TcpStream, words: &str) {
    let reading = async {
        let mut read = Vec::new();
        let mut part = vec![0; 64 * 1024];
        while !String::from_utf8_lossy(&read).contains(words) {
            let bytes = stream.read(&mut part).await.unwrap();
            assert!(bytes > 0, "the stream ended without {words}");
            // The words may begin in the part before.
            let kept = read.len().saturating_sub(words.len());
            read.drain(..kept);
            read.extend_from_slice(&part[..bytes]);
        }
    };
    timeout(SOON, reading).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_loses_lines_and_delays_neither_another_nor_the_end_of_the_api() {
    let rig = Rig::new("remote-slow").await;
    let receiver = Receiver::ok().await;
    for _ in 0..ENDPOINTS {
        rig.installation.endpoint("org_1", &receiver.url()).await;
    }
    let (mut slow, stalled) = (open(&rig).await, open(&rig).await);
    let mut fast = Tail::start(rig.laptop.command(&["event", "tail", "--json"])).await;
    let early = [event("org_1", "early")];
    fast.prints(&rig.installation, &early, "\"attempt\"").await;
    let events: Vec<_> = (0..EVENTS)
        .map(|number| event("org_1", &format!("lead_{number}")))
        .collect();
    for (number, events) in events.chunks(AT_ONCE).enumerate() {
        let requests = receiver.count() + events.len() * ENDPOINTS;
        rig.installation.amqp().publish(events).await;
        wait_until("the events are delivered", SOON, || receiver.count() >= requests).await;
        // A busy worker discards lines, so their number is not known. They keep their order: the client that prints
        // this event has read the lines before it.
        let marker = format!("marker_{number}");
        fast.prints(&rig.installation, &[event("org_1", &marker)], &marker)
            .await;
    }
    let is_whole = !fast.printed.iter().any(|line| line.contains(DROPPED));
    assert!(is_whole, "the fast client has lost lines");
    read_until(&mut slow, DROPPED).await;
    let began = Instant::now();
    assert!(rig.api.role.terminate().await);
    assert!(began.elapsed() < SHUTDOWN_MAX, "{:?}", began.elapsed());
    drop((slow, stalled, fast));
    for role in [rig.worker, rig.recorder] {
        assert!(role.terminate().await);
    }
    rig.installation.delete().await;
}
