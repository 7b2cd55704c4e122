//! Receivers and a name server that are simple enough to misbehave in every way.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use egress::{Config, Egress, Fault};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use webhook::{Answer, AttemptResult, Failure};

/// Long enough for any step on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Returns a configuration that allows 127.0.0.0/8 and has no name server that exists.
pub(crate) fn config() -> Config {
    Config {
        allow: vec!["127.0.0.0/8".parse().expect("a network")],
        attempt_timeout: PATIENCE,
        // The discard port of this machine.
        name_servers: vec![(Ipv4Addr::LOCALHOST, 9).into()],
        ..Config::default()
    }
}

pub(crate) fn impatient(attempt_timeout_ms: u64) -> Egress {
    Egress::new(&Config {
        attempt_timeout: Duration::from_millis(attempt_timeout_ms),
        ..config()
    })
    .expect("an egress")
}

pub(crate) fn egress() -> Egress {
    Egress::new(&config()).expect("an egress")
}

pub(crate) async fn post(egress: &Egress, url: &str) -> Result<AttemptResult, Fault> {
    let headers = vec![("x-magnetite-event", "lead.created".to_owned())];
    egress
        .post(
            &egress.target(url),
            headers,
            Bytes::from_static(b"{\"event\":\"lead.created\"}"),
        )
        .await
}

pub(crate) async fn answer(egress: &Egress, url: &str) -> Answer {
    match post(egress, url).await.expect("no fault") {
        AttemptResult::Answered(answer) => answer,
        AttemptResult::Failed(failure) => panic!("no answer: {failure:?}"),
    }
}

/// Returns the failure of a POST, and checks that its text does not contain the URL's path or query.
pub(crate) async fn failure(egress: &Egress, url: &str) -> Failure {
    match post(egress, url).await.expect("no fault") {
        AttemptResult::Answered(answer) => panic!("an answer: {answer:?}"),
        AttemptResult::Failed(failure) => {
            assert!(!failure.detail.contains("secret"), "{}", failure.detail);
            failure
        }
    }
}

/// Starts a receiver that calls `handle` for every connection. Returns a URL whose path contains a secret.
pub(crate) async fn receiver<F, H>(handle: H) -> String
where
    H: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let url = format!(
        "http://{}/secret?token=secret",
        listener.local_addr().expect("its address")
    );
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    url
}

/// Starts a receiver that reads a request, writes `response`, and closes the connection.
pub(crate) async fn responder(response: impl Into<Vec<u8>>) -> String {
    let response = Arc::new(response.into());
    receiver(move |mut stream| {
        let response = Arc::clone(&response);
        async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(&response).await;
            let _ = stream.shutdown().await;
            // Closing the socket with unread input would reset the connection.
            let _ = stream.read(&mut [0; 1]).await;
        }
    })
    .await
}

/// Reads one request with a `Content-Length`; returns `None` at the end of the connection.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        read.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&read);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() >= length.expect("a length").parse().expect("a number") {
                return Some(text.into_owned());
            }
        }
    }
}

/// The name server's reaction to a query.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Addresses(Vec<IpAddr>),
    NoName,
    ServerFailure,
    Silence,
}

/// A name server on UDP, whose answers may be cached for 0 s.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    /// Starts a name server. `reply` receives the name, with its final dot, and the number of earlier
    /// queries.
    pub(crate) async fn start(reply: impl Fn(&str, usize) -> Reply + Send + 'static) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = socket.local_addr().expect("its address");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                let (name, end) = question(&query[..length]);
                let reply = reply(&name, count.fetch_add(1, Ordering::SeqCst));
                if let Some(response) = response(&query[..end], &reply) {
                    let _ = socket.send_to(&response, from).await;
                }
            }
        });
        Self { address, asked }
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            name_servers: vec![self.address],
            ..config()
        }
    }

    pub(crate) fn egress(&self) -> Egress {
        Egress::new(&self.config()).expect("an egress")
    }
}

/// Returns the name in a query, and where the question ends (RFC 1035 section 4.1).
fn question(query: &[u8]) -> (String, usize) {
    let (mut name, mut at) = (String::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        name.push_str(std::str::from_utf8(&query[at + 1..end]).expect("a name of ASCII"));
        name.push('.');
        at = end;
    }
    (name, at + 5)
}

fn response(query: &[u8], reply: &Reply) -> Option<Vec<u8>> {
    let wanted = u16::from_be_bytes([query[query.len() - 4], query[query.len() - 3]]);
    let (code, addresses) = match reply {
        Reply::Silence => return None,
        Reply::NoName => (3, Vec::new()),
        Reply::ServerFailure => (2, Vec::new()),
        Reply::Addresses(all) => (
            0,
            all.iter()
                .filter(|ip| wanted == if ip.is_ipv4() { 1 } else { 28 })
                .collect(),
        ),
    };
    let mut message = query.to_vec();
    // A response; recursion was desired and is available.
    message[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    message[6..8].copy_from_slice(&u16::try_from(addresses.len()).expect("few").to_be_bytes());
    message[8..12].fill(0);
    if addresses.is_empty() && code != 2 {
        // A start of authority record, which determines how long the negative answer may be cached (RFC 2308
        // section 5).
        message[9] = 1;
        message.extend([0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 60, 0, 22, 0, 0]);
        for seconds in [1_u32, 60, 60, 60, 60] {
            message.extend(seconds.to_be_bytes());
        }
    }
    for address in addresses {
        // The question's name, the wanted type, class IN, a TTL of 0 s.
        message.extend([0xc0, 12]);
        message.extend(wanted.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 0]);
        match address {
            IpAddr::V4(v4) => message.extend([&[0, 4][..], &v4.octets()].concat()),
            IpAddr::V6(v6) => message.extend([&[0, 16][..], &v6.octets()].concat()),
        }
    }
    Some(message)
}
