//! A program that writes WebSocket frames byte by byte, for what no client library sends.

use std::time::Duration;

use client::OpenRelay;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{Rig, client};

/// The first bytes of frames that are the only one of their message.
pub(super) const TEXT: u8 = 0x81;
pub(super) const BINARY: u8 = 0x82;
pub(super) const CLOSE: u8 = 0x88;
pub(super) const PING: u8 = 0x89;
pub(super) const PONG: u8 = 0x8A;
/// The bit of the second byte that says that the payload is masked.
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
/// The headers that request a WebSocket. The key is the example in RFC 6455.
pub(super) const UPGRADE: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
/// The answer to that key.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The time limit for what happens at once, or after the API has noticed that a program is silent.
const LIMIT: Duration = Duration::from_mins(1);

/// A connection to the API.
pub(super) struct Raw {
    stream: TcpStream,
}

/// A frame of the API.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// The bits and the kind, such as [`TEXT`].
    pub(super) first: u8,
    pub(super) payload: Vec<u8>,
}

impl Raw {
    /// Opens a relay with the rig's key, and connects to it.
    pub(super) async fn of(rig: &Rig) -> (Self, String) {
        Self::with(rig, &rig.key).await
    }

    /// Opens a relay with this key, and connects to it.
    pub(super) async fn with(rig: &Rig, key: &str) -> (Self, String) {
        let relay = client(rig.api.url(), key).open_relay(&OpenRelay::default()).await;
        let id = relay.unwrap().id;
        (Self::connected(rig.api.url(), key, &id).await, id)
    }

    /// Connects to a relay of the API at this URL.
    pub(super) async fn connected(url: &str, key: &str, id: &str) -> Self {
        let (raw, head) = Self::requested(url, key, id, UPGRADE).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let head = head.to_lowercase();
        let accept = format!("sec-websocket-accept: {}\r\n", ACCEPT.to_lowercase());
        assert!(head.contains(&accept), "{head}");
        assert!(!head.contains("sec-websocket-extensions"), "{head}");
        raw
    }

    /// Requests a relay's connection with these headers, each of which ends with a line break. Also returns the head
    /// of the answer.
    pub(super) async fn requested(url: &str, key: &str, id: &str, headers: &str) -> (Self, String) {
        let address = url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let authorization = match key {
            "" => String::new(),
            key => format!("authorization: Bearer {key}\r\n"),
        };
        let request = format!(
            "GET /v1/relays/{id}/connection HTTP/1.1\r\nhost: {address}\r\n{authorization}{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let reading = async {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                head.push(char::from(stream.read_u8().await.unwrap()));
            }
            head
        };
        let head = timeout(LIMIT, reading).await.unwrap();
        (Self { stream }, head)
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        // An error means that the API has closed the connection.
        let _ = self.stream.write_all(bytes).await;
    }

    /// Sends a masked frame, as every client has to.
    pub(super) async fn send(&mut self, first: u8, payload: &[u8]) {
        self.write(&masked(first, payload)).await;
    }

    pub(super) async fn answer(&mut self, answer: &Value) {
        self.send(TEXT, answer.to_string().as_bytes()).await;
    }

    /// Reads one frame; `None` at the end of the connection.
    pub(super) async fn read(&mut self) -> Option<Frame> {
        let reading = async {
            let first = self.stream.read_u8().await.ok()?;
            let second = self.stream.read_u8().await.ok()?;
            assert_eq!(second & MASKED, 0, "a server does not mask its frames");
            let length = match second {
                126 => u64::from(self.stream.read_u16().await.ok()?),
                127 => self.stream.read_u64().await.ok()?,
                short => u64::from(short),
            };
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some(Frame { first, payload })
        };
        timeout(LIMIT, reading)
            .await
            .expect("the API sends pings at least")
    }

    /// Waits for the next request, and answers pings.
    pub(super) async fn request(&mut self) -> Value {
        loop {
            let frame = self.read().await.expect("the connection goes on");
            match frame.first {
                TEXT => return serde_json::from_slice(&frame.payload).unwrap(),
                PING => self.send(PONG, &frame.payload).await,
                _ => panic!("{frame:?}"),
            }
        }
    }

    /// Waits for the next request, and answers it with 200. Returns the request.
    pub(super) async fn accept(&mut self) -> Value {
        let request = self.request().await;
        self.answer(&ok(&request)).await;
        request
    }

    /// Waits for the end of the connection, without answering pings. Returns the close code and the reason; `None` if the
    /// API has sent none.
    pub(super) async fn closed(&mut self) -> Option<(u16, String)> {
        let mut closed = None;
        while let Some(frame) = self.read().await {
            if frame.first == CLOSE {
                let (code, reason) = frame.payload.split_at(2);
                let code = u16::from_be_bytes([code[0], code[1]]);
                closed = Some((code, String::from_utf8(reason.to_vec()).unwrap()));
                self.send(CLOSE, &frame.payload).await;
            }
        }
        closed
    }
}

/// Returns the answer 200 to a request.
pub(super) fn ok(request: &Value) -> Value {
    json!({ "request": request["request"], "status": 200 })
}

/// Returns a masked frame.
pub(super) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len(), MASKED);
    frame.extend(MASK);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// Returns a frame without a mask, which a client must not send.
pub(super) fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len(), 0);
    frame.extend(payload);
    frame
}

fn header(first: u8, length: usize, mask: u8) -> Vec<u8> {
    match length {
        0..=125 => vec![first, mask | length as u8],
        126..=0xFFFF => {
            let length = (length as u16).to_be_bytes();
            [&[first, mask | 0x7e][..], &length].concat()
        }
        _ => {
            let length = (length as u64).to_be_bytes();
            [&[first, mask | 127][..], &length].concat()
        }
    }
}
