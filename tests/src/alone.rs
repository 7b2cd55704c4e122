//! Measures the latency of the broker and the machine without Magnetite. Latency tests add it to their
//! limits, because other processes may use the same machine.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use lapin::{
    BasicProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::{task::JoinHandle, time::interval};

use crate::{Installation, amqp::connect, percentile};

const EVERY: Duration = Duration::from_millis(20);
/// How long the queue may be unused before the broker deletes it, in milliseconds.
const EXPIRES_MS: i32 = 60_000;

/// A reference measurement that runs alongside a test. It sends a persistent message through a quorum queue
/// every 20 ms, without involving Magnetite.
pub struct Alone {
    watching: JoinHandle<()>,
    /// For each message, when it was due to be published and how many milliseconds later it was received.
    late: Arc<Mutex<Vec<(Instant, f64)>>>,
}

impl Alone {
    /// Starts measuring on the installation's broker.
    pub async fn start(installation: &Installation) -> Self {
        let late = Arc::new(Mutex::new(Vec::new()));
        let queue = format!("{}-alone", installation.prefix());
        let url = installation.broker_url().to_owned();
        let (found, began) = (Arc::clone(&late), Instant::now());
        let connection = connect(&url).await;
        let channel = connection.create_channel().await.unwrap();
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-expires".into(), AMQPValue::LongInt(EXPIRES_MS));
        let durable = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        channel
            .queue_declare(queue.as_str().into(), durable, arguments)
            .await
            .unwrap();
        let no_ack = BasicConsumeOptions {
            no_ack: true,
            ..Default::default()
        };
        let consuming =
            channel.basic_consume(queue.as_str().into(), "".into(), no_ack, FieldTable::default());
        let mut consumer = consuming.await.unwrap();
        let watching = tokio::spawn(async move {
            let _connection = connection;
            let mut pace = interval(EVERY);
            loop {
                tokio::select! {
                    due = pace.tick() => {
                        let due_us = (due.into_std() - began).as_micros().to_string();
                        let published = channel.basic_publish(
                            "".into(),
                            queue.as_str().into(),
                            BasicPublishOptions::default(),
                            due_us.as_bytes(),
                            BasicProperties::default().with_delivery_mode(2),
                        );
                        // Does not wait for the publisher confirm, which would measure something else.
                        published.await.unwrap();
                    }
                    delivery = consumer.next() => {
                        let due_us = String::from_utf8(delivery.unwrap().unwrap().data).unwrap();
                        let due = began + Duration::from_micros(due_us.parse().unwrap());
                        let ms = due.elapsed().as_secs_f64() * 1000.0;
                        found.lock().unwrap().push((due, ms));
                    }
                }
            }
        });
        Self { watching, late }
    }

    /// Returns the percentile `p` of the lateness, in milliseconds, of those messages whose due time
    /// satisfies `is_within`.
    pub fn late_ms(&self, p: f64, is_within: impl Fn(Instant) -> bool) -> f64 {
        let late = self.late.lock().unwrap();
        let within = late.iter().filter(|(due, _)| is_within(*due));
        percentile(&mut within.map(|(_, ms)| *ms).collect::<Vec<_>>(), p)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.watching.abort();
    }
}
