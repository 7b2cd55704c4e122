//! The wire format of our messages: exchange and routing key, properties, headers.
//!
//! | message | goes to | body | headers |
//! |---|---|---|---|
//! | event | exchange `P.events`, key = event type | the event's JSON | `traceparent` |
//! | delivery that is due | exchange `P.deliveries`, key `due` | the same bytes | delivery headers |
//! | delivery that waits | queue `P.delay.MS` | the same bytes | delivery headers |
//! | delivery that a worker holds | queue `P.held.N` | the same bytes | delivery headers |
//! | dead letter | queue `P.dead` | the same bytes | delivery headers and those of [`DeadLetter`] |
//! | rejected message | queue `P.rejected` | unchanged | delivery headers unchanged, and rejection headers |
//! | journal | queue `P.journal` | a batch of records | batch headers; none from older workers |
//! | operation | exchange `P.operations`, key = its kind | a JSON object | |
//!
//! The module `relayed` describes the requests of relays and their answers.
//!
//! Delivery headers: `magnetite-endpoint` (text), `magnetite-run`, `magnetite-attempt` (the next attempt,
//! 1-based), `magnetite-deferrals`, `magnetite-first-attempt-ms` (numbers, the last one only if set),
//! `magnetite-no-slot-ms` and `magnetite-fault-ms` (numbers, each only if above 0), `magnetite-trigger`
//! (`event`, `resend`, `ping`), and `traceparent` if the publisher sent one. Properties: `message_id` = event
//! id, `type` = event type, persistent, `application/json`.
//!
//! Earlier versions wrote `magnetite-no-slot-since-ms`, a time by the clock of the host that wrote it. It is
//! ignored, so the waiting time of a delivery that such a version deferred starts from 0.
//!
//! Rejection headers: `magnetite-rejection`, `magnetite-reason`, `magnetite-detail`, `magnetite-source`,
//! `magnetite-rejected-ms`, `magnetite-unreadable-properties` if the properties could not be read, and
//! `magnetite-body-bytes` if the body was truncated.
//!
//! Batch headers: `magnetite-worker` (the worker's run), `magnetite-batch` (the batch's number in the run),
//! `magnetite-batches-settled` and `magnetite-batch-ms`.
//!
//! A rejected message keeps its delivery headers and no other headers, whatever their names: a header frame
//! has a maximum size, and the broker closes the connection if a frame is too large. RabbitMQ's own headers
//! are never copied: with `x-death`, RabbitMQ would treat the message as one that is dead-lettered in a
//! cycle.

mod bad;
mod batch;
mod ended;
mod relayed;
mod source;

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use webhook::{
    DeadReason, Delivery, EVENT_BYTES_MAX, EndpointId, Event, EventId, EventKind, PutOff, Rejection, Trigger,
};

use crate::{
    Topology,
    screen::{CUT, RAW, RAW_MAX, UNREADABLE},
    topology::DUE_KEY,
};

pub use bad::BadMessage;
pub use ended::Rejected;
pub use relayed::{BadReplyTo, RelayedAnswer, RelayedRequest, ReplyTo};
pub use source::Source;

/// A message to be published, either to one of our queues or, for events, to the exchange that publishers
/// use.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

/// A message received from a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The body as it was published, unless it was truncated because it is too large.
    pub body: Bytes,
    pub(crate) properties: BasicProperties,
}

/// Why and when a delivery became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Header `magnetite-reason`: why the delivery is not attempted again.
    pub reason: DeadReason,
    /// Header `magnetite-attempts`: the number of attempts made.
    pub attempts: u32,
    /// Header `magnetite-last-status`: the HTTP status of the last attempt; `None` if it had no response.
    pub last_status: Option<u16>,
    /// Header `magnetite-last-error`: a description of the last attempt's result; empty if there was no
    /// attempt.
    pub last_error: String,
    /// Header `magnetite-dead-ms`: when the delivery became a dead letter, in Unix milliseconds.
    pub dead_ms: u64,
}

