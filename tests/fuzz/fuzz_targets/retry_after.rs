//! Handles an arbitrary `Retry-After` header of an endpoint. It must not panic, and the delay must be one of
//! the schedule's tiers.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use webhook::{Answer, AttemptResult, Outcome, Schedule, outcome};

fuzz_target!(|input: (&str, u32, u32)| {
    let (header, attempt, now_s) = input;
    let result = AttemptResult::Answered(Answer {
        status: 503,
        retry_after: Some(header.to_owned()),
        body: Default::default(),
    });
    let (schedule, now) = (
        Schedule::default(),
        SystemTime::UNIX_EPOCH + Duration::from_secs(now_s.into()),
    );
    match outcome(&result, &schedule, attempt, now) {
        Outcome::Retry { after } => {
            assert!(schedule.tiers().contains(&after));
            assert!(Some(after) >= schedule.delay_after(attempt));
        }
        other => assert!(matches!(other, Outcome::Dead { .. }) && attempt >= schedule.attempts()),
    }
});
