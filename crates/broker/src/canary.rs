//! Canaries: messages that detect a missing binding.
//!
//! AMQP has no method that lists bindings, and declaring a binding again would hide that it was removed.
//! Therefore a worker publishes a canary with the exchange and routing key of the binding, `mandatory`, and
//! RabbitMQ returns the canary if no queue receives it. If a queue does, its consumer acknowledges the canary
//! and does nothing else ([`consume`](crate::consume), in every role).
//!
//! A canary has no body and its own `type`. An event has a body, so an event is never mistaken for a canary.
//! A worker of an earlier version sets the canary aside as a rejected message, with the same body and type,
//! and recorders, which are upgraded first, drop it there.
//!
//! A canary does not detect that our queue is unbound while another queue receives the canary, such as one
//! that an operator has bound with `#`.

use bytes::Bytes;
use lapin::BasicProperties;

use crate::{
    Binding, InspectError, Link, Message, Outgoing, PublishError, Publisher, Topology, topology::EVERYTHING,
};

/// The type of a canary, and its routing key if the binding matches every key.
const CANARY: &str = "magnetite.canary";

impl Outgoing {
    fn canary(binding: &Binding) -> Self {
        let routing_key = match binding.routing_key {
            EVERYTHING => CANARY,
            key => key,
        };
        Self {
            exchange: binding.exchange.clone(),
            routing_key: routing_key.to_owned(),
            properties: BasicProperties::default()
                .with_delivery_mode(2)
                .with_type(CANARY.into()),
            body: Bytes::new(),
        }
    }
}

impl Message {
    pub(crate) fn is_canary(&self) -> bool {
        let has_type = |kind: &lapin::types::ShortString| kind.as_str() == CANARY;
        self.body.is_empty() && self.properties.kind().as_ref().is_some_and(has_type)
    }
}

impl Topology {
    /// Publishes a canary over each binding, and returns the bindings that are missing.
    ///
    /// # Errors
    /// Returns an error if a canary is neither confirmed nor returned, for example because its exchange does
    /// not exist.
    pub async fn missing_bindings(&self, publisher: &Publisher) -> Result<Vec<Binding>, PublishError> {
        let mut missing = Vec::new();
        for binding in self.bindings() {
            match publisher.publish(&Outgoing::canary(&binding)).await {
                // A full queue nacks the canary, so it is bound.
                Ok(()) | Err(PublishError::Nacked { .. }) => {}
                Err(PublishError::Unroutable { .. }) => missing.push(binding),
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }

    /// Binds a queue again whose binding was found missing.
    ///
    /// # Errors
    /// Returns an error if no channel can be opened, or if the broker refuses.
    pub async fn bind(&self, link: &Link, binding: &Binding) -> Result<(), InspectError> {
        Ok(binding.declare(&link.declaring().await?.channel).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_message_without_a_body_is_a_canary() {
        for binding in Topology::new("m", &[]).bindings() {
            let mut message = Outgoing::canary(&binding).message();
            assert!(message.is_canary());
            message.body = Bytes::from_static(b"{}");
            assert!(!message.is_canary(), "an event with a canary's type");
        }
        let none = Message {
            body: Bytes::new(),
            properties: BasicProperties::default(),
        };
        assert!(!none.is_canary());
    }
}
