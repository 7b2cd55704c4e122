//! The two ways to publish: over AMQP, and over the HTTP API.

use producer::{EventId, Producer, Serialized};

use super::{
    super::lines::BATCH_LINES,
    failure::Failure,
    groups::{self, ApiPublisher},
};

/// Where events are published.
pub(super) enum Publisher {
    Broker(Producer),
    Api(ApiPublisher),
}

impl Publisher {
    /// Publishes events. Returns in their order the id of each that is confirmed, and why the others are not.
    pub(super) async fn publish(&self, events: &[Serialized]) -> Vec<Result<EventId, Failure>> {
        match self {
            Self::Broker(producer) => {
                let results = producer.publish_json_batch(events).await;
                let results = results.into_iter();
                results.map(|result| result.map_err(Failure::from)).collect()
            }
            Self::Api(publisher) => publisher.publish(events).await,
        }
    }

    /// Publishes one event, without a retry.
    pub(super) async fn publish_one(&self, event: &Serialized) -> anyhow::Result<EventId> {
        let mut results = self.publish(std::slice::from_ref(event)).await;
        let result = results.pop().expect("one event has one result");
        result.map_err(Failure::into_error)
    }

    /// Returns the maximum number of lines in a batch.
    pub(super) fn lines_max(&self) -> usize {
        match self {
            Self::Broker(_) => BATCH_LINES,
            Self::Api(_) => groups::EVENTS_MAX,
        }
    }

    /// Waits until publishes in flight have ended, and closes the connection.
    pub(super) async fn close(self) {
        match self {
            Self::Broker(producer) => producer.shutdown().await,
            Self::Api(_) => {}
        }
    }
}
