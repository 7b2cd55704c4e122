//! Queues that one connection uses exclusively, and that are deleted with it. Their messages may be lost.

use lapin::{
    Channel, Consumer,
    options::{BasicConsumeOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

/// Declares a private queue. `limit` is the name and the value of the argument that limits its length.
pub(crate) async fn declare(channel: &Channel, queue: &str, limit: (&'static str, i64)) -> lapin::Result<()> {
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    arguments.insert(limit.0.into(), AMQPValue::LongLongInt(limit.1));
    channel
        .queue_declare(queue.into(), options, arguments)
        .await
        .map(drop)
}

/// Consumes a private queue without acks.
pub(crate) async fn consume(channel: &Channel, queue: &str) -> lapin::Result<Consumer> {
    let options = BasicConsumeOptions {
        no_ack: true,
        exclusive: true,
        ..BasicConsumeOptions::default()
    };
    channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
}
