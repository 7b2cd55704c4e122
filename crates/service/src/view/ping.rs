//! Converts the result of a ping.

use webhook::Delivery;

use super::{ForCustomers, said, words};
use crate::ping::Pinged;

/// Converts the result of the ping that was sent, as far as it is known.
pub fn ping(sent: &Delivery, pinged: Option<&Pinged>) -> wire::Ping {
    let last = pinged.and_then(|pinged| pinged.attempts.last());
    wire::Ping {
        id: sent.event.id.to_string(),
        delivery_id: sent.id().to_string(),
        endpoint_id: sent.endpoint_id.to_string(),
        ok: pinged.filter(|pinged| pinged.is_over()).map(Pinged::is_delivered),
        reason: pinged.and_then(|pinged| said(&pinged.delivery.standing.reason)),
        status: last.and_then(|last| last.status),
        duration_ms: last.map(|last| last.duration_ms),
        phase: last.and_then(|last| said(&last.phase)),
        failure: last.and_then(|last| said(&last.failure)),
        error: last.and_then(|last| said(&last.error)),
        response: last.map(|last| String::from_utf8_lossy(&last.response).into_owned()),
    }
}

impl ForCustomers for wire::Ping {
    fn for_customers(self) -> Self {
        Self {
            error: self.error.map(words::for_customers),
            ..self
        }
    }
}
