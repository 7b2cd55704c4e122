//! The recent health of an endpoint.

use runtime::time;
use serde::Serialize;
use wire::{Endpoint, Health};

use crate::output;

/// An endpoint as `show --json` prints it.
#[derive(Serialize)]
pub(super) struct WithHealth {
    #[serde(flatten)]
    pub(super) endpoint: Endpoint,
    pub(super) health: Health,
}

/// Formats the health as fields that follow those of the endpoint.
pub(super) fn describe(health: &Health, now_ms: u64) -> String {
    let time = |unix_ms: Option<u64>| match unix_ms {
        Some(unix_ms) => format!(
            "{} ({} ago)",
            time::second(unix_ms),
            time::span(now_ms.saturating_sub(unix_ms))
        ),
        None => "-".to_owned(),
    };
    output::fields(&[
        ("last success", time(health.last_success_ms)),
        ("failing since", time(health.failing_since_ms)),
        ("last hour", last_hour(health)),
    ])
}

fn last_hour(health: &Health) -> String {
    let (Some(rate), Some(p50_ms), Some(p99_ms)) = (
        health.success_rate_last_hour,
        health.p50_ms_last_hour,
        health.p99_ms_last_hour,
    ) else {
        return "no attempts".to_owned();
    };
    format!(
        "attempts: {}, successful: {:.1}%, p50 {}, p99 {}",
        health.attempts_last_hour,
        rounded_down(rate * 100.0),
        time::span(p50_ms),
        time::span(p99_ms)
    )
}

/// Rounds down to a tenth, so that one failure among many does not read as 100%.
fn rounded_down(percent: f64) -> f64 {
    (percent * 10.0).floor() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    #[test]
    fn health_in_words() {
        let health = Health {
            last_success_ms: Some(NOW_MS - 7_500_000),
            failing_since_ms: Some(NOW_MS - 7_200_000),
            attempts_last_hour: 10_000,
            success_rate_last_hour: Some(0.9999),
            p50_ms_last_hour: Some(34),
            p99_ms_last_hour: Some(30_000),
        };
        assert_eq!(
            describe(&health, NOW_MS),
            "last success   2023-11-14T20:08:20Z (2h 5m ago)\n\
             failing since  2023-11-14T20:13:20Z (2h ago)\n\
             last hour      attempts: 10000, successful: 99.9%, p50 34 ms, p99 30 s"
        );
    }

    #[test]
    fn an_endpoint_that_was_never_asked_has_no_rate() {
        let health = Health {
            last_success_ms: None,
            failing_since_ms: None,
            attempts_last_hour: 0,
            success_rate_last_hour: None,
            p50_ms_last_hour: None,
            p99_ms_last_hour: None,
        };
        assert_eq!(
            describe(&health, NOW_MS),
            "last success   -\nfailing since  -\nlast hour      no attempts"
        );
    }
}
