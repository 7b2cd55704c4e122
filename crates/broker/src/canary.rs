//! Canaries: messages that tell a missing binding.
//!
//! AMQP cannot be asked for bindings, and declaring one again would hide that it had been removed. So a
//! worker publishes a canary as it would a message of that exchange and key, `mandatory`: RabbitMQ returns it
//! if no queue takes it. If a queue does, the canary comes to a consumer, which acknowledges it and does
//! nothing else ([`consume`](crate::consume), in every role).
//!
//! A canary has no body and its own `type`. An event has a body, so nothing that a publisher sends is taken
//! for one by mistake. A worker of an earlier version sets it aside as a rejected message, with the same body
//! and type, and recorders, which are upgraded first, drop it there.
//!
//! What is not told: that our queue is unbound while another queue takes the canary, one that an operator has
//! bound with `#`.

use bytes::Bytes;
use lapin::BasicProperties;

use crate::{
    Binding, InspectError, Link, Message, Outgoing, PublishError, Publisher, Topology, topology::EVERYTHING,
};

/// Type of a canary, and its routing key where every key will do.
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
    /// Publishes a canary over each binding, and returns those that are missing.
    ///
    /// # Errors
    /// When a canary is neither confirmed nor returned: that of an exchange which does not exist, for
    /// instance.
    pub async fn missing_bindings(&self, publisher: &Publisher) -> Result<Vec<Binding>, PublishError> {
        let mut missing = Vec::new();
        for binding in self.bindings() {
            match publisher.publish(&Outgoing::canary(&binding)).await {
                // A queue that is full is bound.
                Ok(()) | Err(PublishError::Nacked { .. }) => {}
                Err(PublishError::Unroutable { .. }) => missing.push(binding),
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }

    /// Binds again what was found missing.
    ///
    /// # Errors
    /// When there is no channel, or the broker refuses.
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
