//! The state of one organization, as the HTTP API returns it: its judgement and its screen.

use std::time::Duration;

use client::Client;
use serde_json::{Value, json};
use tokio::time::timeout;
use wire::Status;

use crate::remote;

use super::{
    screen,
    trouble::{self, Trouble, trouble},
};

/// The maximum time for an answer of the API, including the client's repeats.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The state of the organization, or why it could not be read.
#[derive(Debug)]
pub(super) struct State {
    now_ms: u64,
    since_ms: u64,
    status: Result<Status, String>,
}

/// Reads the state.
///
/// # Errors
/// Returns an error if the API refuses the request. An API that is away is part of the state.
pub(super) async fn look(client: &Client, since_ms: u64, now_ms: u64) -> anyhow::Result<State> {
    let status = match timeout(ANSWER_MAX, client.get_status(Some(since_ms))).await {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(error)) if error.is_transient() => Err(format!("{:#}", remote::told(error))),
        Ok(Err(error)) => return Err(remote::told(error)),
        Err(_) => Err(format!("no answer within {ANSWER_MAX:?}")),
    };
    Ok(State {
        now_ms,
        since_ms,
        status,
    })
}

/// Returns everything that needs attention. Unlike on the screen of the whole system, this includes failing
/// endpoints, because the organization is the one that can repair them.
pub(super) fn found(state: &State) -> Vec<Trouble> {
    let status = match &state.status {
        Ok(status) => status,
        Err(error) => {
            return vec![trouble(
                "api",
                format!("API: {error}"),
                "try again later, or ask the operator; deliveries continue without the API",
            )];
        }
    };
    let failing = status.endpoints.failing;
    let failing = (failing > 0).then(|| {
        trouble(
            "failing",
            format!("endpoints that fail: {failing}"),
            "`magnetite endpoint list --failing` says since when and why; repair them",
        )
    });
    let overdue = trouble::overdue(
        status.activity.overdue,
        "they are still made; if the number does not fall, ask the operator",
    );
    failing.into_iter().chain(overdue).collect()
}

/// Returns the lines of the screen.
pub(super) fn lines(state: &State, troubles: &[Trouble]) -> Vec<String> {
    let mut lines = vec![screen::heading(state.now_ms)];
    if let Ok(status) = &state.status {
        let endpoints = status.endpoints;
        lines.push(String::new());
        lines.push(format!(
            "ENDPOINTS  {}, disabled {}",
            endpoints.all, endpoints.disabled
        ));
        lines.extend(screen::activity(&status.activity, status.at_ms, status.since_ms));
        lines.extend(screen::failing(endpoints.failing, &status.failing, status.at_ms));
    }
    lines.extend(screen::verdict(troubles));
    lines
}

/// Returns the JSON object.
pub(super) fn json(state: &State, troubles: &[Trouble]) -> Value {
    json!({
        "at_ms": state.now_ms,
        "since_ms": state.since_ms,
        "ok": troubles.is_empty(),
        "troubles": troubles,
        "organization": state.status.as_ref().ok(),
    })
}

#[cfg(test)]
mod tests {
    use wire::{Activity, AttemptCounts, EndpointCounts};

    use super::*;

    const NOW_MS: u64 = 1_795_600_000_000;

    fn state(failing: u64, overdue: u64) -> State {
        let status = Status {
            at_ms: NOW_MS,
            since_ms: NOW_MS - 3_600_000,
            endpoints: EndpointCounts {
                all: 3,
                disabled: 1,
                failing,
            },
            activity: Activity {
                events_last_minute: 738,
                attempts_last_minute: AttemptCounts {
                    delivered: 1_470,
                    retry: 72,
                    ..AttemptCounts::default()
                },
                last_attempt_ms: Some(NOW_MS - 2_100),
                pending: 52,
                oldest_pending_ms: Some(NOW_MS - 123_456),
                overdue,
                dead: 4,
            },
            failing: Vec::new(),
        };
        State {
            now_ms: NOW_MS,
            since_ms: NOW_MS - 3_600_000,
            status: Ok(status),
        }
    }

    fn names(state: &State) -> Vec<String> {
        let troubles = found(state).into_iter();
        troubles.map(|trouble| trouble.name.into_owned()).collect()
    }

    #[test]
    fn the_screen_has_the_lines_that_an_organization_has() {
        let state = state(0, 0);
        let expected = "\
MAGNETITE                                                2026-11-25 09:46:40 UTC

ENDPOINTS  3, disabled 1
EVENTS     12.3/s in the last minute
ATTEMPTS   delivered 24.5/s, retry 1.2/s
           the last one recorded: 2 s ago
PENDING    52, the oldest for 2m 3s
DEAD       4 of the deliveries created in the last 1h
FAILING    endpoints 0

OK         nothing needs attention";
        assert_eq!(lines(&state, &found(&state)).join("\n"), expected);
        let object = json(&state, &[]);
        assert_eq!(
            (&object["ok"], &object["organization"]["dead"]),
            (&json!(true), &json!(4))
        );
    }

    #[test]
    fn failing_endpoints_and_overdue_deliveries_need_attention() {
        assert_eq!(names(&state(2, 1)), ["failing", "overdue"]);
        assert_eq!(names(&state(0, 0)), [""; 0]);
    }

    #[test]
    fn an_api_that_is_away_needs_attention() {
        let away = State {
            status: Err("no answer".to_owned()),
            ..state(0, 0)
        };
        assert_eq!(names(&away), ["api"]);
        assert!(json(&away, &found(&away))["organization"].is_null());
        assert!(
            lines(&away, &found(&away))
                .join("\n")
                .contains("TROUBLE    API: no answer")
        );
    }
}
