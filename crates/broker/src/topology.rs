//! The exchanges, queues and bindings, as data.
//!
//! A queue's name contains the settings that its arguments depend on (`delay.1000` keeps messages for 1000
//! ms). The arguments of all other queues are constants. A changed configuration therefore declares new
//! queues and never fails with 406 PRECONDITION_FAILED. Operators adjust limits with policies.

mod held_number;

use std::{fmt, time::Duration};

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use crate::channel::Declaring;
use held_number::HeldNumber;

/// The topology of one installation: all its names follow from a prefix and the delay tiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    prefix: String,
    tiers: Vec<Duration>,
    worker: Option<String>,
    /// The number of the worker's queue of held deliveries.
    number: HeldNumber,
}

/// A durable exchange that is never deleted automatically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The full name.
    pub name: String,
    /// `topic`, `direct` or `fanout`.
    pub kind: &'static str,
}

/// A durable quorum queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The full name.
    pub name: String,
    /// The declaration arguments.
    pub arguments: Vec<(&'static str, Argument)>,
}

/// The value of a declaration argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A string.
    Text(String),
    /// A number.
    Number(i64),
}

/// A binding of a queue to an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The exchange's full name.
    pub exchange: String,
    /// The queue's full name.
    pub queue: String,
    /// The routing key; `#` matches every key of a topic exchange.
    pub routing_key: &'static str,
}

/// A declaration that the broker refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot declare {name} on the broker")]
pub struct DeclareError {
    /// The full name of the exchange or queue.
    pub name: String,
    #[source]
    source: lapin::Error,
}

/// How often the broker may redeliver a message before it treats the message as poison. RabbitMQ counts every
/// return to the queue, including those after a lost connection or a shutdown, so the limit leaves room for
/// many restarts and reconnects.
const DELIVERY_LIMIT: i64 = 100;
pub(crate) const DUE_KEY: &str = "due";
/// The routing key that matches every message of a topic exchange.
pub(crate) const EVERYTHING: &str = "#";
/// The delivery limit of queues that only recorders consume. A recorder writes a message once, however often
/// the message is redelivered, so these queues contain no poison messages. Without this argument, RabbitMQ
/// 4.x would drop a message after 20 returns, and on 3.10 the value for "unlimited" drops it at the first
/// return.
const KEPT_DELIVERY_LIMIT: i64 = 1_000_000;
/// How long a held delivery may stay in its queue without a consumer before it becomes due for any worker.
///
/// RabbitMQ does not expire unacknowledged messages. The message of a worker that died has usually exceeded
/// this time already when it returns to the queue, and becomes due at once.
const HELD_TTL: Duration = Duration::from_secs(5);
/// The maximum size of the journal queue, in bytes; beyond it, the broker refuses publishes. This is enough
/// for hours of a busy system, and a small part of a disk.
const JOURNAL_BYTES_MAX: i64 = 2 * 1024 * 1024 * 1024;
/// After how long without a consumer the queue of held deliveries of a stopped worker is deleted. All
/// deliveries in it have become due long before.
const HELD_EXPIRES: Duration = Duration::from_hours(1);

impl Topology {
    /// Returns the topology with this name prefix and one delay queue for each tier (whole milliseconds,
    /// shortest first).
    pub fn new(prefix: impl Into<String>, tiers: &[Duration]) -> Self {
        Self {
            prefix: prefix.into(),
            tiers: tiers.to_vec(),
            worker: None,
            number: HeldNumber::default(),
        }
    }

    /// Returns the same topology for the worker of this name: it includes a queue of held deliveries, once
    /// the worker has claimed one. Names of running workers must be unique.
    #[must_use]
    pub fn of_worker(self, name: impl Into<String>) -> Self {
        Self {
            worker: Some(name.into()),
            number: HeldNumber::default(),
            ..self
        }
    }

    /// Returns the name of the topic exchange that publishers send events to. Its routing keys are event
    /// types.
    pub fn events_exchange(&self) -> String {
        self.named("events")
    }

    /// Returns the name of the direct exchange that the delay queues dead-letter to.
    pub fn deliveries_exchange(&self) -> String {
        self.named("deliveries")
    }

    /// Returns the name of the topic exchange for events about endpoints that operators and other systems may
    /// be interested in. Its routing keys are the kinds of operations. Consumers bind their own queues to it.
    pub fn operations_exchange(&self) -> String {
        self.named("operations")
    }

    /// Returns the name of the queue of published events.
    pub fn events(&self) -> String {
        self.named("events")
    }

    /// Returns the name of the queue of deliveries whose next attempt is due.
    pub fn due(&self) -> String {
        self.named("due")
    }

    /// Returns the name of the queue of deliveries that this worker holds. It is declared only after the
    /// worker has claimed it; other roles have no such queue.
    pub fn held(&self) -> String {
        self.held_of(&self.number.get().to_string())
    }

