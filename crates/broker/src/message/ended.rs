//! Decoding of dead letters and rejected messages, and republishing of rejected messages.

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use serde_json::{Map, Value};
use webhook::Delivery;

use super::{
    ATTEMPTS, BadMessage, DEAD_HEADERS, DEAD_MS, DELIVERY_HEADERS, DETAIL, DUE_KEY, DeadLetter, LAST_ERROR,
    LAST_STATUS, Message, Outgoing, REASON, REJECTED_MS, REJECTION, SOURCE, is_long, number, text,
};
use crate::{
    Topology,
    screen::{CUT, RAW},
};

/// A message in the queue of rejected messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The id of this rejection; `None` if RabbitMQ dead-lettered the message itself.
    pub id: Option<String>,
    /// When the message was rejected, in Unix milliseconds; 0 if unknown.
    pub rejected_ms: u64,
    /// Where the message belongs: `events`, `due`, `journal` or `dead`. If RabbitMQ dead-lettered the message
    /// from another queue, the full name of that queue; empty if unknown.
    pub source: String,
    /// Why the message was rejected, as a stable word. If RabbitMQ dead-lettered the message itself, this is
    /// RabbitMQ's word, such as `delivery_limit` or `expired`.
    pub reason: String,
    /// A description of the reason for people.
    pub detail: String,
    /// The property `message_id`, unchanged.
    pub message_id: Option<String>,
    /// The property `type`, unchanged.
    pub event_type: Option<String>,
    /// The message's delivery headers: a flat JSON object of strings and numbers. It also contains properties
    /// that could not be read, in hexadecimal digits, as `magnetite-unreadable-properties`, and the original
    /// length of a truncated body as `magnetite-body-bytes`.
    pub headers: String,
    /// The body, unchanged.
    pub body: Bytes,
}

impl Message {
    /// Decodes a message of the queue of dead letters.
    ///
    /// # Errors
    /// Returns an error if the message is not a delivery, or does not contain the reason and the time of its
    /// death.
    pub fn dead_letter(&self) -> Result<(Delivery, DeadLetter), BadMessage> {
        self.readable()?;
        let reason = self.text(REASON).and_then(|reason| reason.parse().ok());
        let dead_ms = self.number(DEAD_MS).and_then(|ms| u64::try_from(ms).ok());
        let bad = |name, expected| BadMessage::Header { name, expected };
        let letter = DeadLetter {
            reason: reason.ok_or(bad(REASON, "the reason of a dead letter"))?,
            attempts: self.counter(ATTEMPTS)?,
            last_status: self
                .number(LAST_STATUS)
                .and_then(|status| u16::try_from(status).ok()),
            last_error: self.text(LAST_ERROR).unwrap_or_default(),
            dead_ms: dead_ms.ok_or(bad(DEAD_MS, "a time in Unix milliseconds"))?,
        };
        Ok((self.delivery()?, letter))
    }

    /// Decodes a message of the queue of rejected messages. No part of the message is required.
    pub fn rejected(&self, topology: &Topology) -> Rejected {
        let death = self.first_death();
        let moved_by_us = self.text(REASON).is_some();
        let from = self.text("x-first-death-queue").unwrap_or_default();
        let queues = [
            ("events", topology.events()),
            ("due", topology.due()),
            ("journal", topology.journal()),
        ];
        let belongs = queues
            .into_iter()
            .find_map(|(source, queue)| (queue == from).then(|| source.to_owned()));
        let properties = &self.properties;
        let property =
            |property: &Option<ShortString>| property.as_ref().map(|text| text.as_str().to_owned());
        Rejected {
            id: self.text(REJECTION),
            rejected_ms: self
                .number(REJECTED_MS)
                .and_then(|ms| u64::try_from(ms).ok())
                .or(death)
                .unwrap_or_default(),
            source: self.text(SOURCE).or(belongs).unwrap_or_else(|| from.clone()),
            reason: self
                .text(REASON)
                .or_else(|| self.text("x-first-death-reason"))
                .or_else(|| self.readable().err().map(|bad| bad.reason().to_owned()))
                .unwrap_or_else(|| "unknown".to_owned()),
            detail: self.text(DETAIL).unwrap_or_else(|| {
                let unreadable = self.readable().err().map(|bad| bad.to_string());
                if moved_by_us || from.is_empty() {
                    unreadable.unwrap_or_default()
                } else {
                    format!("dead-lettered by RabbitMQ from the queue {from}")
                }
            }),
            message_id: property(properties.message_id()),
            event_type: property(properties.kind()),
            headers: self.headers_as_json(&DELIVERY_HEADERS),
            body: self.body.clone(),
        }
    }

    /// Returns the rejected message for a dead letter that cannot be recorded. It keeps all headers of the
    /// dead letter.
    pub fn dead_letter_aside(&self, topology: &Topology) -> Rejected {
        let kept: Vec<_> = DELIVERY_HEADERS.into_iter().chain(DEAD_HEADERS).collect();
        Rejected {
            source: "dead".to_owned(),
            headers: self.headers_as_json(&kept),
            ..self.rejected(topology)
        }
    }

    /// Returns when RabbitMQ first dead-lettered the message, in Unix milliseconds.
    fn first_death(&self) -> Option<u64> {
        let AMQPValue::FieldArray(deaths) = self.header("x-death")? else {
            return None;
        };
        let AMQPValue::FieldTable(first) = deaths.as_slice().last()? else {
            return None;
        };
        match first.inner().get("time")? {
            AMQPValue::Timestamp(seconds) => Some(seconds.saturating_mul(1000)),
            _ => None,
        }
    }

