//! A client of the broker, used as an external publisher and as an operator.

use std::{
    collections::HashMap,
    env, io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions,
        ConfirmSelectOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{Endpoint, proxy::Target, wait_for};

/// A connection to the broker, with one channel in confirm mode.
pub struct Amqp {
    channel: Channel,
    _connection: Connection,
    prefix: String,
}

/// A message that was found in a queue.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its body, as it was published.
    pub body: Bytes,
    /// Its properties.
    pub properties: BasicProperties,
}

impl Amqp {
    /// Connects to the first broker in `urls` that answers. `urls` is one URL, or several separated by
    /// commas. The names of exchanges and queues begin with `prefix`.
    pub async fn connect(urls: &str, prefix: &str) -> Self {
        let connection = connect(urls).await;
        let channel = connection.create_channel().await.unwrap();
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        Self {
            channel,
            _connection: connection,
            prefix: prefix.to_owned(),
        }
    }

    /// Publishes events as `docs/protocol.md` requires, with up to 256 unconfirmed at a time. Panics unless
    /// the broker routes and confirms each of them.
    pub async fn publish(&self, bodies: &[impl AsRef<[u8]>]) {
        for window in bodies.chunks(256) {
            let confirms = window
                .iter()
                .map(|body| self.publish_raw(body.as_ref(), BasicProperties::default()));
            for confirmation in join_all(confirms).await {
                assert_eq!(
                    confirmation,
                    Confirmation::Ack(None),
                    "a publish was refused or returned"
                );
            }
        }
    }

    /// Publishes one message to the events exchange with these properties.
    pub async fn publish_raw(&self, body: &[u8], properties: BasicProperties) -> Confirmation {
        self.publish_to("events", "test", body, properties).await
    }

    /// Publishes one message to the exchange `prefix.name`.
    pub async fn publish_to(
        &self,
        name: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Confirmation {
        let exchange = format!("{}.{name}", self.prefix);
        let options = BasicPublishOptions {
            mandatory: true,
            immediate: false,
        };
        let properties = properties.with_delivery_mode(2);
        let published = self
            .channel
            .basic_publish(exchange.as_str().into(), key.into(), options, body, properties)
            .await;
        published.unwrap().await.unwrap()
    }

    /// Declares an exclusive queue `prefix.queue` and binds it to the exchange `prefix.exchange`, as the
    /// platform does. The broker deletes the queue when this connection closes.
    pub async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        };
        let [queue, exchange] = [queue, exchange].map(|name| format!("{}.{name}", self.prefix));
        self.channel
            .queue_declare(queue.as_str().into(), options, FieldTable::default())
            .await
            .unwrap();
        self.channel
            .queue_bind(
                queue.as_str().into(),
                exchange.as_str().into(),
                key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
    }

    /// Removes the binding of the queue `prefix.queue` to the exchange `prefix.exchange`.
    pub async fn unbind(&self, exchange: &str, queue: &str, key: &str) {
        let [queue, exchange] = [queue, exchange].map(|name| format!("{}.{name}", self.prefix));
        let (queue, exchange) = (queue.as_str().into(), exchange.as_str().into());
        let unbound = self
            .channel
            .queue_unbind(queue, exchange, key.into(), FieldTable::default());
        unbound.await.unwrap();
    }

    /// Returns the number of messages that are ready in the queue `prefix.name`.
    pub async fn ready(&self, name: &str) -> u32 {
        let options = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let name = format!("{}.{name}", self.prefix);
        let queue = self
            .channel
            .queue_declare(name.as_str().into(), options, FieldTable::default())
            .await;
        queue.unwrap().message_count()
    }

    /// Waits until exactly `count` messages are ready in the queue `prefix.name`.
    pub async fn wait_for_ready(&self, name: &str, count: u32, limit: Duration) {
        wait_for(&format!("{count} messages in {name}"), limit, || async {
            let ready = self.ready(name).await;
            if ready == count {
                Ok(())
            } else {
                Err(format!("{ready} messages"))
            }
        })
        .await;
    }

