//! The raw loop: consume, sign, POST to each endpoint, ack. What a delivery costs at least, with the
//! libraries that the worker uses.
//!
//! It checks no envelope, knows the endpoints of one event, keeps no log, counts nothing, and would lose or
//! repeat events in most of the ways that the worker is there to prevent.

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

/// Requests that are under way at most.
const POSTS: usize = 256;
/// Of so many deliveries' messages.
const ACKED_TOGETHER: usize = 32;

/// What it is started with.
#[derive(Deserialize, Serialize)]
pub(crate) struct Job {
    pub(crate) broker: String,
    pub(crate) queue: String,
    /// Messages to deliver.
    pub(crate) events: u64,
    /// The URL and the secret of each endpoint; all get every message.
    pub(crate) endpoints: Vec<(String, String)>,
    /// Whom to trust, if the endpoints speak TLS.
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
    // Bounded by the prefetch.
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

/// As the worker's client, without its resolver, and with as many idle connections as there are.
fn client(authority: Option<&Path>) -> Client {
    // The client wants a provider, also for plain HTTP. An error says that there is one.
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
    /// To all endpoints at once.
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

/// One ack for so many messages together, from the oldest on. The tags of a channel are 1, 2, 3 and so on.
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
