//! The health of an endpoint.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The health of an endpoint, according to its recorded attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// When the last attempt that the endpoint answered with a 2xx began, in Unix milliseconds; null if none
    /// is recorded.
    #[schema(example = 1_703_123_456_799_i64)]
    pub last_success_ms: Option<u64>,
    /// When the first failed attempt after the last success began, in Unix milliseconds; null if there is
    /// none.
    pub failing_since_ms: Option<u64>,
    /// The number of attempts that began in the last hour.
    #[schema(example = 1200)]
    pub attempts_last_hour: u64,
    /// The share of these attempts that were answered with a 2xx, from 0 to 1; null if there were none.
    #[schema(minimum = 0, maximum = 1, example = 0.99)]
    pub success_rate_last_hour: Option<f64>,
    /// The median duration of these attempts, in milliseconds; null if there were none.
    #[schema(example = 34)]
    pub p50_ms_last_hour: Option<u64>,
    /// The 99th percentile of the durations of these attempts, in milliseconds; null if there were none.
    #[schema(example = 480)]
    pub p99_ms_last_hour: Option<u64>,
}
