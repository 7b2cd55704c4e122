//! Formats a line of the stream as text.

use runtime::time;
use wire::TailLine;

use crate::output;

/// Returns the text of a line, which begins with the time.
pub(super) fn text(line: &TailLine) -> String {
    let words = words(line);
    let printable: Vec<_> = words.iter().map(|word| output::printable(word)).collect();
    printable.join("  ")
}

fn words(line: &TailLine) -> Vec<String> {
    match line {
        TailLine::Watching { at_ms } => beginning(*at_ms, "watching", []),
        TailLine::Interrupted { at_ms } => beginning(*at_ms, "interrupted", []),
        TailLine::Dropped { at_ms, count } => {
            let lines = format!("{count} lines, which were not read in time");
            beginning(*at_ms, "dropped", [lines])
        }
        TailLine::Event {
            at_ms,
            organization_id,
            event_id,
            event_type,
            matched,
            ..
        } => {
            let matched = format!("matched {}", matched.len());
            let ids = [organization_id, event_id, event_type].map(String::clone);
            beginning(*at_ms, "event", ids.into_iter().chain([matched]))
        }
        TailLine::Attempt {
            at_ms,
            organization_id,
            event_id,
            endpoint_id,
            attempt,
            duration_ms,
            status,
            error,
            outcome,
            reason,
            next_ms,
            ..
        } => {
            let ids = [organization_id, event_id, endpoint_id].map(String::clone);
            let number = format!("#{attempt} {}", time::span(*duration_ms));
            let answer = status.map_or_else(|| error.clone(), |status| status.to_string());
            let result = [number, answer, then(outcome, reason.as_deref(), *next_ms)];
            beginning(*at_ms, "attempt", ids.into_iter().chain(result))
        }
        TailLine::Outcome {
            at_ms,
            organization_id,
            event_id,
            endpoint_id,
            outcome,
            reason,
            next_ms,
            ..
        } => {
            let ids = [organization_id, event_id, endpoint_id].map(String::clone);
            let result = then(outcome, reason.as_deref(), *next_ms);
            beginning(*at_ms, "outcome", ids.into_iter().chain([result]))
        }
        TailLine::Gap {
            at_ms, worker, count, ..
        } => {
            let lost = format!("worker {worker} dropped up to {count} records");
            beginning(*at_ms, "gap", [lost])
        }
    }
}

/// Returns the words of a line, which begins with the time and the kind.
fn beginning(at_ms: u64, kind: &str, following: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut words = vec![time::millisecond(at_ms), kind.to_owned()];
    words.extend(following);
    words
}

/// Returns what happens to a delivery.
fn then(outcome: &str, reason: Option<&str>, next_ms: Option<u64>) -> String {
    let mut words = outcome.to_owned();
    if let Some(reason) = reason {
        words = format!("{words} ({reason})");
    }
    match next_ms {
        Some(next_ms) => format!("{words} at {}", time::millisecond(next_ms)),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(status: Option<u16>, error: &str, outcome: &str, next_ms: Option<u64>) -> TailLine {
        TailLine::Attempt {
            at_ms: 1_703_123_456_801,
            organization_id: "org_1".to_owned(),
            event_id: "evt_1".to_owned(),
            event_type: None,
            endpoint_id: "ep_1".to_owned(),
            delivery_id: "dlv_1".to_owned(),
            attempt: 1,
            duration_ms: 12,
            status,
            error: error.to_owned(),
            outcome: outcome.to_owned(),
            reason: None,
            next_ms,
        }
    }

    #[test]
    fn every_record_has_a_line() {
        let event = TailLine::Event {
            at_ms: 1_703_123_456_789,
            organization_id: "org_1".to_owned(),
            event_id: "evt_1".to_owned(),
            event_type: "lead.completed".to_owned(),
            project_id: "p".to_owned(),
            lead_id: "l".to_owned(),
            matched: vec!["ep_1".to_owned()],
        };
        let outcome = TailLine::Outcome {
            at_ms: 1_703_123_456_900,
            organization_id: "org_1".to_owned(),
            event_id: "evt_1".to_owned(),
            event_type: Some("lead.completed".to_owned()),
            endpoint_id: "ep_1".to_owned(),
            delivery_id: "dlv_1".to_owned(),
            outcome: "dead".to_owned(),
            reason: Some("endpoint_disabled".to_owned()),
            next_ms: None,
        };
        let (at_ms, from_ms) = (1_703_123_457_000, 1_703_123_456_000);
        let worker = "5f1c".to_owned();
        let retry_ms = Some(1_703_123_457_801);
        let lines = [
            event,
            attempt(Some(200), "", "delivered", None),
            attempt(Some(500), "status 500", "retry", retry_ms),
            attempt(None, "timeout in\u{1b} connect", "retry", retry_ms),
            outcome,
            TailLine::Gap {
                at_ms,
                from_ms,
                worker,
                count: 3,
            },
            TailLine::Dropped { at_ms, count: 12 },
        ];
        let text: Vec<_> = lines.iter().map(text).collect();
        assert_eq!(
            text,
            [
                "2023-12-21T01:50:56.789Z  event  org_1  evt_1  lead.completed  matched 1",
                "2023-12-21T01:50:56.801Z  attempt  org_1  evt_1  ep_1  #1 12 ms  200  delivered",
                "2023-12-21T01:50:56.801Z  attempt  org_1  evt_1  ep_1  #1 12 ms  500  retry at 2023-12-21T01:50:57.801Z",
                "2023-12-21T01:50:56.801Z  attempt  org_1  evt_1  ep_1  #1 12 ms  timeout in\\u{1b} connect  retry at 2023-12-21T01:50:57.801Z",
                "2023-12-21T01:50:56.900Z  outcome  org_1  evt_1  ep_1  dead (endpoint_disabled)",
                "2023-12-21T01:50:57.000Z  gap  worker 5f1c dropped up to 3 records",
                "2023-12-21T01:50:57.000Z  dropped  12 lines, which were not read in time",
            ]
        );
    }
}
