//! Converts deliveries and their attempts.

use store::{AttemptRow, DeliveryRow, Refusal};
use webhook::DeliveryId;

use super::{ForCustomers, said, words};
use crate::history::Run;

/// Converts a delivery.
pub fn delivery(row: &DeliveryRow) -> wire::Delivery {
    let (of, standing) = (&row.delivery, &row.standing);
    wire::Delivery {
        id: row.id.to_string(),
        organization_id: of.organization_id.to_string(),
        event_id: of.event_id.to_string(),
        endpoint_id: of.endpoint_id.to_string(),
        run: of.run,
        trigger: of.trigger.to_string(),
        state: standing.state.to_string(),
        attempt_count: standing.attempts,
        created_ms: row.created_ms,
        updated_ms: standing.updated_ms,
        next_attempt_ms: Some(standing.next_ms).filter(|next_ms| *next_ms > 0),
        reason: said(&standing.reason),
        last_status: Some(standing.last_status).filter(|status| *status > 0),
        last_error: said(&standing.last_error),
        requested_ms: row.requested_ms,
        sent_ms: row.sent_ms,
    }
}

/// Converts a delivery with all its attempts.
pub fn run(run: &Run) -> wire::DeliveryWithAttempts {
    wire::DeliveryWithAttempts {
        delivery: delivery(&run.delivery),
        attempts: run.attempts.iter().map(attempt).collect(),
    }
}

/// Converts an attempt.
pub fn attempt(row: &AttemptRow) -> wire::Attempt {
    wire::Attempt {
        id: row.id.to_string(),
        number: row.number,
        began_ms: row.began_ms,
        duration_ms: row.duration_ms,
        status: row.status,
        phase: said(&row.phase),
        failure: said(&row.failure),
        error: said(&row.error),
        response: String::from_utf8_lossy(&row.response).into_owned(),
        outcome: row.outcome.clone(),
        next_attempt_ms: row.next_ms,
        reason: said(&row.reason),
    }
}

/// Converts the result of sending a delivery again: the new run, or why there is none.
pub fn resent(resend_of: String, run: Result<DeliveryId, Refusal>) -> wire::ResendResult {
    wire::ResendResult {
        resend_of,
        id: run.as_ref().ok().map(DeliveryId::to_string),
        refused: run.err().map(|refusal| refusal.as_str().to_owned()),
    }
}

impl ForCustomers for wire::Delivery {
    fn for_customers(self) -> Self {
        Self {
            last_error: self.last_error.map(words::for_customers),
            ..self
        }
    }
}

impl ForCustomers for wire::DeliveryWithAttempts {
    fn for_customers(self) -> Self {
        Self {
            delivery: self.delivery.for_customers(),
            attempts: self.attempts.for_customers(),
        }
    }
}

impl ForCustomers for wire::Attempt {
    fn for_customers(self) -> Self {
        Self {
            error: self.error.map(words::for_customers),
            ..self
        }
    }
}