const ENDPOINT: &str = "magnetite-endpoint";
const DELIVERY: &str = "magnetite-delivery";
const RUN: &str = "magnetite-run";
const ATTEMPT: &str = "magnetite-attempt";
const DEFERRALS: &str = "magnetite-deferrals";
const FIRST_ATTEMPT_MS: &str = "magnetite-first-attempt-ms";
const NO_SLOT_MS: &str = "magnetite-no-slot-ms";
const FAULT_MS: &str = "magnetite-fault-ms";
/// A header of earlier versions.
const NO_SLOT_SINCE_MS: &str = "magnetite-no-slot-since-ms";
const TRIGGER: &str = "magnetite-trigger";
const TRACEPARENT: &str = "traceparent";
const REJECTION: &str = "magnetite-rejection";
const REASON: &str = "magnetite-reason";
const DETAIL: &str = "magnetite-detail";
const SOURCE: &str = "magnetite-source";
const REJECTED_MS: &str = "magnetite-rejected-ms";
const ATTEMPTS: &str = "magnetite-attempts";
const LAST_STATUS: &str = "magnetite-last-status";
const LAST_ERROR: &str = "magnetite-last-error";
const DEAD_MS: &str = "magnetite-dead-ms";
const DELIVERY_HEADERS: [&str; 10] = [
    ENDPOINT,
    RUN,
    ATTEMPT,
    DEFERRALS,
    FIRST_ATTEMPT_MS,
    NO_SLOT_MS,
    FAULT_MS,
    NO_SLOT_SINCE_MS,
    TRIGGER,
    TRACEPARENT,
];
/// The headers of a dead letter in addition to the delivery headers.
const DEAD_HEADERS: [&str; 6] = [DELIVERY, REASON, ATTEMPTS, LAST_STATUS, LAST_ERROR, DEAD_MS];
/// The maximum length of a trace context. W3C trace context version 00 has 55 characters; later versions may
/// be longer.
const TRACEPARENT_CHARS_MAX: usize = 256;
/// Returns whether a header of an incoming message is too long to be one of ours.
fn is_long(value: &AMQPValue) -> bool {
    match value {
        AMQPValue::LongString(text) => text.as_bytes().len() > TEXT_CHARS_MAX,
        AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) | AMQPValue::ByteArray(_) => true,
        _ => false,
    }
}

/// The maximum length of a text in a header, in characters. Longer texts are truncated, because all headers
/// must fit into one frame.
const TEXT_CHARS_MAX: usize = 512;

impl Outgoing {
    /// Returns an event message, as publishers of events send it.
    pub fn event(topology: &Topology, id: &EventId, event_type: impl Into<EventKind>, body: Bytes) -> Self {
        let event_type = event_type.into();
        Self {
            exchange: topology.events_exchange(),
            routing_key: event_type.as_str().to_owned(),
            properties: event_properties(id, event_type),
            body,
        }
    }

    /// Adds the publisher's W3C trace context, which workers continue.
    #[must_use]
    pub fn with_traceparent(mut self, traceparent: &str) -> Self {
        let mut headers = self.properties.headers().clone().unwrap_or_default();
        headers.insert(TRACEPARENT.into(), text(traceparent));
        self.properties = self.properties.with_headers(headers);
        self
    }

    /// Returns a delivery message that a worker attempts as soon as it receives it.
    pub fn due(topology: &Topology, delivery: &Delivery) -> Self {
        let (exchange, key) = (topology.deliveries_exchange(), DUE_KEY.to_owned());
        Self::delivery(exchange, key, delivery, delivery_headers(delivery))
    }

    /// Returns a delivery message that becomes due after `tier`, which must be one of the topology's tiers.
    pub fn delay(topology: &Topology, delivery: &Delivery, tier: Duration) -> Self {
        Self::delivery(
            String::new(),
            topology.delay(tier),
            delivery,
            delivery_headers(delivery),
        )
    }

    /// Returns a delivery message that records that the topology's worker is attempting the delivery. If this
    /// worker dies, the delivery becomes due for any worker.
    pub fn held(topology: &Topology, delivery: &Delivery) -> Self {
        Self::delivery(
            String::new(),
            topology.held(),
            delivery,
            delivery_headers(delivery),
        )
    }

    /// Returns the dead letter of a delivery that is not attempted again.
    pub fn dead(topology: &Topology, delivery: &Delivery, letter: &DeadLetter) -> Self {
        let mut headers = delivery_headers(delivery);
        let mut set = |name: &str, value| {
            headers.insert(name.into(), value);
        };
        set(DELIVERY, text(delivery.id().as_str()));
        set(REASON, text(letter.reason.as_str()));
        set(ATTEMPTS, number(letter.attempts));
        if let Some(status) = letter.last_status {
            set(LAST_STATUS, number(status));
        }
        set(LAST_ERROR, text(&letter.last_error));
        set(DEAD_MS, number(letter.dead_ms));
        Self::delivery(String::new(), topology.dead(), delivery, headers)
    }

    /// Returns a message about something that happened to an endpoint, for the queues that consumers have
    /// bound to the exchange of operations. `json` is a JSON object, and `kind` is the routing key.
    pub fn operation(topology: &Topology, id: &str, kind: &str, json: Bytes) -> Self {
        Self {
            exchange: topology.operations_exchange(),
            routing_key: kind.to_owned(),
            properties: BasicProperties::default()
                .with_delivery_mode(2)
                .with_content_type("application/json".into())
                .with_message_id(id.into())
                .with_type(kind.into()),
            body: json,
        }
    }

