//! Observations about a consumer and its messages, for metrics and `magnetite doctor`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use lapin::types::{AMQPValue, FieldTable, ShortString};
use metrics::Counter;
use runtime::troubles::Trouble;

use crate::{
    Message, Topology, meters,
    screen::{CUT, UNREADABLE},
};

/// The number of returns of one message that restarts and lost connections do not explain. At a higher limit,
/// the queue itself removes the message.
const RETURNS_MANY: u64 = 10;
/// The number of times that a consumer must be lost or refused within [`RESTARTS_WITHIN`] to be reported as
/// restarting repeatedly.
const RESTARTS_MANY: usize = 5;
const RESTARTS_WITHIN: Duration = Duration::from_mins(10);

/// One queue that a process consumes.
pub(crate) struct Watched {
    /// The queue's name without the prefix, and without the number of a worker's queue.
    queue: String,
    /// When the consumer was lost or refused, at most the last [`RESTARTS_MANY`] times.
    restarts: VecDeque<Instant>,
    restarts_total: Counter,
    returned_often_total: Counter,
    unreadable_total: Counter,
}

impl Watched {
    pub(crate) fn new(topology: &Topology, queue: &str) -> Self {
        let own = topology.own_name(queue);
        let watched = Self {
            restarts_total: meters::CONSUMER_RESTARTS.count([own]),
            returned_often_total: meters::RETURNED_OFTEN.count([own]),
            unreadable_total: meters::UNREADABLE.count([own]),
            restarts: VecDeque::new(),
            queue: own.to_owned(),
        };
        for counter in [
            &watched.restarts_total,
            &watched.returned_often_total,
            &watched.unreadable_total,
        ] {
            counter.increment(0);
        }
        watched
    }

    /// Records that the consumer was lost or could not start.
    pub(crate) fn restarts(&mut self, error: &str) {
        self.restarts_total.increment(1);
        let now = Instant::now();
        self.restarts.push_back(now);
        if self.restarts.len() < RESTARTS_MANY {
            return;
        }
        let first = self.restarts.pop_front().unwrap_or(now);
        if now.duration_since(first) < RESTARTS_WITHIN {
            let detail = format!(
                "its consumer was lost or refused {RESTARTS_MANY} times within {} s; the last error: {error}",
                now.duration_since(first).as_secs().max(1)
            );
            Trouble::Reconnecting.note(&self.queue, detail);
        }
    }

    /// Records the arrival of a message.
    pub(crate) fn arrives(&self, message: &Message) {
        let headers = message.properties.headers().as_ref().map(FieldTable::inner);
        let name = || {
            let id = message.properties.message_id().as_ref();
            id.map_or("without an id", ShortString::as_str).to_owned()
        };
        // Quorum queues set this header from the first return on.
        let returns = match headers.and_then(|headers| headers.get("x-delivery-count")) {
            Some(AMQPValue::LongLongInt(count)) => u64::try_from(*count).unwrap_or_default(),
            Some(AMQPValue::LongInt(count)) => u64::try_from(*count).unwrap_or_default(),
            _ => 0,
        };
        if returns >= RETURNS_MANY {
            self.returned_often_total.increment(1);
            let detail = format!("a message ({}) was returned {returns} times", name());
            Trouble::Poison.note(&self.queue, detail);
        }
        let is_unreadable = |name: &str| headers.is_some_and(|headers| headers.contains_key(name));
        // The consumer that rejected the message has recorded it already.
        if self.queue != "rejected" && [UNREADABLE, CUT].into_iter().any(is_unreadable) {
            self.unreadable_total.increment(1);
            let detail = format!(
                "a message ({}) has properties that cannot be read, or is too large",
                name()
            );
            Trouble::Unreadable.note(&self.queue, detail);
        }
    }
}
