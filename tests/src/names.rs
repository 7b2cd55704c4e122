//! A DNS server whose answers the test controls, and which can answer the same question differently each
//! time.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use tokio::{net::UdpSocket, task::JoinHandle};

/// How the name server answers a question.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The addresses of the requested family.
    Addresses(Vec<IpAddr>),
    /// The name is an alias of another name, which has these addresses.
    Alias(&'static str, Vec<IpAddr>),
    /// The name does not exist.
    NoName,
    /// The name's authoritative servers fail.
    ServerFailure,
    /// No answer.
    Silence,
}

/// A DNS server on UDP, whose answers have a TTL of 0 s. Dropping it closes the socket.
pub struct Names {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

/// The length of a question's type and class, which follow the name.
const QUESTION_TAIL_BYTES: usize = 4;

impl Names {
    /// Starts a server. `reply` receives the name, without its final dot, and the number of earlier questions
    /// about it. A lookup consists of two questions, one for each address family.
    pub async fn start(reply: impl Fn(&str, usize) -> Reply + Send + 'static) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (mut asked, mut query) = (HashMap::<String, usize>::new(), [0; 512]);
            // An error means that a client did not wait for its answer.
            loop {
                if let Ok((length, from)) = socket.recv_from(&mut query).await {
                    let (name, end) = question(&query[..length]);
                    let before = asked.entry(name.clone()).or_default();
                    let response = response(&query[..end], &reply(&name, *before));
                    *before += 1;
                    if let Some(response) = response {
                        let _ = socket.send_to(&response, from).await;
                    }
                }
            }
        });
        Self { address, serving }
    }

    /// Returns the server's address, as `egress.name_servers` takes it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Returns the requested name, and the offset at which the question ends (RFC 1035 section 4.1).
fn question(query: &[u8]) -> (String, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(std::str::from_utf8(&query[at + 1..end]).unwrap());
        at = end;
    }
    (labels.join("."), at + 1 + QUESTION_TAIL_BYTES)
}

fn response(query: &[u8], reply: &Reply) -> Option<Vec<u8>> {
    let wanted = u16::from_be_bytes([query[query.len() - 4], query[query.len() - 3]]);
    let (code, alias, all) = match reply {
        Reply::Silence => return None,
        Reply::NoName => (3, None, &Vec::new()),
        Reply::ServerFailure => (2, None, &Vec::new()),
        Reply::Addresses(all) => (0, None, all),
        Reply::Alias(name, all) => (0, Some(*name), all),
    };
    let addresses: Vec<_> = all
        .iter()
        .filter(|ip| wanted == if ip.is_ipv4() { 1 } else { 28 })
        .collect();
    let mut message = query.to_vec();
    // Flags of a response: recursion was desired and is available.
    message[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    let answers = addresses.len() + usize::from(alias.is_some());
    message[6..8].copy_from_slice(&(answers as u16).to_be_bytes());
    message[8..12].fill(0);
    // The answers are about the question's name, or about the name that it is an alias of.
    let mut about = vec![0xc0, 12];
    if let Some(name) = alias {
        let name = in_labels(name);
        record(&mut message, &about, 5, &name);
        about = name;
    }
    if addresses.is_empty() && code != 2 {
        // An SOA record, which says how long the negative answer may be cached (RFC 2308 section 5).
        message[9] = 1;
        let numbers = [1_u32, 60, 60, 60, 0].map(u32::to_be_bytes).concat();
        record(&mut message, &[0], 6, &[&[0, 0][..], &numbers].concat());
    }
    for address in addresses {
        match address {
            IpAddr::V4(v4) => record(&mut message, &about, 1, &v4.octets()),
            IpAddr::V6(v6) => record(&mut message, &about, 28, &v6.octets()),
        }
    }
    Some(message)
}

/// Appends a resource record of class IN with a TTL of 0 s.
fn record(message: &mut Vec<u8>, name: &[u8], kind: u16, data: &[u8]) {
    message.extend(name);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1, 0, 0, 0, 0]);
    message.extend((data.len() as u16).to_be_bytes());
    message.extend(data);
}

fn in_labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}