    /// Returns a rejected message: a message that no worker can process, with its body unchanged.
    ///
    /// `id` identifies the rejection, `reason` is a stable word, and `detail` is a description for people.
    pub fn rejected(
        topology: &Topology,
        id: &str,
        message: &Message,
        source: Source,
        reason: &str,
        detail: &str,
        now_ms: u64,
    ) -> Self {
        let mut headers = FieldTable::default();
        for (name, value) in message.headers() {
            if DELIVERY_HEADERS.contains(&name.as_str()) && !is_long(value) {
                headers.insert(name.clone(), value.clone());
            }
        }
        // Publishers can also set these headers, to any value.
        for (name, bytes_max) in [(RAW, RAW_MAX), (CUT, TEXT_CHARS_MAX)] {
            if let Some(AMQPValue::LongString(value)) = message.header(name)
                && value.as_bytes().len() <= bytes_max
            {
                headers.insert(name.into(), AMQPValue::LongString(value.clone()));
            }
        }
        headers.insert(REJECTION.into(), text(id));
        headers.insert(REASON.into(), text(reason));
        headers.insert(DETAIL.into(), text(detail));
        headers.insert(SOURCE.into(), text(source.as_str()));
        headers.insert(REJECTED_MS.into(), number(now_ms));
        let from = &message.properties;
        let mut properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_headers(headers);
        if let Some(message_id) = from.message_id() {
            properties = properties.with_message_id(message_id.clone());
        }
        if let Some(kind) = from.kind() {
            properties = properties.with_type(kind.clone());
        }
        Self {
            exchange: String::new(),
            routing_key: topology.rejected(),
            properties,
            body: message.body.clone(),
        }
    }

    fn delivery(exchange: String, routing_key: String, delivery: &Delivery, headers: FieldTable) -> Self {
        let event = &delivery.event;
        let properties = event_properties(&event.id, event.event_type).with_headers(headers);
        Self {
            exchange,
            routing_key,
            properties,
            body: event.body.clone(),
        }
    }

    /// Returns the message as a consumer will receive it.
    pub fn message(&self) -> Message {
        Message {
            body: self.body.clone(),
            properties: self.properties.clone(),
        }
    }

    /// Returns the exchange or queue that the message is published to, for errors and logs.
    pub(crate) fn target(&self) -> &str {
        if self.exchange.is_empty() {
            &self.routing_key
        } else {
            &self.exchange
        }
    }
}

fn event_properties(id: &EventId, event_type: EventKind) -> BasicProperties {
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id(id.as_str().into())
        .with_type(event_type.as_str().into())
}

fn delivery_headers(delivery: &Delivery) -> FieldTable {
    let mut headers = FieldTable::default();
    let mut set = |name: &str, value| {
        headers.insert(name.into(), value);
    };
    set(ENDPOINT, text(delivery.endpoint_id.as_str()));
    set(RUN, number(delivery.run));
    set(ATTEMPT, number(delivery.attempt));
    set(DEFERRALS, number(delivery.deferrals));
    set(TRIGGER, text(delivery.trigger.as_str()));
    if let Some(first_attempt_ms) = delivery.first_attempt_ms {
        set(FIRST_ATTEMPT_MS, number(first_attempt_ms));
    }
    let PutOff { no_slot_ms, fault_ms } = delivery.put_off;
    for (name, ms) in [(NO_SLOT_MS, no_slot_ms), (FAULT_MS, fault_ms)] {
        if ms > 0 {
            set(name, number(ms));
        }
    }
    if let Some(traceparent) = &delivery.event.traceparent {
        set(TRACEPARENT, text(traceparent));
    }
    headers
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(cut(text).into())
}

fn cut(text: &str) -> &str {
    let end = text.char_indices().nth(TEXT_CHARS_MAX);
    end.map_or(text, |(at, _)| &text[..at])
}

fn number(number: impl TryInto<i64>) -> AMQPValue {
    AMQPValue::LongLongInt(number.try_into().unwrap_or(i64::MAX))
}

impl Message {
    /// Decodes a message of the events queue.
    ///
    /// # Errors
    /// Returns an error if it is not a valid event.
    pub fn event(&self) -> Result<Event, BadMessage> {
        self.readable()?;
        let body = self.body.clone();
        Ok(Event::from_message(self.message_id(), self.traceparent(), body)?)
    }

