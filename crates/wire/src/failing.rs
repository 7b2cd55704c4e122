//! Since when and why an endpoint fails.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Since when and why an endpoint fails, that is, its last attempt was not answered with a 2xx.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Failing {
    /// When the first attempt after the last success began, in Unix milliseconds.
    #[schema(example = 1_703_123_456_799_i64)]
    pub since_ms: u64,
    /// When the last attempt that the endpoint answered with a 2xx began, in Unix milliseconds; null if none
    /// is recorded.
    #[schema(example = 1_703_123_400_000_i64)]
    pub last_success_ms: Option<u64>,
    /// When the last attempt began, in Unix milliseconds.
    #[schema(example = 1_703_123_496_000_i64)]
    pub last_failure_ms: u64,
    /// The HTTP status of the last attempt; null if there was no response.
    #[schema(minimum = 100, maximum = 599, example = 503)]
    pub last_status: Option<u16>,
    /// A description of the last attempt's failure.
    #[schema(example = "status 503")]
    pub last_error: String,
    /// The number of attempts that began in the last hour.
    #[schema(example = 40)]
    pub attempts_last_hour: u64,
    /// The share of these attempts that were answered with a 2xx, from 0 to 1; null if there were none.
    #[schema(minimum = 0, maximum = 1, example = 0.35)]
    pub success_rate_last_hour: Option<f64>,
    /// The number of pending deliveries to the endpoint.
    #[schema(example = 12)]
    pub pending: u64,
    /// When the oldest pending delivery was created, in Unix milliseconds; null if none is pending.
    #[schema(example = 1_703_123_456_799_i64)]
    pub oldest_pending_ms: Option<u64>,
}
