//! Converts endpoints and their health.

use webhook::{DisabledReason, Endpoint, ProjectId};

use super::{ForCustomers, words};
use crate::workers::Behind;

/// Converts an endpoint, without its secret.
pub fn endpoint(endpoint: &Endpoint) -> wire::Endpoint {
    let disabled = endpoint.disabled.as_ref();
    let patterns = endpoint.subscription.patterns().iter();
    wire::Endpoint {
        id: endpoint.id.to_string(),
        secret: None,
        organization_id: endpoint.organization_id.to_string(),
        project_id: endpoint.project_id.as_ref().map(ProjectId::to_string),
        url: endpoint.url.clone(),
        events: patterns.map(ToString::to_string).collect(),
        enabled: disabled.is_none(),
        disabled_reason: disabled.map(|disabled| DisabledReason::as_str(disabled.reason).to_owned()),
        disabled_at_ms: disabled.map(|disabled| disabled.at_ms),
        old_secret_until_ms: endpoint.previous.as_ref().map(|previous| previous.until_ms),
        version: endpoint.version,
        created_at_ms: endpoint.created_at_ms,
        updated_at_ms: endpoint.updated_at_ms,
        workers_behind: Vec::new(),
        failing: None,
    }
}

/// Converts an endpoint with its secret, for the response to the request that created the secret.
pub fn endpoint_with_secret(made: &Endpoint) -> wire::Endpoint {
    wire::Endpoint {
        secret: Some(wire::Credential(made.secret.expose().to_owned())),
        ..endpoint(made)
    }
}

/// Converts an endpoint, including when it began to fail and why.
pub fn failing_endpoint(found: &store::Failing) -> wire::Endpoint {
    wire::Endpoint {
        failing: Some(failing(found)),
        ..endpoint(&found.endpoint)
    }
}

/// Adds the workers that are not known to use the change.
pub fn behind(changed: wire::Endpoint, behind: &Behind) -> wire::Endpoint {
    wire::Endpoint {
        workers_behind: behind.names(),
        ..changed
    }
}

/// Converts the details of a failing endpoint: when it began to fail, and why.
pub fn failing(found: &store::Failing) -> wire::Failing {
    wire::Failing {
        since_ms: found.failing_since_ms,
        last_success_ms: found.last_success_ms,
        last_failure_ms: found.last_failure_ms,
        last_status: found.last_status,
        last_error: found.last_error.clone(),
        attempts_last_hour: found.attempts_hour,
        success_rate_last_hour: success_rate(found.successes_hour, found.attempts_hour),
        pending: found.pending,
        oldest_pending_ms: found.oldest_pending_ms,
    }
}

/// Converts the health of an endpoint.
pub fn health(health: &store::Health) -> wire::Health {
    wire::Health {
        last_success_ms: health.last_success_ms,
        failing_since_ms: health.failing_since_ms,
        attempts_last_hour: health.attempts_hour,
        success_rate_last_hour: success_rate(health.successes_hour, health.attempts_hour),
        p50_ms_last_hour: health.p50_ms,
        p99_ms_last_hour: health.p99_ms,
    }
}

/// Returns the fraction of attempts that succeeded, from 0 to 1; `None` without attempts.
fn success_rate(successes: u64, attempts: u64) -> Option<f64> {
    (attempts > 0).then(|| successes as f64 / attempts as f64)
}

impl ForCustomers for wire::Endpoint {
    fn for_customers(self) -> Self {
        Self {
            failing: self.failing.for_customers(),
            ..self
        }
    }
}

impl ForCustomers for wire::Failing {
    fn for_customers(self) -> Self {
        Self {
            last_error: words::for_customers(self.last_error),
            ..self
        }
    }
}
