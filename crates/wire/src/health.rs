//! How an endpoint does.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How an endpoint does, by the attempts that were recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// When the last attempt that it answered with a 2xx began, in Unix milliseconds.
    #[schema(example = 1_703_123_456_799_i64)]
    pub last_success_ms: Option<u64>,
    /// When the first attempt after that began which failed, in Unix milliseconds; null while it does not
    /// fail.
    pub failing_since_ms: Option<u64>,
    /// How many attempts began in the last hour.
    #[schema(example = 1200)]
    pub attempts_last_hour: u64,
    /// How many of these were answered with a 2xx, from 0 to 1; null without attempts.
    #[schema(minimum = 0, maximum = 1, example = 0.99)]
    pub success_rate_last_hour: Option<f64>,
    /// Half of them took at most so many milliseconds.
    #[schema(example = 34)]
    pub p50_ms_last_hour: Option<u64>,
    /// 99 of 100 took at most so many milliseconds.
    #[schema(example = 480)]
    pub p99_ms_last_hour: Option<u64>,
}
