//! The decision about a delivery after an attempt.

use std::time::Duration;

use crate::{AttemptResult, CancelReason, DeadReason, Schedule, Trigger, retry_after};

/// What happens to a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint accepted the delivery.
    Delivered,
    /// Another attempt is made after this delay, which is one of the schedule's tiers.
    Retry {
        /// The delay from now.
        after: Duration,
    },
    /// No more attempts are made. The delivery is a dead letter and can be resent.
    Dead {
        /// Why the delivery is dead.
        reason: DeadReason,
    },
    /// No more attempts are made, and the delivery cannot be resent. After an attempt, this only happens to a
    /// ping.
    Cancelled {
        /// Why the delivery is cancelled.
        reason: CancelReason,
    },
}

/// Decides what happens after attempt number `attempt` (1-based) with this result at `now_ms`, in Unix
/// milliseconds.
///
/// - After a 2xx, the delivery is delivered.
/// - After a 410, it is dead immediately.
/// - After any other result, including 3xx, it is retried after the schedule's delay. A `Retry-After` header
///   of a 429 or 503 can only lengthen that delay, up to the schedule's longest tier.
/// - After any other result of the schedule's last attempt, it is dead.
///
/// A ping has a single attempt: it is cancelled unless that attempt succeeds.
pub fn outcome(
    result: &AttemptResult,
    trigger: Trigger,
    schedule: &Schedule,
    attempt: u32,
    now_ms: u64,
) -> Outcome {
    if result.is_success() {
        return Outcome::Delivered;
    }
    if trigger == Trigger::Ping {
        return Outcome::Cancelled {
            reason: CancelReason::PingFailed,
        };
    }
    if result.status() == Some(410) {
        return Outcome::Dead {
            reason: DeadReason::Gone,
        };
    }
    let Some(scheduled) = schedule.delay_after(attempt) else {
        return Outcome::Dead {
            reason: DeadReason::Exhausted,
        };
    };
    let asked = asked_delay(result, now_ms).unwrap_or(Duration::ZERO);
    Outcome::Retry {
        after: schedule.tier_for(scheduled.max(asked)),
    }
}

fn asked_delay(result: &AttemptResult, now_ms: u64) -> Option<Duration> {
    match result {
        AttemptResult::Answered(answer) if matches!(answer.status, 429 | 503) => {
            retry_after(answer.retry_after.as_deref()?, now_ms)
        }
        _ => None,
    }
}

impl Outcome {
    /// All names that [`as_str`](Self::as_str) can return.
    pub const NAMES: [&'static str; 4] = ["delivered", "retry", "dead", "cancelled"];

    /// Returns the name in logs and metrics, from a closed set.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retry { .. } => "retry",
            Self::Dead { .. } => "dead",
            Self::Cancelled { .. } => "cancelled",
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{Answer, Failure, FailureKind, Phase};

    fn answered(status: u16, retry_after: Option<&str>) -> AttemptResult {
        AttemptResult::Answered(Answer {
            status,
            retry_after: retry_after.map(str::to_owned),
            body: Bytes::new(),
        })
    }

    fn timed_out() -> AttemptResult {
        let detail = String::new();
        AttemptResult::Failed(Failure {
            phase: Phase::Response,
            kind: FailureKind::Timeout,
            detail,
        })
    }

    fn decide(result: &AttemptResult, attempt: u32) -> Outcome {
        outcome(result, Trigger::Event, &Schedule::default(), attempt, 0)
    }

    fn retry(seconds: u64) -> Outcome {
        Outcome::Retry {
            after: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn any_2xx_is_delivered_and_nothing_else_is() {
        for status in 100..=999 {
            let delivered = decide(&answered(status, None), 1) == Outcome::Delivered;
            assert_eq!(delivered, (200..300).contains(&status), "{status}");
        }
    }

    #[test]
    fn redirects_errors_and_silence_follow_the_schedule_to_its_end() {
        for result in [
            answered(301, None),
            answered(404, None),
            answered(500, None),
            timed_out(),
        ] {
            let delays: Vec<_> = (1..=9).map(|attempt| decide(&result, attempt)).collect();
            assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30, 30, 30].map(retry));
            assert_eq!(
                decide(&result, 10),
                Outcome::Dead {
                    reason: DeadReason::Exhausted
                }
            );
        }
    }

    #[test]
    fn a_410_is_dead_at_once() {
        assert_eq!(
            decide(&answered(410, Some("5")), 1),
            Outcome::Dead {
                reason: DeadReason::Gone
            }
        );
    }

    #[test]
    fn a_ping_is_never_tried_again_and_never_dead() {
        let decide = |result| outcome(&result, Trigger::Ping, &Schedule::default(), 1, 0);
        assert_eq!(decide(answered(204, None)), Outcome::Delivered);
        let failed = Outcome::Cancelled {
            reason: CancelReason::PingFailed,
        };
        for result in [
            answered(302, None),
            answered(410, None),
            answered(503, Some("1")),
            timed_out(),
        ] {
            assert_eq!(decide(result), failed);
        }
    }

    #[test]
    fn retry_after_lengthens_to_a_tier_on_429_and_503_only() {
        for (status, header, attempt, seconds) in [
            (429, "3", 1, 4),
            (503, "3", 1, 4),
            (503, "0", 3, 4),
            (503, "3600", 1, 30),
            (503, "Thu, 01 Jan 1970 00:00:05 GMT", 1, 8),
            (503, "garbage", 1, 1),
            (500, "3", 1, 1),
            (404, "3", 1, 1),
        ] {
            assert_eq!(
                decide(&answered(status, Some(header)), attempt),
                retry(seconds),
                "{status} {header}"
            );
        }
        assert_eq!(
            decide(&answered(503, Some("3")), 10),
            Outcome::Dead {
                reason: DeadReason::Exhausted
            }
        );
    }

    proptest! {
        #[test]
        fn a_retry_is_never_early_and_always_on_a_tier(status in 100_u16..600, header in "[0-9]{1,4}", attempt in 1_u32..20) {
            let schedule = Schedule::default();
            let result = answered(status, Some(&header));
            if let Outcome::Retry { after } = decide(&result, attempt) {
                prop_assert!(after >= schedule.delay_after(attempt).unwrap());
                prop_assert!(schedule.tiers().contains(&after));
            }
        }
    }
}
