use std::time::Duration;

use service::audit::Marked;
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

fn lost(cause: LostCause) -> Lost {
    Lost {
        worker: "w2".to_owned(),
        from_ms: WINDOW_MS.0 + 3_000,
        until_ms: WINDOW_MS.0 + 4_000,
        cause,
        certain_in_ms: 0,
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
        recorders_heard: 1,
        ..Audit::default()
    }
}

const QUEUES: Queues = Queues {
    journal: 0,
    dead: 0,
    due: 3,
    delayed: 4,
    earlier: 0,
    recorders: 1,
};

fn assessment(audit: Audit, queues: Queues) -> Assessment {
    Assessment::new(audit, Vec::new(), queues, &Marked::Recorded, WINDOW_MS, LATE)
}

fn failing(assessment: &Assessment) -> usize {
    match assessment.conclusion() {
        Conclusion::Balance => 0,
        Conclusion::Wrong { failures } => failures,
        unknown @ Conclusion::NotKnown { .. } => panic!("{unknown:?}"),
    }
}

fn names(assessment: &Assessment) -> Vec<&'static str> {
    assessment.findings.iter().map(|finding| finding.name).collect()
}

#[test]
fn books_that_balance() {
    let assessment = assessment(balanced(), QUEUES);
    assert_eq!((failing(&assessment), assessment.may_settle()), (0, false));
    insta::assert_snapshot!("balanced", text(&assessment).join("\n"));
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
            batches: None,
        }],
        lost: vec![
            lost(LostCause::Dropping {
                records_min: 398,
                is_heard: false,
            }),
            lost(LostCause::Missing { batches: 3 }),
        ],
        ..balanced()
    };
    let assessment = assessment(audit, QUEUES);
    assert_eq!(failing(&assessment), 5);
    insta::assert_snapshot!("all_wrong", text(&assessment).join("\n"));
    let json: Vec<String> = json(&assessment).iter().map(ToString::to_string).collect();
    insta::assert_snapshot!("all_wrong_as_objects", json.join("\n"));
}

#[test]
fn what_a_worker_says_that_it_drops_is_named_and_does_not_fail_and_what_vanished_does() {
    for (cause, failures) in [
        (
            LostCause::Dropping {
                records_min: 1,
                is_heard: true,
            },
            0,
        ),
        (LostCause::Missing { batches: 1 }, 1),
        (LostCause::MissingInTheEnd { batches: 1 }, 1),
    ] {
        let audit = Audit {
            lost: vec![lost(cause)],
            ..balanced()
        };
        let assessment = assessment(audit, QUEUES);
        assert_eq!(failing(&assessment), failures, "{cause:?}");
        let text = text(&assessment).join("\n");
        assert!(text.contains("gap      ") && !text.ends_with("balance"), "{text}");
    }
}

#[test]
fn batches_that_have_not_come_yet_leave_the_books_unknown_until_they_are_lost() {
    let missing = |certain_in_ms| Lost {
        certain_in_ms,
        ..lost(LostCause::MissingInTheEnd { batches: 2 })
    };
    let conclusion = |lost| {
        let audit = Audit { lost, ..balanced() };
        assessment(audit, QUEUES).conclusion()
    };
    let ask_again_ms = WINDOW_MS.1 + 900;
    assert_eq!(
        conclusion(vec![missing(400), missing(900)]),
        Conclusion::NotKnown { ask_again_ms }
    );
    assert_eq!(
        conclusion(vec![missing(0), missing(900)]),
        Conclusion::Wrong { failures: 1 }
    );
}

#[test]
fn sums_that_differ_are_never_right() {
    let audit = Audit {
        first_runs: counts(2, 2, 12, 0),
        matched: 3,
        ..balanced()
    };
    let assessment = assessment(audit, QUEUES);
    assert_eq!((names(&assessment), failing(&assessment)), (vec!["unequal"], 1));
}

#[test]
fn what_was_set_aside_is_a_gap_with_its_number_of_records() {
    let aside = |source: &str, reason: &str| SetAside {
        source: source.to_owned(),
        reason: reason.to_owned(),
        messages: 4,
        from_ms: WINDOW_MS.0 + 5_000,
        until_ms: WINDOW_MS.0 + 6_000,
    };
    let audit = Audit {
        set_aside: vec![
            aside("dead", "unrecordable"),
            aside("journal", "unrecordable"),
            aside("journal", "bad_batch"),
        ],
        ..balanced()
    };
    let assessment = assessment(audit, QUEUES);
    assert_eq!(assessment.conclusion(), Conclusion::Balance);
    let text = text(&assessment);
    insta::assert_snapshot!("set_aside", text[text.len() - 4..].join("\n"));
    let counts: Vec<_> = json(&assessment)[2..]
        .iter()
        .map(|gap| gap["count"].as_u64())
        .collect();
    assert_eq!(counts, [Some(4), Some(4), None]);
}