    /// Decodes a message of the due queue or of a queue of held deliveries.
    ///
    /// # Errors
    /// Returns an error if the event is not valid, or if a delivery header is missing or out of range. It
    /// also returns an error if the trigger is a ping but the event is not, or the reverse.
    pub fn delivery(&self) -> Result<Delivery, BadMessage> {
        self.readable()?;
        let endpoint_id = self.text(ENDPOINT).filter(|id| !id.is_empty());
        let trigger = self.text(TRIGGER).and_then(|name| name.parse::<Trigger>().ok());
        let attempt = self.counter(ATTEMPT)?;
        if attempt == 0 {
            return Err(BadMessage::Header {
                name: ATTEMPT,
                expected: COUNTER,
            });
        }
        let event = Event::from_delivery(self.message_id(), self.traceparent(), self.body.clone())?;
        let fits = |trigger: &Trigger| event.is_ping() == (*trigger == Trigger::Ping);
        let trigger = trigger.filter(fits).ok_or(BadMessage::Header {
            name: TRIGGER,
            expected: "event or resend, or ping for an event of type webhook.ping",
        })?;
        Ok(Delivery {
            event: Arc::new(event),
            endpoint_id: endpoint_id.map(EndpointId::new).ok_or(BadMessage::Header {
                name: ENDPOINT,
                expected: "an endpoint's id",
            })?,
            run: self.counter(RUN)?,
            attempt,
            deferrals: self.counter(DEFERRALS)?,
            put_off: PutOff {
                no_slot_ms: self.milliseconds(NO_SLOT_MS).unwrap_or_default(),
                fault_ms: self.milliseconds(FAULT_MS).unwrap_or_default(),
            },
            first_attempt_ms: self.milliseconds(FIRST_ATTEMPT_MS),
            trigger,
        })
    }

    /// Returns the queue from which RabbitMQ first dead-lettered the message; `None` if it did not.
    pub fn first_queue(&self) -> Option<String> {
        self.text("x-first-death-queue")
    }

    /// Feeds the parts in which two messages of one queue differ into `state`, except the redelivered flag.
    pub fn hash_content(&self, state: &mut impl Hasher) {
        self.body.hash(state);
        self.message_id().hash(state);
        self.text(ENDPOINT).hash(state);
        for name in [RUN, ATTEMPT, DEFERRALS] {
            self.number(name).hash(state);
        }
    }

    /// Checks that the properties and the body are those that were published, and not replacements for
    /// properties that cannot be read or for a body that is too large.
    fn readable(&self) -> Result<(), BadMessage> {
        if let Some(what) = self.text(UNREADABLE) {
            // Publishers can also set this header, to any value.
            return Err(BadMessage::Unreadable(cut(&what).to_owned()));
        }
        let bytes = self.text(CUT).and_then(|bytes| bytes.parse().ok());
        match bytes.filter(|_| self.body.len() > EVENT_BYTES_MAX) {
            Some(bytes) => Err(Rejection::TooLarge { bytes }.into()),
            None => Ok(()),
        }
    }

    fn message_id(&self) -> Option<&str> {
        let message_id = self.properties.message_id().as_ref();
        message_id.map(lapin::types::ShortString::as_str)
    }

    fn traceparent(&self) -> Option<String> {
        self.text(TRACEPARENT)
            .filter(|text| text.len() <= TRACEPARENT_CHARS_MAX)
    }

    fn headers(&self) -> impl Iterator<Item = (&lapin::types::ShortString, &AMQPValue)> {
        self.properties.headers().iter().flat_map(FieldTable::inner)
    }

    fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.header(name)? {
            AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
            AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
            _ => None,
        }
    }

    fn number(&self, name: &str) -> Option<i64> {
        match *self.header(name)? {
            AMQPValue::LongLongInt(number) => Some(number),
            AMQPValue::LongInt(number) => Some(number.into()),
            AMQPValue::LongUInt(number) => Some(number.into()),
            AMQPValue::ShortInt(number) => Some(number.into()),
            AMQPValue::ShortUInt(number) => Some(number.into()),
            AMQPValue::ShortShortInt(number) => Some(number.into()),
            AMQPValue::ShortShortUInt(number) => Some(number.into()),
            _ => None,
        }
    }

    fn milliseconds(&self, name: &str) -> Option<u64> {
        self.number(name).and_then(|ms| u64::try_from(ms).ok())
    }

    fn counter(&self, name: &'static str) -> Result<u32, BadMessage> {
        let counter = self.number(name).and_then(|number| u32::try_from(number).ok());
        counter
            .filter(|counter| *counter <= COUNTER_MAX)
            .ok_or(BadMessage::Header {
                name,
                expected: COUNTER,
            })
    }
}

/// The upper bound of counters. Valid counters never come near it, and adding 1 never overflows.
const COUNTER_MAX: u32 = 1_000_000_000;
const COUNTER: &str = "a number in the allowed range";

#[cfg(test)]
mod tests;
