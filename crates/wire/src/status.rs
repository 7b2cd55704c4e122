//! The present state of an organization's webhooks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Endpoint;

/// The present state of an organization's endpoints and deliveries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// When the state was read, in Unix milliseconds.
    #[schema(example = 1_703_123_456_789_i64)]
    pub at_ms: u64,
    /// The time from which on dead deliveries are counted, in Unix milliseconds.
    #[schema(example = 1_703_119_856_789_i64)]
    pub since_ms: u64,
    /// The numbers of endpoints.
    pub endpoints: EndpointCounts,
    /// What happens now.
    #[serde(flatten)]
    pub activity: Activity,
    /// At most 20 of the failing endpoints: those with the most pending deliveries first, and then those that
    /// have failed the longest.
    pub failing: Vec<Endpoint>,
}

/// The numbers of an organization's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointCounts {
    /// All endpoints.
    #[schema(example = 3)]
    pub all: u64,
    /// Endpoints that are disabled.
    #[schema(example = 0)]
    pub disabled: u64,
    /// Endpoints whose last attempt was not answered with a 2xx, at most 1000. Those that were disabled
    /// manually are not counted.
    #[schema(example = 1)]
    pub failing: u64,
}

/// What happens now, according to the recorded events, deliveries and attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Activity {
    /// The number of events that were received in the last minute.
    #[schema(example = 120)]
    pub events_last_minute: u64,
    /// The numbers of attempts that began in the last minute.
    pub attempts_last_minute: AttemptCounts,
    /// When the last recorded attempt began, in Unix milliseconds; null if none is recorded.
    #[schema(example = 1_703_123_456_123_i64)]
    pub last_attempt_ms: Option<u64>,
    /// The number of pending deliveries.
    #[schema(example = 12)]
    pub pending: u64,
    /// When the oldest pending delivery was created, in Unix milliseconds; null if none is pending.
    #[schema(example = 1_703_123_396_789_i64)]
    pub oldest_pending_ms: Option<u64>,
    /// The number of pending deliveries whose next attempt has been due for over five minutes.
    #[schema(example = 0)]
    pub overdue: u64,
    /// The number of deliveries that were created since `since_ms` and given up.
    #[schema(example = 2)]
    pub dead: u64,
}

/// The numbers of attempts, by what each resulted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttemptCounts {
    /// Attempts that were answered with a 2xx.
    #[schema(example = 118)]
    pub delivered: u64,
    /// Attempts that failed and are made again.
    #[schema(example = 4)]
    pub retry: u64,
    /// Attempts that are made again because of a fault of this service, and do not count.
    #[schema(example = 0)]
    pub deferred: u64,
    /// Attempts after which the delivery was given up.
    #[schema(example = 1)]
    pub dead: u64,
    /// Attempts after which the delivery was cancelled.
    #[schema(example = 0)]
    pub cancelled: u64,
}
