//! A server that answers with given bytes, in the order of the requests.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use client::{ApiKey, Client, ClientBuilder, Retries};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What the server does with a request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// Sends these bytes, and closes the connection.
    Bytes(Vec<u8>),
    /// Sends these bytes, and then spaces until the client closes the connection.
    Endless(Vec<u8>),
    /// Sends these bytes, and keeps the connection open.
    Stall(Vec<u8>),
}

/// A running server. Dropping it closes its socket.
pub(crate) struct Server {
    url: String,
    /// The requests, as they were received.
    requests: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Reply {
    /// Returns a JSON answer.
    pub(crate) fn json(status: u16, json: &str) -> Self {
        Self::with(status, "application/json", "", json)
    }

    /// Returns a problem of this kind.
    pub(crate) fn problem(status: u16, kind: &str) -> Self {
        let json = format!(
            r#"{{"type":"urn:magnetite:problem:{kind}","title":"T","status":{status},"detail":"Do this.","instance":"req_1"}}"#
        );
        Self::with(status, "application/problem+json", "", &json)
    }

    /// Returns an answer with additional headers, each of which ends with a line break.
    pub(crate) fn with(status: u16, media_type: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::Bytes(
            format!(
                "HTTP/1.1 {status} Status\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n{headers}\
                 connection: close\r\n\r\n{body}"
            )
            .into_bytes(),
        )
    }

    /// Returns the answer that only closes the connection.
    pub(crate) fn close() -> Self {
        Self::Bytes(Vec::new())
    }
}

impl Server {
    /// Starts a server that answers the nth request with the nth reply, and every later one with the last.
    pub(crate) async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (replies, seen) = (replies.clone(), Arc::clone(&seen));
                tokio::spawn(serve(stream, replies, seen));
            }
        });
        Self {
            url,
            requests,
            serving,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns a client of this server that makes up to three tries.
    pub(crate) fn client(&self) -> Client {
        let retries = Retries {
            tries_max: 3,
            ..Retries::default()
        };
        builder(&self.url).retries(retries).build().unwrap()
    }

    /// Closes the socket, and returns when connections to it are refused.
    pub(crate) async fn stop(mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Returns the settings of a client with short timeouts.
pub(crate) fn builder(url: &str) -> ClientBuilder {
    Client::builder(url, key())
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(5))
}

pub(crate) fn key() -> ApiKey {
    ApiKey::generate([7; 32])
}

async fn serve(mut stream: TcpStream, replies: Vec<Reply>, seen: Arc<Mutex<Vec<String>>>) {
    let Some(request) = read(&mut stream).await else {
        return;
    };
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(request);
        seen.len()
    };
    let reply = &replies[number.min(replies.len()) - 1];
    match reply {
        Reply::Bytes(bytes) => {
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
        }
        Reply::Endless(bytes) => {
            let _ = stream.write_all(bytes).await;
            let spaces = vec![b' '; 256 * 1024];
            while stream.write_all(&spaces).await.is_ok() {}
        }
        Reply::Stall(bytes) => {
            let _ = stream.write_all(bytes).await;
            // Ends when the client closes the connection.
            let _ = stream.read_u8().await;
        }
    }
}

/// Reads a request; `None` if the client closes the connection before.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.parse::<usize>().ok())?
        });
        if body.len() >= length.unwrap_or(0) {
            return Some(text.into_owned());
        }
    }
}
