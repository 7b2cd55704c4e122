use store::{Findings, Late, Unbalanced, Unrecorded};
use webhook::{DeliveryId, EndpointId, EventId, OrganizationId, journal::Gap};

use super::*;

const WINDOW_MS: (u64, u64) = (1_703_037_056_000, 1_703_123_456_000);
const LATE: Duration = Duration::from_secs(1_170);

fn events(total: u64, in_gaps: u64, of: &[&str]) -> Findings<Unbalanced> {
    let item = |id: &&str| Unbalanced {
        organization_id: OrganizationId::new("org_1"),
        event_id: EventId::new(*id),
        received_ms: WINDOW_MS.0,
        matched: Some(2),
        deliveries: 1,
    };
    Findings {
        total,
        in_gaps,
        items: of.iter().map(item).collect(),
    }
}

fn unrecorded_ones(in_gaps: u64, of: &[&str]) -> Findings<Unrecorded> {
    let item = |id: &&str| Unrecorded {
        delivery_id: DeliveryId::new(*id),
        endpoint_id: EndpointId::new("ep_1"),
        created_ms: WINDOW_MS.0,
        attempts: 2,
        recorded: 1,
    };
    Findings {
        total: of.len() as u64,
        in_gaps,
        items: of.iter().map(item).collect(),
    }
}

fn late(total: u64, id: &str) -> Findings<Late> {
    Findings {
        total,
        in_gaps: 0,
        items: vec![Late {
            delivery_id: DeliveryId::new(id),
            organization_id: OrganizationId::new("org_1"),
            event_id: EventId::new("evt_1"),
            endpoint_id: EndpointId::new("ep_1"),
            created_ms: WINDOW_MS.0,
            next_ms: WINDOW_MS.0,
        }],
    }
}

fn counts(delivered: u64, dead: u64, cancelled: u64, pending: u64) -> StateCounts {
    StateCounts {
        pending,
        cancelled,
        dead,
        delivered,
    }
}

fn balanced() -> Audit {
    Audit {
        events: 1_000,
        matched: 2_000,
        first_runs: counts(1_980, 10, 4, 6),
        resends: counts(7, 0, 0, 1),
        pending_settled: 7,
        ..Audit::default()
    }
}

const QUEUES: Queues = Queues {
    journal: 0,
    dead: 0,
    due: 3,
    delayed: 4,
};

fn verdict(audit: Audit, queues: Queues) -> Verdict {
    Verdict::new(audit, Vec::new(), queues, WINDOW_MS, LATE)
}

fn names(verdict: &Verdict) -> Vec<&'static str> {
    verdict.findings.iter().map(|finding| finding.name).collect()
}

#[test]
fn books_that_balance() {
    let verdict = verdict(balanced(), QUEUES);
    assert_eq!((verdict.failures(), verdict.may_settle()), (0, false));
    insta::assert_snapshot!("balanced", verdict.text().join("\n"));
}

#[test]
fn everything_wrong_at_once() {
    let audit = Audit {
        first_runs: counts(1_980, 10, 4, 5),
        unbalanced: events(1, 0, &["evt_1"]),
        unrecorded: unrecorded_ones(2, &["dlv_1", "dlv_2", "dlv_3"]),
        late: late(1_500, "dlv_4"),
        unsent: 2,
        pending_settled: 9,
        gaps: vec![Gap {
            worker: "w1".to_owned(),
            from_ms: WINDOW_MS.0 + 1_000,
            until_ms: WINDOW_MS.0 + 2_000,
            count: 40,
        }],
        ..balanced()
    };
    let queues = Queues {
        journal: 12,
        dead: 1,
        ..QUEUES
    };
    let verdict = verdict(audit, queues);
    assert_eq!(verdict.failures(), 5);
    insta::assert_snapshot!("all_wrong", verdict.text().join("\n"));
    let json: Vec<String> = verdict.json().iter().map(ToString::to_string).collect();
    insta::assert_snapshot!("all_wrong_as_objects", json.join("\n"));
}

#[test]
fn what_gaps_explain_is_named_and_does_not_fail() {
    let audit = Audit {
        unbalanced: events(2, 2, &["evt_1", "evt_2"]),
        ..balanced()
    };
    let verdict = verdict(audit, QUEUES);
    assert_eq!((names(&verdict), verdict.failures()), (vec!["unbalanced"], 0));
    let text = verdict.text().join("\n");
    assert!(text.contains("evt_2") && !text.contains("WRONG"), "{text}");
}

#[test]
fn what_gaps_do_not_explain_fails_whether_or_not_it_is_listed() {
    for (in_gaps, failures) in [(3_000, 0), (2_999, 1)] {
        let audit = Audit {
            unbalanced: events(3_000, in_gaps, &["evt_1", "evt_2"]),
            ..balanced()
        };
        assert_eq!(verdict(audit, QUEUES).failures(), failures);
    }
}

#[test]
fn a_delivery_that_may_have_ended_in_a_gap_is_not_missed_in_the_queues() {
    for (pending_settled, pending_in_gaps, failures) in [(9, 2, 0), (9, 1, 1), (7, 5, 0)] {
        let audit = Audit {
            pending_settled,
            pending_in_gaps,
            ..balanced()
        };
        assert_eq!(
            verdict(audit, QUEUES).failures(),
            failures,
            "{pending_settled} {pending_in_gaps}"
        );
    }
}

#[test]
fn one_delivery_more_than_the_queues_hold_is_found() {
    for (pending_settled, due, delayed, wrong) in [
        (7, 3, 4, 0),
        (8, 3, 4, 1),
        (8, 0, 8, 0),
        (0, 9, 9, 0),
        (1, 0, 0, 1),
    ] {
        let audit = Audit {
            pending_settled,
            ..balanced()
        };
        let verdict = verdict(
            audit,
            Queues {
                due,
                delayed,
                ..QUEUES
            },
        );
        assert_eq!(verdict.failures(), wrong, "{pending_settled} {due} {delayed}");
        assert_eq!(verdict.may_settle(), wrong > 0);
    }
}

#[test]
fn books_that_are_not_complete_are_asked_again_and_then_fail() {
    for (journal, dead) in [(1, 0), (0, 1)] {
        let verdict = verdict(
            balanced(),
            Queues {
                journal,
                dead,
                ..QUEUES
            },
        );
        assert_eq!((names(&verdict), verdict.failures()), (vec!["incomplete"], 1));
        assert!(verdict.may_settle());
    }
}

#[test]
fn of_two_counts_the_greater_of_each_queue_counts() {
    let (one, other) = (
        QUEUES,
        Queues {
            due: 5,
            delayed: 1,
            ..QUEUES
        },
    );
    assert_eq!(
        one.max(other),
        Queues {
            due: 5,
            delayed: 4,
            ..QUEUES
        }
    );
}