    /// Returns those of the named headers that are strings or numbers of a plausible length, as JSON.
    fn headers_as_json(&self, names: &[&str]) -> String {
        let mut json = Map::new();
        for &name in names {
            // The error description may have any length; it is truncated when it is written again.
            if self
                .header(name)
                .is_none_or(|value| name != LAST_ERROR && is_long(value))
            {
                continue;
            }
            if let Some(text) = self.text(name) {
                json.insert(name.to_owned(), text.into());
            } else if let Some(number) = self.number(name) {
                json.insert(name.to_owned(), number.into());
            }
        }
        if let Some(AMQPValue::LongString(raw)) = self.header(RAW) {
            json.insert(RAW.to_owned(), hex::encode(raw.as_bytes()).into());
        }
        if let Some(bytes) = self.text(CUT) {
            json.insert(CUT.to_owned(), bytes.into());
        }
        Value::Object(json).to_string()
    }
}

impl Outgoing {
    /// Returns the message that republishes a rejected one, unchanged, to the queue where it belongs; `None`
    /// if its source is not one of `events`, `due`, `journal` and `dead`, or if its headers do not have the
    /// format of [`Rejected::headers`].
    pub fn redriven(topology: &Topology, rejected: &Rejected) -> Option<Self> {
        let Ok(Value::Object(stored)) = serde_json::from_str(&rejected.headers) else {
            return None;
        };
        let mut headers = FieldTable::default();
        for (name, value) in stored.iter().filter(|(name, _)| *name != RAW) {
            let value = match value {
                Value::String(string) => text(string),
                Value::Number(value) => number(value.as_i64()?),
                _ => return None,
            };
            headers.insert(name.as_str().into(), value);
        }
        let (exchange, routing_key) = match rejected.source.as_str() {
            // Published directly to the queue: other queues bound to the exchange have received it already.
            "events" => (String::new(), topology.events()),
            "due" => (topology.deliveries_exchange(), DUE_KEY.to_owned()),
            "journal" => (String::new(), topology.journal()),
            "dead" => (String::new(), topology.dead()),
            _ => return None,
        };
        let mut properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_headers(headers);
        if let Some(message_id) = &rejected.message_id {
            properties = properties.with_message_id(message_id.as_str().into());
        }
        if let Some(event_type) = &rejected.event_type {
            properties = properties.with_type(event_type.as_str().into());
        }
        Some(Self {
            exchange,
            routing_key,
            properties,
            body: rejected.body.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Source;

    fn topology() -> Topology {
        Topology::new("magnetite", &[Duration::from_secs(1)])
    }

    #[test]
    fn a_redriven_message_is_what_it_was() {
        let mut headers = FieldTable::default();
        headers.insert("magnetite-endpoint".into(), text("ep_1"));
        headers.insert("magnetite-attempt".into(), number(3));
        headers.insert("foreign".into(), text("x"));
        let came = Message {
            body: Bytes::from_static(b"\xff not json"),
            properties: BasicProperties::default()
                .with_message_id("m 1".into())
                .with_type("lead.created".into())
                .with_headers(headers),
        };
        let outgoing = Outgoing::rejected(
            &topology(),
            "rej_1",
            &came,
            Source::Due,
            "bad_header",
            "header y",
            7,
        );
        let rejected = outgoing.message().rejected(&topology());
        assert_eq!(
            (
                rejected.id.as_deref(),
                rejected.source.as_str(),
                rejected.reason.as_str()
            ),
            (Some("rej_1"), "due", "bad_header")
        );
        assert_eq!((rejected.rejected_ms, rejected.detail.as_str()), (7, "header y"));
        assert_eq!(
            rejected.headers,
            r#"{"magnetite-attempt":3,"magnetite-endpoint":"ep_1"}"#
        );

        let again = Outgoing::redriven(&topology(), &rejected).unwrap();
        assert_eq!(
            (again.exchange.as_str(), again.routing_key.as_str()),
            ("magnetite.deliveries", "due")
        );
        let message = again.message();
        assert_eq!(message.body, came.body);
        assert_eq!(message.properties.message_id(), came.properties.message_id());
        assert_eq!(message.properties.kind(), came.properties.kind());
        assert_eq!(message.number("magnetite-attempt"), Some(3));
        assert_eq!(message.header(REASON), None);
        assert_eq!(message.header(REJECTION), None);
    }

    #[test]
    fn what_rabbitmq_moved_is_read_from_its_own_headers() {
        let mut death = FieldTable::default();
        death.insert("time".into(), AMQPValue::Timestamp(5));
        let mut headers = FieldTable::default();
        headers.insert("x-first-death-queue".into(), text("magnetite.events"));
        headers.insert("x-first-death-reason".into(), text("delivery_limit"));
        headers.insert(
            "x-death".into(),
            AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()),
        );
        let message = Message {
            body: Bytes::new(),
            properties: BasicProperties::default().with_headers(headers),
        };
        let rejected = message.rejected(&topology());
        assert_eq!(
            (rejected.source.as_str(), rejected.reason.as_str()),
            ("events", "delivery_limit")
        );
        assert_eq!((rejected.id, rejected.rejected_ms), (None, 5000));
        assert_eq!(rejected.headers, "{}");
    }

    #[test]
    fn a_message_of_nowhere_cannot_be_redriven() {
        let nothing = Message {
            body: Bytes::new(),
            properties: BasicProperties::default(),
        };
        let rejected = nothing.rejected(&topology());
        assert_eq!(rejected.reason, "unknown");
        assert!(Outgoing::redriven(&topology(), &rejected).is_none());
    }
}
