//! A publisher that writes AMQP frames byte by byte, for messages that no client library can express.

use std::time::Duration;

use lapin::uri::AMQPUri;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// The timeout for each answer of the broker.
const LIMIT: Duration = Duration::from_secs(30);

/// A connection with one channel in confirm mode.
pub struct Raw {
    stream: TcpStream,
    prefix: String,
}

/// A message as raw bytes.
#[derive(Clone, Debug)]
pub struct RawMessage {
    /// The exchange's name without the prefix; empty for the default exchange.
    pub exchange: &'static str,
    /// The routing key as it is. For the default exchange, the queue's name without the prefix.
    pub routing_key: Vec<u8>,
    /// The property flags and the properties.
    pub properties: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
}

impl RawMessage {
    /// Creates a message for the events exchange. Its `app_id` and its routing key are not UTF-8, so that
    /// lapin cannot decode it.
    pub fn unreadable(number: usize, body: String) -> Self {
        let app_id = [b"pipeline-\xe9" as &[u8], number.to_string().as_bytes()].concat();
        let persistent_and_app_id = (1_u16 << 12 | 1 << 3).to_be_bytes();
        Self {
            exchange: "events",
            routing_key: b"lead.\xe9".to_vec(),
            properties: [&persistent_and_app_id[..], &[2], &short(&app_id)].concat(),
            body: body.into_bytes(),
        }
    }
}

/// The maximum payload of a body frame, given the negotiated frame size.
const BODY_BYTES: usize = 128 * 1024 - 8;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

impl Raw {
    /// Connects with the PLAIN mechanism. The names of exchanges and queues begin with `prefix`.
    pub async fn connect(url: &str, prefix: &str) -> Self {
        let uri: AMQPUri = url.parse().unwrap();
        let address = (uri.authority.host.as_str(), uri.authority.port);
        let mut raw = Self {
            stream: TcpStream::connect(address).await.unwrap(),
            prefix: prefix.to_owned(),
        };
        raw.stream.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
        raw.expect([0, 10, 0, 10]).await;
        let user = &uri.authority.userinfo;
        let login = format!("\0{}\0{}", user.username, user.password);
        let login = [&(login.len() as u32).to_be_bytes()[..], login.as_bytes()].concat();
        let start_ok = [&[0, 10, 0, 11, 0, 0, 0, 0, 5][..], b"PLAIN", &login, b"\x05en_US"].concat();
        raw.write(METHOD, 0, &start_ok).await;
        raw.expect([0, 10, 0, 30]).await;
        raw.write(METHOD, 0, &[0, 10, 0, 31, 0, 9, 0, 2, 0, 0, 0, 0])
            .await;
        let open = [&[0, 10, 0, 40][..], &short(uri.vhost.as_bytes()), &[0, 0]].concat();
        raw.write(METHOD, 0, &open).await;
        raw.expect([0, 10, 0, 41]).await;
        raw.write(METHOD, 1, &[0, 20, 0, 10, 0]).await;
        raw.expect([0, 20, 0, 11]).await;
        raw.write(METHOD, 1, &[0, 85, 0, 10, 0]).await;
        raw.expect([0, 85, 0, 11]).await;
        raw
    }

    /// Publishes the message as `mandatory`, and waits for the confirm.
    ///
    /// # Errors
    /// Returns the broker's answer if it refuses the message. The connection cannot be used afterwards.
    pub async fn publish(&mut self, message: &RawMessage) -> Result<(), String> {
        let behind_prefix = |name: &[u8]| [self.prefix.as_bytes(), b".", name].concat();
        let (exchange, key) = match message.exchange {
            "" => (Vec::new(), behind_prefix(&message.routing_key)),
            exchange => (behind_prefix(exchange.as_bytes()), message.routing_key.clone()),
        };
        let publish = [&[0, 60, 0, 40, 0, 0][..], &short(&exchange), &short(&key), &[1]].concat();
        let length = (message.body.len() as u64).to_be_bytes();
        let header = [&[0, 60, 0, 0][..], &length, &message.properties].concat();
        self.write(METHOD, 1, &publish).await;
        self.write(HEADER, 1, &header).await;
        for piece in message.body.chunks(BODY_BYTES) {
            self.write(BODY, 1, piece).await;
        }
        match self.read().await.as_slice() {
            [0, 60, 0, 80, ..] => Ok(()),
            [0, 60, 0, 50, ..] => panic!("the message was returned: {message:?}"),
            refused => Err(String::from_utf8_lossy(refused).into_owned()),
        }
    }

    async fn write(&mut self, kind: u8, channel: u8, payload: &[u8]) {
        let size = (payload.len() as u32).to_be_bytes();
        let frame = [&[kind, 0, channel][..], &size, payload, &[0xCE]].concat();
        // The broker may have closed the connection; its answer says so.
        let _ = self.stream.write_all(&frame).await;
    }

    async fn expect(&mut self, method: [u8; 4]) {
        let payload = self.read().await;
        assert!(
            payload.starts_with(&method),
            "{:?}",
            String::from_utf8_lossy(&payload)
        );
    }

    /// Returns the payload of the next frame, or nothing if the connection has ended.
    async fn read(&mut self) -> Vec<u8> {
        let reading = async {
            let mut before = [0; 7];
            self.stream.read_exact(&mut before).await.ok()?;
            let size = u32::from_be_bytes([before[3], before[4], before[5], before[6]]);
            let mut payload = vec![0; size as usize + 1];
            self.stream.read_exact(&mut payload).await.ok()?;
            payload.pop();
            Some(payload)
        };
        let read = timeout(LIMIT, reading).await;
        read.expect("the broker answers").unwrap_or_default()
    }
}

/// Encodes these bytes, which need not be UTF-8, as an AMQP short string.
pub fn short(text: &[u8]) -> Vec<u8> {
    [&[text.len() as u8], text].concat()
}

/// Encodes these bytes as an AMQP long string, array or table.
pub fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}
