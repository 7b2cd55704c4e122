//! Handles an arbitrary `Retry-After` header of an endpoint. It must not panic, and the delay must be one of
//! the schedule's tiers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use webhook::{Answer, AttemptResult, Outcome, Schedule, Trigger, outcome};

fuzz_target!(|input: (&str, u32, u32)| {
    let (header, attempt, now_s) = input;
    let result = AttemptResult::Answered(Answer {
        status: 503,
        retry_after: Some(header.to_owned()),
        body: Default::default(),
    });
    let (schedule, now_ms) = (Schedule::default(), u64::from(now_s) * 1_000);
    match outcome(&result, Trigger::Event, &schedule, attempt, now_ms) {
        Outcome::Retry { after } => {
            assert!(schedule.tiers().contains(&after));
            assert!(Some(after) >= schedule.delay_after(attempt));
        }
        other => assert!(matches!(other, Outcome::Dead { .. }) && attempt >= schedule.attempts()),
    }
});
