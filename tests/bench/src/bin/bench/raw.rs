//! The raw loop: consume a message, sign it, POST it to each endpoint, and acknowledge it. It shows the
//! minimum cost of a delivery with the libraries that the worker uses.
//!
//! The loop does not check the envelope, knows only the endpoints of one event, and has no log and no
//! metrics. It would lose or duplicate events in most of the situations that the worker handles.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all};
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use reqwest::{Certificate, Client, header::CONTENT_TYPE, redirect};
use serde::{Deserialize, Serialize};
use signature::{SIGNATURE_HEADER, Secret, SigningKey};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// The maximum number of requests in flight.
const POSTS: usize = 256;
/// The number of deliveries whose messages are acknowledged together.
const ACKED_TOGETHER: usize = 32;

/// The arguments of the raw loop.
#[derive(Deserialize, Serialize)]
pub(crate) struct Job {
    pub(crate) broker: String,
    pub(crate) queue: String,
    /// The number of messages to deliver.
    pub(crate) events: u64,
    /// The URL and the secret of each endpoint. All of them receive every message.
    pub(crate) endpoints: Vec<(String, String)>,
    /// The certificate authority to trust, if the endpoints use TLS.
    pub(crate) authority: Option<PathBuf>,
}

struct Target {
    client: Client,
    endpoints: Vec<(String, SigningKey)>,
}

/// Delivers the messages, and then waits for SIGTERM.
pub(crate) async fn run(job: Job) {
    let mut stop = signal(SignalKind::terminate()).unwrap();
    let fan_out = job.endpoints.len();
    let connection = Connection::connect(&job.broker, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .basic_qos((POSTS / fan_out) as u16, BasicQosOptions::default())
        .await
        .unwrap();
    let consuming = channel.basic_consume(
        job.queue.as_str().into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut consumer = consuming.await.unwrap();
    let key = |secret: &str| SigningKey::new(&Secret::parse(secret).unwrap());
    let endpoints = job.endpoints.into_iter();
    let target = Arc::new(Target {
        client: client(job.authority.as_deref()),
        endpoints: endpoints.map(|(url, secret)| (url, key(&secret))).collect(),
    });
    // The prefetch bounds this channel.
    let (posted, done) = mpsc::unbounded_channel();
    let acked_together = (ACKED_TOGETHER / fan_out).max(1);
    let acking = tokio::spawn(ack(channel, done, job.events, acked_together as u64));
    for _ in 0..job.events {
        let delivery = consumer.next().await.unwrap().unwrap();
        let (target, posted) = (Arc::clone(&target), posted.clone());
        tokio::spawn(async move {
            target.post(&delivery.data.into()).await;
            posted.send(delivery.delivery_tag).unwrap();
        });
    }
    acking.await.unwrap();
    stop.recv().await;
    connection.close(200, "done".into()).await.unwrap();
}

/// Returns an HTTP client like the worker's, but without its resolver and without its limit on idle
/// connections.
fn client(authority: Option<&Path>) -> Client {
    // The client needs a crypto provider even for plain HTTP. An error means that one is already installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let trusted = authority.map(|file| Certificate::from_pem(&fs::read(file).unwrap()).unwrap());
    Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .tls_certs_merge(trusted)
        .build()
        .unwrap()
}

impl Target {
    /// Sends the body to all endpoints concurrently.
    async fn post(&self, body: &Bytes) {
        let posts = self
            .endpoints
            .iter()
            .map(|(url, key)| self.post_to(url, key, body.clone()));
        join_all(posts).await;
    }

    async fn post_to(&self, url: &str, key: &SigningKey, body: Bytes) {
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(SIGNATURE_HEADER, key.sign(&body))
            .body(body);
        let response = request.send().await.unwrap();
        assert!(response.status().is_success());
        response.bytes().await.unwrap();
    }
}

/// Acknowledges the messages in the order of their delivery tags, with one ack for each group of `together`
/// messages. The delivery tags of a channel are 1, 2, 3 and so on.
async fn ack(channel: Channel, mut done: mpsc::UnboundedReceiver<u64>, events: u64, together: u64) {
    let (mut ahead, mut prefix, mut acked) = (BinaryHeap::new(), 0, 0);
    while acked < events {
        ahead.push(Reverse(done.recv().await.unwrap()));
        while ahead.peek() == Some(&Reverse(prefix + 1)) {
            ahead.pop();
            prefix += 1;
        }
        if prefix - acked >= together || prefix == events {
            channel
                .basic_ack(prefix, BasicAckOptions { multiple: true })
                .await
                .unwrap();
            acked = prefix;
        }
    }
}
