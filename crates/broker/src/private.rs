//! Queues that one connection uses exclusively, and that are deleted with it. Their messages may be lost.

use lapin::{
    Channel, Consumer,
    options::{BasicConsumeOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

/// What a private queue does with a message when it is full.
#[derive(Clone, Copy)]
pub(crate) enum WhenFull {
    /// It drops the oldest message.
    DropOldest,
    /// It refuses the message.
    Refuse,
}

/// Declares a private queue. `limits` are the names and the values of the arguments that limit its length.
pub(crate) async fn declare(
    channel: &Channel,
    queue: &str,
    limits: &[(&'static str, i64)],
    when_full: WhenFull,
) -> lapin::Result<()> {
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    for (name, limit) in limits {
        arguments.insert((*name).into(), AMQPValue::LongLongInt(*limit));
    }
    if let WhenFull::Refuse = when_full {
        let overflow = AMQPValue::LongString("reject-publish".into());
        arguments.insert("x-overflow".into(), overflow);
    }
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