    /// Returns the name of the queue of held deliveries with this number. In earlier versions, these queues
    /// were named after workers instead.
    pub(crate) fn held_of(&self, number: &str) -> String {
        self.named(&format!("held.{number}"))
    }

    /// Returns whether this is the queue of held deliveries of any worker.
    pub fn is_held(&self, queue: &str) -> bool {
        queue.starts_with(&self.held_of(""))
    }

    pub(crate) fn number(&self) -> &HeldNumber {
        &self.number
    }

    /// Returns the name of the queue in which a delivery waits for `delay`.
    pub fn delay(&self, delay: Duration) -> String {
        self.named(&format!("delay.{}", delay.as_millis()))
    }

    /// Returns the delays that have queues, shortest first.
    pub fn tiers(&self) -> &[Duration] {
        &self.tiers
    }

    /// Returns the name of the queue of dead letters.
    pub fn dead(&self) -> String {
        self.named("dead")
    }

    /// Returns the name of the queue of messages that could not be read, or that were redelivered too often.
    pub fn rejected(&self) -> String {
        self.named("rejected")
    }

    /// Returns the name of the queue of journal batches that workers have published and no recorder has
    /// stored yet.
    pub fn journal(&self) -> String {
        self.named("journal")
    }

    /// Returns the name without the prefix, such as `due`.
    pub fn own_name<'a>(&self, name: &'a str) -> &'a str {
        self.own(name).unwrap_or(name)
    }

    fn own<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&self.prefix)?.strip_prefix('.')
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn worker(&self) -> &str {
        self.worker.as_deref().unwrap_or("none")
    }

    pub(crate) fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// Returns the exchanges.
    pub fn exchanges(&self) -> Vec<Exchange> {
        vec![
            Exchange {
                name: self.events_exchange(),
                kind: "topic",
            },
            Exchange {
                name: self.deliveries_exchange(),
                kind: "direct",
            },
            Exchange {
                name: self.operations_exchange(),
                kind: "topic",
            },
            self.changes(),
        ]
    }

    /// Returns the queues in the order of their declaration: the target of dead-lettering comes before the
    /// queues that dead-letter to it.
    pub fn queues(&self) -> Vec<Queue> {
        let kept = |name| Queue {
            name,
            arguments: vec![quorum(), kept_delivery_limit()],
        };
        let work = |name| Queue {
            name,
            arguments: self.work_arguments(),
        };
        let mut queues = vec![
            kept(self.rejected()),
            kept(self.dead()),
            self.journal_queue(),
            work(self.due()),
            work(self.events()),
        ];
        queues.extend(self.tiers.iter().map(|tier| self.delay_queue(*tier)));
        queues.extend((self.number.get() > 0).then(|| self.held_queue(self.held())));
        queues
    }

    /// Returns the queue of this name if any configuration or worker with this prefix declares it, including
    /// a queue for a delay that is no longer configured, or of another worker; `None` otherwise.
    pub(crate) fn queue(&self, name: &str) -> Option<Queue> {
        let own = self.own(name)?;
        if let Some(delay_ms) = own.strip_prefix("delay.") {
            return Some(self.delay_queue(Duration::from_millis(delay_ms.parse().ok()?)));
        }
        if own.starts_with("held.") {
            return Some(self.held_queue(name.to_owned()));
        }
        self.queues().into_iter().find(|queue| queue.name == name)
    }

    /// Returns the bindings. Messages for other queues go through the default exchange, with the queue's name
    /// as the routing key.
    pub fn bindings(&self) -> Vec<Binding> {
        vec![
            Binding {
                exchange: self.deliveries_exchange(),
                queue: self.due(),
                routing_key: DUE_KEY,
            },
            Binding {
                exchange: self.events_exchange(),
                queue: self.events(),
                routing_key: EVERYTHING,
            },
        ]
    }

    fn work_arguments(&self) -> Vec<(&'static str, Argument)> {
        let mut arguments = vec![quorum(), ("x-delivery-limit", Argument::Number(DELIVERY_LIMIT))];
        arguments.extend(dead_letter_to(String::new(), self.rejected()));
        arguments
    }

    fn journal_queue(&self) -> Queue {
        Queue {
            name: self.journal(),
            arguments: vec![
                quorum(),
                kept_delivery_limit(),
                ("x-max-length-bytes", Argument::Number(JOURNAL_BYTES_MAX)),
                ("x-overflow", Argument::Text("reject-publish".to_owned())),
            ],
        }
    }

    pub(crate) fn delay_queue(&self, tier: Duration) -> Queue {
        Queue {
            name: self.delay(tier),
            arguments: self.due_after(tier),
        }
    }

    pub(crate) fn held_queue(&self, name: String) -> Queue {
        let mut arguments = self.due_after(HELD_TTL);
        arguments.push(("x-expires", milliseconds(HELD_EXPIRES)));
        Queue { name, arguments }
    }

    fn due_after(&self, ttl: Duration) -> Vec<(&'static str, Argument)> {
        let mut arguments = vec![quorum(), ("x-message-ttl", milliseconds(ttl))];
        arguments.extend(dead_letter_to(self.deliveries_exchange(), DUE_KEY.to_owned()));
        arguments
    }

    /// Declares all exchanges, queues and bindings. Existing ones with the same arguments stay unchanged.
    ///
    /// # Errors
    /// Returns an error if the broker refuses a declaration. Earlier declarations stay in effect, and the
    /// channel is closed.
    pub(crate) async fn declare_on(&self, declaring: &Declaring<'_>) -> Result<(), DeclareError> {
        let channel = &declaring.channel;
        for exchange in self.exchanges() {
            exchange.declare(channel, false).await?;
        }
        let bindings = self.bindings();
        for queue in self.queues() {
            queue.declare(channel, false).await?;
            // Bind at once: as soon as the first delay queue exists, messages may be dead-lettered to this
            // queue.
            for binding in bindings.iter().filter(|binding| binding.queue == queue.name) {
                binding.declare(channel).await?;
            }
        }
        Ok(())
    }
}

