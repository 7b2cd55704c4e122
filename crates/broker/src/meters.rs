//! Metrics of connections, consumers and queues.

use metrics::Counter;
use runtime::{Metric, MetricLabel};

use crate::Topology;

const QUEUE: MetricLabel = MetricLabel::told(
    "queue",
    "a queue's name without the prefix; `held` for all queues of held deliveries",
);
const CONNECTION: MetricLabel = MetricLabel::told("connection", "a connection's name as RabbitMQ lists it");

pub(crate) const CONNECTED: Metric = Metric::gauge(
    "magnetite_broker_connected",
    None,
    "1 while the connection to the broker is up",
)
.by(&[CONNECTION]);
pub(crate) const BLOCKED: Metric = Metric::gauge(
    "magnetite_broker_blocked",
    None,
    "1 while the broker blocks publishing on the connection because of a memory or disk alarm",
)
.by(&[CONNECTION]);
pub(crate) const UNACKED: Metric = Metric::gauge(
    "magnetite_messages_unacked",
    None,
    "Messages of the queue that this process has received and not yet acknowledged",
)
.by(&[QUEUE]);
pub(crate) const CONSUMER_RESTARTS: Metric = Metric::counter(
    "magnetite_consumer_restarts_total",
    "Times that the consumer of the queue was lost or refused",
)
.by(&[QUEUE]);
pub(crate) const RETURNED_OFTEN: Metric = Metric::counter(
    "magnetite_messages_returned_often_total",
    "Messages that were returned to the queue ten times or more",
)
.by(&[QUEUE]);
pub(crate) const UNREADABLE: Metric = Metric::counter(
    "magnetite_messages_unreadable_total",
    "Messages whose properties are not valid AMQP, or that are too large",
)
.by(&[QUEUE]);
pub(crate) const BINDINGS_MISSING: Metric = Metric::counter(
    "magnetite_bindings_missing_total",
    "Times that a queue was found not bound to the exchange",
)
.by(&[MetricLabel::told(
    "exchange",
    "an exchange's name without the prefix",
)]);

/// Returns the counter of the times that a queue was found not bound to this exchange.
pub fn bindings_missing(topology: &Topology, exchange: &str) -> Counter {
    BINDINGS_MISSING.count([topology.own_name(exchange)])
}

/// The metrics of every connection.
pub const CONNECTION_METRICS: &[Metric] = &[CONNECTED, BLOCKED];
/// The metrics of processes that consume.
pub const CONSUMER_METRICS: &[Metric] = &[UNACKED, CONSUMER_RESTARTS, RETURNED_OFTEN, UNREADABLE];
/// The metrics of processes that check for missing bindings.
pub const BINDING_METRICS: &[Metric] = &[BINDINGS_MISSING];
