//! Passes the answers of one relay to the workers that wait for them.

use std::future::pending;

use broker::{Outgoing, PublishError, PublishResult, Publisher, RelayedAnswer, ReplyTo, Topology};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use runtime::{Lasting, display_chain};
use webhook::{Answer, EndpointId};

use crate::meters::{self, ANSWERED, CLOSED};

/// The condition that answers cannot be published, of all relays.
static UNPUBLISHED: Lasting = Lasting::new();

/// The answers of one relay that are being published. Each goes to the worker that has sent the request.
pub(super) struct Replies {
    publisher: Publisher,
    topology: Topology,
    endpoint_id: EndpointId,
    publishing: FuturesUnordered<BoxFuture<'static, PublishResult>>,
}

impl Replies {
    pub(super) fn new(publisher: Publisher, topology: Topology, endpoint_id: EndpointId) -> Self {
        Self {
            publisher,
            topology,
            endpoint_id,
            publishing: FuturesUnordered::new(),
        }
    }

    /// Begins to publish an answer; `None` if the connection was closed without a response.
    pub(super) fn publish(&mut self, reply_to: ReplyTo, answer: Option<Answer>) {
        self.send(reply_to, answer, false);
    }

    /// Begins to tell the worker that this process ends the connection, so that no attempt is spent.
    pub(super) fn interrupt(&mut self, reply_to: ReplyTo) {
        self.send(reply_to, None, true);
    }

    fn send(&mut self, reply_to: ReplyTo, answer: Option<Answer>, interrupted: bool) {
        count(if answer.is_some() { ANSWERED } else { CLOSED }, 1);
        let answered = RelayedAnswer {
            reply_to,
            endpoint_id: self.endpoint_id.clone(),
            answer,
            interrupted,
        };
        let (publisher, message) = (self.publisher.clone(), Outgoing::answer(&self.topology, answered));
        let publishing = async move {
            let mut results = publisher.offer(&[message]).await;
            results.pop().expect("one message has one result")
        };
        self.publishing.push(publishing.boxed());
    }

    /// Waits until an answer is published, and returns whether it was. Without any answer, it waits forever.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub(super) async fn next(&mut self) -> bool {
        match self.publishing.next().await {
            None => pending().await,
            Some(result) => is_published(&self.endpoint_id, result),
        }
    }

    /// Waits until all answers are published or have failed.
    pub(super) async fn finish(&mut self) {
        while let Some(result) = self.publishing.next().await {
            is_published(&self.endpoint_id, result);
        }
    }

    /// Returns the number of answers that are being published.
    pub(super) fn len(&self) -> usize {
        self.publishing.len()
    }
}

/// Returns whether an answer has reached its worker, as far as this process can do something about it.
fn is_published(endpoint_id: &EndpointId, result: PublishResult) -> bool {
    match result {
        // A worker whose queue does not exist any more, or is full, makes the attempt again.
        Ok(()) | Err(PublishError::Unroutable { .. } | PublishError::Nacked { .. }) => {
            UNPUBLISHED.end();
            true
        }
        Err(error) => {
            if let Some(report) = UNPUBLISHED.again() {
                tracing::warn!(
                    endpoint.id = %endpoint_id,
                    error = display_chain(&error),
                    failures = report.times,
                    "cannot pass an answer of a relay to its worker; the relay's program has to connect again"
                );
            }
            false
        }
    }
}

/// Counts requests of relays with this outcome.
pub(super) fn count(outcome: &'static str, requests: usize) {
    meters::RELAY_ANSWERS.count([outcome]).increment(requests as u64);
}