#[test]
fn what_gaps_explain_is_named_and_does_not_fail() {
    let audit = Audit {
        unbalanced: events(2, 2, &["evt_1", "evt_2"]),
        ..balanced()
    };
    let assessment = assessment(audit, QUEUES);
    assert_eq!(
        (names(&assessment), failing(&assessment)),
        (vec!["unbalanced"], 0)
    );
    let text = text(&assessment).join("\n");
    assert!(text.contains("evt_2") && !text.contains("WRONG"), "{text}");
}

#[test]
fn what_gaps_do_not_explain_fails_whether_or_not_it_is_listed() {
    for (in_gaps, failures) in [(3_000, 0), (2_999, 1)] {
        let audit = Audit {
            unbalanced: events(3_000, in_gaps, &["evt_1", "evt_2"]),
            ..balanced()
        };
        assert_eq!(failing(&assessment(audit, QUEUES)), failures);
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
            failing(&assessment(audit, QUEUES)),
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
        let assessment = assessment(
            audit,
            Queues {
                due,
                delayed,
                ..QUEUES
            },
        );
        assert_eq!(failing(&assessment), wrong, "{pending_settled} {due} {delayed}");
        assert_eq!(assessment.may_settle(), wrong > 0);
    }
}

/// Records that are not written yet may explain any finding, so a stopped recorder causes no false alarm.
#[test]
fn while_something_is_not_recorded_nothing_else_is_known() {
    let not_yet = Marked::NotYet {
        since_ms: WINDOW_MS.1,
    };
    let refused = Marked::Refused {
        error: "the broker does not take it".to_owned(),
    };
    for (journal, dead, recorders, marked) in [
        (1, 0, 1, &Marked::Recorded),
        (0, 1, 0, &Marked::Recorded),
        (0, 0, 2, &Marked::Recorded),
        (0, 0, 1, &not_yet),
        (0, 0, 1, &refused),
    ] {
        let queues = Queues {
            journal,
            recorders,
            dead,
            ..QUEUES
        };
        let audit = Audit {
            pending_settled: 90,
            unbalanced: events(1, 0, &["evt_1"]),
            ..balanced()
        };
        let assessment = Assessment::new(audit, Vec::new(), queues, marked, WINDOW_MS, LATE);
        let ask_again_ms = WINDOW_MS.1 + 10_000;
        assert_eq!(
            assessment.conclusion(),
            Conclusion::NotKnown { ask_again_ms },
            "{marked:?}"
        );
        assert_eq!(names(&assessment), ["incomplete", "unbalanced", "in_no_queue"]);
        assert!(assessment.may_settle());
        let text = text(&assessment).join("\n");
        assert!(
            !text.contains("WRONG") && text.contains("run the audit again at 2023-12-21"),
            "{text}"
        );
    }
}

#[test]
fn what_was_due_lately_and_stands_in_no_queue_is_not_known_unless_workers_have_it() {
    let now_ms = WINDOW_MS.1;
    for (in_hand, held_by_workers, earlier, is_known) in [
        (0, 0, 0, true),
        (3, 3, 0, true),
        (3, 0, 3, true),
        (3, 2, 0, false),
        (3, 1, 1, false),
    ] {
        let audit = Audit {
            pending_in_hand: in_hand,
            in_hand_until_ms: now_ms - 1_000,
            held_by_workers,
            ..balanced()
        };
        let assessment = assessment(audit, Queues { earlier, ..QUEUES });
        let expected = if is_known {
            Conclusion::Balance
        } else {
            Conclusion::NotKnown {
                ask_again_ms: now_ms + 89_000,
            }
        };
        assert_eq!(
            assessment.conclusion(),
            expected,
            "{in_hand} {held_by_workers} {earlier}"
        );
        assert_eq!(assessment.may_settle(), !is_known);
    }
}

#[test]
fn an_event_whose_record_may_still_arrive_is_not_known_yet() {
    let now_ms = WINDOW_MS.1;
    for (in_gaps, expected) in [
        (
            0,
            Conclusion::NotKnown {
                ask_again_ms: now_ms + 60_000,
            },
        ),
        (1, Conclusion::Balance),
    ] {
        let audit = Audit {
            awaited: events(1, in_gaps, &["evt_1"]),
            awaited_until_ms: now_ms - 30_000,
            ..balanced()
        };
        let assessment = assessment(audit, QUEUES);
        assert_eq!(assessment.conclusion(), expected);
        assert_eq!(names(&assessment), ["awaited"]);
        assert!(assessment.may_settle());
    }
    // What is known to be wrong stays wrong.
    let audit = Audit {
        awaited: events(1, 0, &["evt_1"]),
        awaited_until_ms: now_ms - 30_000,
        unbalanced: events(1, 0, &["evt_2"]),
        ..balanced()
    };
    let conclusion = assessment(audit, QUEUES).conclusion();
    assert_eq!(conclusion, Conclusion::Wrong { failures: 1 });
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