    /// Consumes and acknowledges the messages of the queue `prefix.name` until none is ready, and returns
    /// them.
    pub async fn drain(&self, name: &str) -> Vec<Found> {
        let queue = format!("{}.{name}", self.prefix);
        let mut found = Vec::new();
        loop {
            let ready = self.ready(name).await as usize;
            if ready == 0 {
                return found;
            }
            let mut consumer = self
                .channel
                .basic_consume(
                    queue.as_str().into(),
                    "".into(),
                    BasicConsumeOptions::default(),
                    FieldTable::default(),
                )
                .await
                .unwrap();
            for _ in 0..ready {
                let delivery = consumer.next().await.unwrap().unwrap();
                delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
                found.push(Found {
                    body: delivery.data.into(),
                    properties: delivery.properties,
                });
            }
            let (tag, options) = (consumer.tag(), BasicCancelOptions::default());
            self.channel.basic_cancel(tag, options).await.unwrap();
            // Requeues messages that arrived after they were counted.
            while let Some(more) = consumer.next().await {
                let requeue = BasicNackOptions {
                    requeue: true,
                    ..Default::default()
                };
                more.unwrap().acker.nack(requeue).await.unwrap();
            }
        }
    }

    /// Measures how late the broker alone delivers the messages of the delay queue of `delay_ms`, and appends
    /// each result to `late_ms`, in milliseconds.
    ///
    /// Publishes a message to the delay queue every 20 ms. The result is the time from the publish until the
    /// message is consumed from `due`, minus the delay. Never returns. There must be no other consumer of
    /// `due`.
    pub async fn watch_lateness(&self, delay_ms: u64, late_ms: &mut Vec<f64>) {
        const EVERY: Duration = Duration::from_millis(20);
        let (due, delay) = (
            format!("{}.due", self.prefix),
            format!("{}.delay.{delay_ms}", self.prefix),
        );
        let options = BasicConsumeOptions {
            no_ack: true,
            ..Default::default()
        };
        let consuming =
            self.channel
                .basic_consume(due.as_str().into(), "".into(), options, FieldTable::default());
        let mut consumer = consuming.await.unwrap();
        let (began, mut pace) = (Instant::now(), tokio::time::interval(EVERY));
        loop {
            tokio::select! {
                _ = pace.tick() => {
                    let sent_us = began.elapsed().as_micros().to_string();
                    let publishing = self.channel.basic_publish(
                        "".into(),
                        delay.as_str().into(),
                        BasicPublishOptions::default(),
                        sent_us.as_bytes(),
                        BasicProperties::default().with_delivery_mode(2),
                    );
                    // Does not wait for the publisher confirm, which would measure something else.
                    publishing.await.unwrap();
                }
                delivery = consumer.next() => {
                    let sent_us = String::from_utf8(delivery.unwrap().unwrap().data).unwrap();
                    let took_us = began.elapsed().as_micros() as u64 - sent_us.parse::<u64>().unwrap();
                    late_ms.push(took_us as f64 / 1000.0 - delay_ms as f64);
                }
            }
        }
    }

    /// Drains the queue of dead letters, and returns the last dead letter of each endpoint by the endpoint's
    /// id.
    pub async fn dead_letters(&self) -> HashMap<String, Found> {
        let letters = self.drain("dead").await.into_iter();
        letters
            .map(|letter| (letter.header("magnetite-endpoint"), letter))
            .collect()
    }

