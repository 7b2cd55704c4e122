//! Requests that are written byte by byte.

use e2e::{SOON, now_ms};
use signature::{Secret, SigningKey};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// A request, which can be changed before it is sent.
#[derive(Clone)]
pub(crate) struct Request {
    method: &'static str,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
    is_chunked: bool,
}

impl Request {
    /// Creates a request with the signatures that Magnetite makes at this time, in Unix seconds.
    pub(crate) fn at(at_s: i64, secret: &str, id: &str, body: &[u8]) -> Self {
        let key = SigningKey::new(&Secret::parse(secret).unwrap());
        let headers = [
            ("x-magnetite-signature", key.sign(body)),
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", at_s.to_string()),
            ("webhook-signature", key.sign_standard(id, at_s, body)),
        ];
        Self {
            method: "POST",
            headers: headers.map(|(name, value)| (name, value.into_bytes())).into(),
            body: body.to_owned(),
            is_chunked: false,
        }
    }

    /// Creates a request that is signed now.
    pub(crate) fn signed(secret: &str, id: &str, body: &[u8]) -> Self {
        Self::at(now_s(), secret, id, body)
    }

    pub(crate) fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    pub(crate) fn header(self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        let mut this = self.without(name);
        this.headers.push((name, value.as_ref().to_owned()));
        this
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    pub(crate) fn chunked(mut self) -> Self {
        self.is_chunked = true;
        self
    }

    pub(crate) fn value(&self, name: &str) -> String {
        let found = self.headers.iter().find(|(known, _)| *known == name).unwrap();
        String::from_utf8(found.1.clone()).unwrap()
    }

    /// Sends the request, and returns the status of the answer; `None` if the connection was closed without
    /// one.
    pub(crate) async fn send(&self, port: u16) -> Option<u16> {
        let bytes = self.bytes();
        let asked = async {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (mut reading, mut writing) = stream.split();
            // A receiver that has read enough may close the connection before everything is written.
            let (_, status) = tokio::join!(writing.write_all(&bytes), status(&mut reading));
            status
        };
        timeout(SOON, asked)
            .await
            .unwrap_or_else(|_| panic!("port {port}: no answer within {SOON:?}"))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} /webhook HTTP/1.1\r\nhost: localhost\r\n", self.method).into_bytes();
        bytes.extend_from_slice(b"content-type: application/json\r\nconnection: close\r\n");
        for (name, value) in &self.headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        if self.is_chunked {
            bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            for chunk in self.body.chunks(10_000) {
                bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                bytes.extend([chunk, b"\r\n"].concat());
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
        } else {
            bytes.extend(format!("content-length: {}\r\n\r\n", self.body.len()).into_bytes());
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

async fn status(reading: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<u16> {
    let mut head = [0; 12];
    reading.read_exact(&mut head).await.ok()?;
    let head = String::from_utf8_lossy(&head);
    let status = head.strip_prefix("HTTP/1.1 ").or(head.strip_prefix("HTTP/1.0 "));
    status.and_then(|status| status.parse().ok())
}

pub(crate) fn now_s() -> i64 {
    (now_ms() / 1000) as i64
}
