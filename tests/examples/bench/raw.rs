//! The raw loop: consume, sign, POST, ack. What a delivery costs at least, with the libraries that the worker uses.
//!
//! It checks no envelope, knows one endpoint, keeps no log, counts nothing, and would lose or repeat events in most of the
//! ways that the worker is there to prevent.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use futures_util::StreamExt as _;
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use reqwest::{Client, header::CONTENT_TYPE, redirect};
use signature::{SIGNATURE_HEADER, Secret, SigningKey};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

const PREFETCH: u16 = 256;
/// Messages of one ack.
const ACKED_TOGETHER: u64 = 32;

struct Target {
    client: Client,
    url: String,
    key: SigningKey,
}

/// Delivers so many messages of a queue, and then waits for SIGTERM.
pub(crate) async fn run(broker: &str, queue: &str, url: &str, secret: &str, events: u64) {
    let mut stop = signal(SignalKind::terminate()).unwrap();
    let connection = Connection::connect(broker, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await
        .unwrap();
    let consuming = channel.basic_consume(
        queue.into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut consumer = consuming.await.unwrap();
    let target = Arc::new(Target {
        client: client(),
        url: url.to_owned(),
        key: SigningKey::new(&Secret::parse(secret).unwrap()),
    });
    // Bounded by the prefetch.
    let (posted, done) = mpsc::unbounded_channel();
    let acking = tokio::spawn(ack(channel, done, events));
    for _ in 0..events {
        let delivery = consumer.next().await.unwrap().unwrap();
        let (target, posted) = (Arc::clone(&target), posted.clone());
        tokio::spawn(async move {
            target.post(delivery.data).await;
            posted.send(delivery.delivery_tag).unwrap();
        });
    }
    acking.await.unwrap();
    stop.recv().await;
    connection.close(200, "done".into()).await.unwrap();
}

/// As the worker's client, without its resolver and TLS, and with as many idle connections as there are.
fn client() -> Client {
    // The client wants a provider, also for plain HTTP. An error says that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .build()
        .unwrap()
}

impl Target {
    async fn post(&self, body: Vec<u8>) {
        let request = self
            .client
            .post(&self.url)
            .header(CONTENT_TYPE, "application/json")
            .header(SIGNATURE_HEADER, self.key.sign(&body))
            .body(body);
        let response = request.send().await.unwrap();
        assert!(response.status().is_success());
        response.bytes().await.unwrap();
    }
}

/// One ack for every 32 messages from the oldest on. The tags of a channel are 1, 2, 3 and so on.
async fn ack(channel: Channel, mut done: mpsc::UnboundedReceiver<u64>, events: u64) {
    let (mut ahead, mut prefix, mut acked) = (BinaryHeap::new(), 0, 0);
    while acked < events {
        ahead.push(Reverse(done.recv().await.unwrap()));
        while ahead.peek() == Some(&Reverse(prefix + 1)) {
            ahead.pop();
            prefix += 1;
        }
        if prefix - acked >= ACKED_TOGETHER || prefix == events {
            channel
                .basic_ack(prefix, BasicAckOptions { multiple: true })
                .await
                .unwrap();
            acked = prefix;
        }
    }
}
