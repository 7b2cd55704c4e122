//! Converts the state of an organization's webhooks.

use crate::status::Status;

use super::{ForCustomers, endpoint};

/// The maximum number of failing endpoints that are shown.
const FAILING_SHOWN: usize = 20;

/// Converts the state of an organization.
pub fn status(status: &Status) -> wire::Status {
    let failing = status.failing.iter().take(FAILING_SHOWN);
    wire::Status {
        at_ms: status.at_ms,
        since_ms: status.since_ms,
        endpoints: wire::EndpointCounts {
            all: status.endpoints.all,
            disabled: status.endpoints.disabled,
            failing: status.failing.len() as u64,
        },
        activity: activity(&status.activity),
        failing: failing.map(endpoint::failing_endpoint).collect(),
    }
}

/// Converts what happens now, in an organization or in all.
pub fn activity(activity: &store::Activity) -> wire::Activity {
    let attempts = |outcome: &str| {
        let mut found = activity.attempts_minute.iter();
        found
            .find(|(name, _)| name == outcome)
            .map_or(0, |(_, count)| *count)
    };
    wire::Activity {
        events_last_minute: activity.events_minute,
        attempts_last_minute: wire::AttemptCounts {
            delivered: attempts("delivered"),
            retry: attempts("retry"),
            deferred: attempts("deferred"),
            dead: attempts("dead"),
            cancelled: attempts("cancelled"),
        },
        last_attempt_ms: activity.last_attempt_ms,
        pending: activity.pending,
        oldest_pending_ms: activity.oldest_pending_ms,
        overdue: activity.overdue,
        dead: activity.dead,
    }
}

impl ForCustomers for wire::Status {
    fn for_customers(self) -> Self {
        Self {
            failing: self.failing.for_customers(),
            ..self
        }
    }
}