fn milliseconds(time: Duration) -> Argument {
    Argument::Number(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

fn kept_delivery_limit() -> (&'static str, Argument) {
    ("x-delivery-limit", Argument::Number(KEPT_DELIVERY_LIMIT))
}

fn quorum() -> (&'static str, Argument) {
    ("x-queue-type", Argument::Text("quorum".to_owned()))
}

/// Returns the arguments for dead-lettering at least once.
///
/// RabbitMQ's default strategy loses messages if the target does not accept them. This one keeps them until
/// the target has confirmed them. It works only together with `reject-publish`.
fn dead_letter_to(exchange: String, routing_key: String) -> [(&'static str, Argument); 4] {
    [
        ("x-dead-letter-exchange", Argument::Text(exchange)),
        ("x-dead-letter-routing-key", Argument::Text(routing_key)),
        (
            "x-dead-letter-strategy",
            Argument::Text("at-least-once".to_owned()),
        ),
        ("x-overflow", Argument::Text("reject-publish".to_owned())),
    ]
}

impl Exchange {
    pub(crate) async fn declare(&self, channel: &Channel, passive: bool) -> Result<(), DeclareError> {
        let kind = match self.kind {
            "topic" => ExchangeKind::Topic,
            "fanout" => ExchangeKind::Fanout,
            _ => ExchangeKind::Direct,
        };
        let options = ExchangeDeclareOptions {
            durable: true,
            passive,
            ..Default::default()
        };
        channel
            .exchange_declare(self.name.as_str().into(), kind, options, FieldTable::default())
            .await
            .map_err(|source| DeclareError {
                name: self.name.clone(),
                source,
            })
    }
}

impl Queue {
    pub(crate) fn argument(&self, key: &str) -> Option<&Argument> {
        let found = self.arguments.iter().find(|(name, _)| *name == key);
        found.map(|(_, argument)| argument)
    }

    /// Declares the queue and returns the number of ready messages and the number of consumers.
    pub(crate) async fn declare(&self, channel: &Channel, passive: bool) -> Result<(u32, u32), DeclareError> {
        let options = QueueDeclareOptions {
            durable: true,
            passive,
            ..Default::default()
        };
        let mut arguments = FieldTable::default();
        for (key, value) in &self.arguments {
            let value = match value {
                Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
                Argument::Number(number) => AMQPValue::LongLongInt(*number),
            };
            arguments.insert((*key).into(), value);
        }
        let queue = channel
            .queue_declare(self.name.as_str().into(), options, arguments)
            .await
            .map_err(|source| DeclareError {
                name: self.name.clone(),
                source,
            })?;
        Ok((queue.message_count(), queue.consumer_count()))
    }
}

impl Binding {
    pub(crate) async fn declare(&self, channel: &Channel) -> Result<(), DeclareError> {
        channel
            .queue_bind(
                self.queue.as_str().into(),
                self.exchange.as_str().into(),
                self.routing_key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(|source| DeclareError {
                name: self.queue.clone(),
                source,
            })
    }
}

impl DeclareError {
    pub(crate) fn detail(&self) -> String {
        self.source.to_string()
    }
}

/// Writes `exchange --routing key--> queue`.
impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} --{}--> {}", self.exchange, self.routing_key, self.queue)
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for exchange in self.exchanges() {
            writeln!(f, "exchange {} ({})", exchange.name, exchange.kind)?;
        }
        for queue in self.queues() {
            writeln!(f, "queue    {}", queue.name)?;
            for (key, value) in &queue.arguments {
                writeln!(f, "           {key} = {value}")?;
            }
        }
        for binding in self.bindings() {
            writeln!(f, "binding  {binding}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
