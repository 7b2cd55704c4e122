//! A name server that can fall silent.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{net::UdpSocket, task::JoinHandle};

/// Answers every question for an A record with one address, which may be kept for a second, and every other one with nothing.
/// Over UDP alone.
pub struct NameServer {
    address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    is_silent: AtomicBool,
    questions: AtomicUsize,
}

const HEADER_BYTES: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];
/// A response to a recursive query, without an error.
const FLAGS: [u8; 2] = [0x81, 0x80];
const TTL_S: u32 = 1;

impl NameServer {
    /// Listens on loopback.
    pub async fn start(answer: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, state) = (socket.local_addr().unwrap(), Arc::<State>::default());
        let serving = tokio::spawn(serve(socket, Arc::clone(&state), answer));
        Self {
            address,
            state,
            serving,
        }
    }

    /// Where it listens, as `egress.name_servers` wants it.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Whether it leaves questions unanswered from now on.
    pub fn be_silent(&self, is_silent: bool) {
        self.state.is_silent.store(is_silent, Ordering::SeqCst);
    }

    /// How many questions came so far.
    pub fn questions(&self) -> usize {
        self.state.questions.load(Ordering::SeqCst)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(socket: UdpSocket, state: Arc<State>, answer: Ipv4Addr) {
    let mut buffer = [0; 512];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        state.questions.fetch_add(1, Ordering::SeqCst);
        if !state.is_silent.load(Ordering::SeqCst) {
            let _ = socket.send_to(&response(&buffer[..length], answer), client).await;
        }
    }
}

/// RFC 1035, section 4: the header, the question as it was asked, and the answer.
fn response(query: &[u8], answer: Ipv4Addr) -> Vec<u8> {
    let name_bytes = query[HEADER_BYTES..].iter().position(|byte| *byte == 0);
    let question_end = HEADER_BYTES + name_bytes.expect("a name ends with the root") + 5;
    let question = &query[HEADER_BYTES..question_end];
    let has_answer = question[question.len() - 4..question.len() - 2] == TYPE_A;
    let mut response = query[..2].to_vec();
    response.extend(FLAGS);
    response.extend([0, 1, 0, u8::from(has_answer), 0, 0, 0, 0]);
    response.extend(question);
    if has_answer {
        // The name stands right behind the header; type A, class IN.
        response.extend([0xc0, HEADER_BYTES as u8, 0, 1, 0, 1]);
        response.extend(TTL_S.to_be_bytes());
        response.extend([0, 4]);
        response.extend(answer.octets());
    }
    response
}
