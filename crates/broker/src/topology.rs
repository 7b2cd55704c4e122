//! Exchanges, queues and bindings, as data.
//!
//! A queue's name holds what its arguments fix (`delay.1000` keeps messages for 1000 ms), and the arguments
//! of all other names are constants: a changed configuration declares new queues and never meets 406
//! PRECONDITION_FAILED. Operators tune limits by policy.

mod held_number;

use std::{fmt, time::Duration};

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use crate::channel::Declaring;
use held_number::HeldNumber;

/// Every name of one installation, from its prefix and its delay tiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    prefix: String,
    tiers: Vec<Duration>,
    worker: Option<String>,
    /// Of the worker's queue of held deliveries.
    number: HeldNumber,
}

/// An exchange: durable, never deleted by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Its full name.
    pub name: String,
    /// `topic`, `direct` or `fanout`.
    pub kind: &'static str,
}

/// A queue: durable, a quorum queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its full name.
    pub name: String,
    /// Declaration arguments.
    pub arguments: Vec<(&'static str, Argument)>,
}

/// A declaration argument's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A string.
    Text(String),
    /// A number.
    Number(i64),
}

/// What an exchange passes to a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The exchange's full name.
    pub exchange: String,
    /// The queue's full name.
    pub queue: String,
    /// `#` is everything on a topic exchange.
    pub routing_key: &'static str,
}

/// A declaration that the broker refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot declare {name} on the broker")]
pub struct DeclareError {
    /// The exchange or queue.
    pub name: String,
    #[source]
    source: lapin::Error,
}

/// How often a message may come back before it is taken for poison. RabbitMQ counts every return, also those
/// of a lost connection or a shutdown, so this leaves room for a bad night.
const DELIVERY_LIMIT: i64 = 100;
pub(crate) const DUE_KEY: &str = "due";
/// On a topic exchange.
pub(crate) const EVERYTHING: &str = "#";
/// Of what only a recorder takes: it writes the same once, however often it comes, and nothing in there is
/// poison. 4.x would drop a message after 20 returns, and on 3.10 "unlimited" drops it at the first.
const KEPT_DELIVERY_LIMIT: i64 = 1_000_000;
/// How long a delivery that its worker holds may be in nobody's hands: then it comes due, for any worker.
/// RabbitMQ does not let an unacked message expire; one that a worker gave back by dying has most often
/// outlived this already, and comes due at once.
const HELD_TTL: Duration = Duration::from_secs(5);
/// How much of the journal waits for a recorder, in bytes; more is refused. Hours of a busy system, and
/// little of a disk.
const JOURNAL_BYTES_MAX: i64 = 2 * 1024 * 1024 * 1024;
/// The queue of a worker that is gone is deleted after this time, long after all that it held has come due.
const HELD_EXPIRES: Duration = Duration::from_hours(1);

impl Topology {
    /// The topology with this name prefix and one delay queue for each tier (whole milliseconds, shortest
    /// first).
    pub fn new(prefix: impl Into<String>, tiers: &[Duration]) -> Self {
        Self {
            prefix: prefix.into(),
            tiers: tiers.to_vec(),
            worker: None,
            number: HeldNumber::default(),
        }
    }

    /// The same, for the worker of this name: with a queue of what it holds, once it has taken one. No two
    /// running workers may share a name.
    #[must_use]
    pub fn of_worker(self, name: impl Into<String>) -> Self {
        Self {
            worker: Some(name.into()),
            number: HeldNumber::default(),
            ..self
        }
    }

    /// The topic exchange that publishers send events to; its routing keys are event types.
    pub fn events_exchange(&self) -> String {
        self.named("events")
    }

    /// The direct exchange that delay queues dead-letter to.
    pub fn deliveries_exchange(&self) -> String {
        self.named("deliveries")
    }

    /// The topic exchange for what operators and the platform may want to know; its routing keys are kinds of
    /// operations. Whoever wants them binds a queue of its own.
    pub fn operations_exchange(&self) -> String {
        self.named("operations")
    }

    /// The queue of published events.
    pub fn events(&self) -> String {
        self.named("events")
    }

    /// The queue of deliveries whose next attempt is due.
    pub fn due(&self) -> String {
        self.named("due")
    }

    /// The queue of deliveries that this worker has in its hands. It is declared only once the worker has
    /// taken it; other roles hold nothing.
    pub fn held(&self) -> String {
        self.held_of(&self.number.get().to_string())
    }

    /// The queue of this number or, up to an earlier version, of the worker of this name.
    pub(crate) fn held_of(&self, number: &str) -> String {
        self.named(&format!("held.{number}"))
    }

    /// Whether it is the queue of held deliveries of any worker.
    pub fn is_held(&self, queue: &str) -> bool {
        queue.starts_with(&self.held_of(""))
    }

    pub(crate) fn number(&self) -> &HeldNumber {
        &self.number
    }

    /// The queue in which a delivery waits for `delay`.
    pub fn delay(&self, delay: Duration) -> String {
        self.named(&format!("delay.{}", delay.as_millis()))
    }

    /// The delays that there are queues for, shortest first.
    pub fn tiers(&self) -> &[Duration] {
        &self.tiers
    }

    /// The queue of dead letters.
    pub fn dead(&self) -> String {
        self.named("dead")
    }

    /// The queue of messages that could not be read, or that kept coming back.
    pub fn rejected(&self) -> String {
        self.named("rejected")
    }

    /// The queue of what workers recorded and no recorder has stored yet.
    pub fn journal(&self) -> String {
        self.named("journal")
    }

    /// A name without the prefix, such as `due`.
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
        self.worker.as_deref().unwrap_or("nobody")
    }

    pub(crate) fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// The exchanges.
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

    /// The queues, in the order in which they are declared: whatever dead-letters comes after what it
    /// dead-letters to.
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

    /// The queue of this name, if it is one that some configuration or worker of this prefix declares: also
    /// of a delay that is not configured any more, and of another worker.
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

    /// The bindings. Messages for other queues go through the default exchange, by the queue's name.
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

    /// Declares everything; what is there already and equal stays as it is.
    ///
    /// # Errors
    /// When the broker refuses one; what came before it stays declared. After an error the channel is closed.
    pub(crate) async fn declare_on(&self, declaring: &Declaring<'_>) -> Result<(), DeclareError> {
        let channel = &declaring.channel;
        for exchange in self.exchanges() {
            exchange.declare(channel, false).await?;
        }
        let bindings = self.bindings();
        for queue in self.queues() {
            queue.declare(channel, false).await?;
            // Bound at once: from the first delay queue on, something may be dead-lettered to it.
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

/// RabbitMQ's default dead-lettering loses messages when the target does not take them; this one keeps them
/// until it has. It works only together with `reject-publish`.
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

    /// Returns how many messages are ready and how many consumers there are.
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

/// `exchange --routing key--> queue`
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