    /// Deletes the exchange `prefix.name`, as an operator might do by mistake.
    pub async fn delete_exchange(&self, name: &str) {
        let name = format!("{}.{name}", self.prefix);
        self.channel
            .exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default())
            .await
            .unwrap();
    }

    /// Deletes the queues and exchanges of an installation that has these delay queues.
    pub async fn delete(&self, delays_ms: &[u64]) {
        let mut names: Vec<String> = ["events", "due", "dead", "rejected", "journal"]
            .map(str::to_owned)
            .into();
        names.extend(delays_ms.iter().map(|ms| format!("delay.{ms}")));
        for name in names {
            let name = format!("{}.{name}", self.prefix);
            let _ = self
                .channel
                .queue_delete(name.as_str().into(), QueueDeleteOptions::default())
                .await;
        }
        for name in ["events", "deliveries", "operations", "changes", "installation"] {
            let name = format!("{}.{name}", self.prefix);
            let _ = self
                .channel
                .exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default())
                .await;
        }
    }
}

pub(crate) async fn connect(urls: &str) -> Connection {
    const ANSWER: Duration = Duration::from_secs(5);
    let mut last = String::new();
    for url in urls.split(',') {
        // A node that hangs still accepts connections, so the handshake needs a timeout.
        let connecting = async {
            assert_version(url).await.map_err(|error| error.to_string())?;
            let connecting = Connection::connect(url, ConnectionProperties::default());
            connecting.await.map_err(|error| error.to_string())
        };
        match timeout(ANSWER, connecting).await {
            Ok(Ok(connection)) => return connection,
            Ok(Err(error)) => last = error,
            Err(elapsed) => last = elapsed.to_string(),
        }
    }
    panic!("no broker answers: {last}");
}

/// Panics unless the broker has the major version that `tests/run.sh --rabbitmq` has put into
/// `MAGNETITE_TEST_RABBITMQ`. Without this check, a run for RabbitMQ 4 could test RabbitMQ 3 unnoticed. Does
/// nothing if the variable is not set.
///
/// The broker sends its version in its first frame, as a long string.
async fn assert_version(url: &str) -> io::Result<()> {
    const KEY: &[u8] = b"\x07versionS";
    let Ok(major) = env::var("MAGNETITE_TEST_RABBITMQ") else {
        return Ok(());
    };
    let mut stream = TcpStream::connect(Target::of(url).server()).await?;
    stream.write_all(b"AMQP\0\0\x09\x01").await?;
    let mut frame = Vec::new();
    let version = loop {
        if stream.read_buf(&mut frame).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let at = frame.windows(KEY.len()).position(|bytes| bytes == KEY);
        // The value is a length of four bytes, followed by the version.
        let text = at
            .and_then(|at| frame.get(at + KEY.len() + 4..))
            .unwrap_or_default();
        if text.len() > major.len() {
            break String::from_utf8_lossy(text).into_owned();
        }
    };
    let expected = format!("{major}.");
    assert!(
        version.starts_with(&expected),
        "this run is for RabbitMQ {major}.x, and at {url} is {version:.6}"
    );
    Ok(())
}

/// Returns the headers of a delivery whose second attempt is due, as workers publish it.
pub fn due_headers(endpoint: &Endpoint) -> FieldTable {
    let (endpoint, trigger) = (endpoint.id.as_str(), "event");
    let texts = [("magnetite-endpoint", endpoint), ("magnetite-trigger", trigger)];
    let numbers = [
        ("magnetite-run", 0),
        ("magnetite-attempt", 2),
        ("magnetite-deferrals", 0),
    ];
    let mut headers = FieldTable::default();
    for (name, value) in texts {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    for (name, value) in numbers {
        headers.insert(name.into(), AMQPValue::LongLongInt(value));
    }
    headers
}

impl Found {
    /// Returns the value of a header as text, also if it is a number, or an empty string if the header is
    /// absent.
    pub fn header(&self, name: &str) -> String {
        let headers = self.properties.headers().as_ref();
        match headers.and_then(|headers| headers.inner().get(name)) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            Some(AMQPValue::LongLongInt(number)) => number.to_string(),
            Some(other) => format!("{other:?}"),
            None => String::new(),
        }
    }
}
