//! Tests of the screen of a system without troubles, and of one with every trouble.

use broker::{Harm, Inspection, Topology, TopologyFault};
use signature::Secret;
use store::{Activity, Overview, RetentionStop, RoleReport};
use webhook::{Endpoint, EndpointId, OrganizationId};

use super::*;
use crate::command::status::trouble;

const NOW_MS: u64 = 1_795_600_000_000;

fn role(
    role: &str,
    process: &str,
    unseen_s: i64,
    waits_for: Option<&str>,
    degraded: Option<&str>,
) -> RunningRole {
    RunningRole {
        process: process.to_owned(),
        role: role.to_owned(),
        host: "host-1".to_owned(),
        unseen_ms: unseen_s * 1_000,
        report: RoleReport {
            waits_for: waits_for.map(str::to_owned),
            degraded: degraded.map(str::to_owned),
            troubles: None,
        },
    }
}

fn queue(name: &str, ready: u32, rate: f64, consumers: u32) -> Depth {
    Depth {
        name: name.to_owned(),
        full_name: format!("magnetite.{name}"),
        ready,
        rate,
        consumers,
    }
}

fn failing() -> Failing {
    Failing {
        endpoint: Endpoint {
            id: EndpointId::new("ep_8e0d3e107685e7013e1070dba5f85cc2"),
            organization_id: OrganizationId::new("org_1"),
            project_id: None,
            url: "https://example.com".to_owned(),
            subscription: "*".parse().unwrap(),
            secret: Secret::generate([7; 32]),
            previous: None,
            disabled: None,
            version: 1,
            created_at_ms: 0,
            updated_at_ms: 0,
        },
        last_success_ms: None,
        failing_since_ms: NOW_MS - 7_500_000,
        last_failure_ms: NOW_MS - 1_000,
        last_status: None,
        last_error: format!(
            "connection_refused in connect: {}\n",
            "hooks.example.com ".repeat(9)
        ),
        attempts_hour: 40,
        successes_hour: 3,
        pending: 12,
        oldest_pending_ms: Some(NOW_MS - 9_000),
    }
}

fn well() -> Seen {
    Seen {
        now_ms: NOW_MS,
        since_ms: NOW_MS - 3_600_000,
        database: Ok(InDatabase {
            installation: "ins_1".to_owned(),
            roles: vec![
                role("recorder", "5f1c9a0b7d3e2468", 0, None, None),
                role("worker", "6f1c9a0b7d3e2468", 1, None, None),
            ],
            overview: Overview {
                activity: Activity {
                    events_minute: 738,
                    attempts_minute: vec![("delivered".to_owned(), 1_470), ("retry".to_owned(), 72)],
                    last_attempt_ms: Some(NOW_MS - 2_100),
                    pending: 52,
                    oldest_pending_ms: Some(NOW_MS - 123_456),
                    ..Activity::default()
                },
                ..Overview::default()
            },
            failing: vec![failing()],
            rejected: Vec::new(),
            retention_stops: Vec::new(),
        }),
        broker: Ok(OnBroker {
            queues: vec![
                queue("rejected", 0, 0.0, 1),
                queue("dead", 0, 0.0, 1),
                queue("journal", 2, -1.0, 1),
                queue("due", 0, 0.0, 1),
                queue("events", 12, 3.5, 1),
                queue("delay.1000", 52, 0.0, 0),
            ],
            problems: Vec::new(),
            is_blocked: false,
            cut_off: Vec::new(),
            other_installation: None,
            inspection: Ok(Inspection::default()),
        }),
    }
}

/// Returns a state with every trouble at once.
fn ill() -> Seen {
    let mut seen = well();
    if let Ok(database) = &mut seen.database {
        database.roles = vec![
            role(
                "worker",
                "6f1c9a0b7d3e2468",
                0,
                Some("the broker refuses publishing"),
                None,
            ),
            role(
                "worker",
                "7f1c9a0b7d3e2468",
                0,
                None,
                Some("cut off from the database"),
            ),
            role("recorder", "5f1c9a0b7d3e2468", 90, None, None),
            role("api", "5f1c9a0b7d3e2468", 90, None, None),
            role("recorder", "9f1c9a0b7d3e2468", 95, None, None),
        ];
        database.roles[0].unseen_ms = -90_000;
        database.roles[1].report.troubles = Some(
            r#"[{"kind":"poison","subject":"due","detail":"a message (evt_1) was returned 12 times"}]"#
                .to_owned(),
        );
        database.overview.activity.overdue = 7;
        database.overview.gaps = 1;
        database.rejected = vec![("not_json".to_owned(), 3), ("unrecordable".to_owned(), 1)];
        database.retention_stops = vec![RetentionStop {
            host: "host-2".to_owned(),
            reason: "its clock is 40 days ahead".to_owned(),
            since_ms: NOW_MS,
        }];
    }
    if let Ok(broker) = &mut seen.broker {
        broker.is_blocked = true;
        broker.cut_off = vec!["8f1c9a0b7d3e2468".to_owned()];
        broker.other_installation = Some("ins_2".to_owned());
        broker.inspection = Ok(Inspection {
            queues: 6,
            harms: vec![Harm {
                queue: "magnetite.due".to_owned(),
                policy: "expiring".to_owned(),
                is_operators: false,
                setting: "message-ttl = 3000".to_owned(),
                effect: "messages that wait longer are removed".to_owned(),
            }],
            unbound: Topology::new("magnetite", &[]).bindings(),
        });
        broker.problems = vec![TopologyFault {
            name: "magnetite.operations".to_owned(),
            detail: "NOT_FOUND - no exchange 'magnetite.operations' in vhost '/'".to_owned(),
        }];
        broker.queues = vec![
            queue("rejected", 4, 0.0, 0),
            queue("journal", 501, 0.0, 1),
            queue("due", 10_001, 9.0, 1),
            queue("events", 10_001, -9.0, 1),
        ];
    }
    seen
}

fn names(seen: &Seen) -> Vec<String> {
    let troubles = trouble::found(seen).into_iter();
    troubles.map(|trouble| trouble.name.into_owned()).collect()
}

#[test]
fn failing_endpoints_are_shown_and_are_no_trouble() {
    let seen = well();
    assert_eq!(names(&seen), [""; 0]);
    insta::assert_snapshot!(lines(&seen, &[]).join("\n"));
}

#[test]
fn every_trouble_is_named_with_what_to_do() {
    let seen = ill();
    let expected = [
        "no_role",
        "no_role",
        "lost",
        "not_ready",
        "clock",
        "degraded",
        "poison",
        "overdue",
        "gaps",
        "rejected",
        "retention",
        "alarm",
        "topology",
        "installation",
        "cut_off",
        "policy",
        "binding",
        "binding",
        "no_consumer",
        "journal_lag",
        "backlog",
    ];
    assert_eq!(names(&seen), expected);
    insta::assert_snapshot!(lines(&seen, &trouble::found(&seen)).join("\n"));
}

#[test]
fn what_cannot_be_seen_is_a_trouble() {
    let seen = Seen {
        database: Err("connection refused".to_owned()),
        broker: Err("no answer".to_owned()),
        ..well()
    };
    assert_eq!(names(&seen), ["database", "broker"]);
    let object = json(&seen, &trouble::found(&seen));
    assert_eq!(
        (&object["ok"], &object["database"]),
        (&Value::Bool(false), &Value::Null)
    );
}

#[test]
fn what_is_not_checked_is_said_and_is_no_trouble() {
    let mut seen = well();
    if let Ok(broker) = &mut seen.broker {
        broker.inspection = Err("no answer from localhost:15672: connection refused".to_owned());
    }
    assert_eq!(names(&seen), [""; 0]);
    let screen = lines(&seen, &[]).join("\n");
    assert!(
        screen.contains("not checked: policies, bindings: no answer"),
        "{screen}"
    );
    let object = json(&seen, &[]);
    assert!(object["broker"]["not_checked"].is_string(), "{object}");
}

#[test]
fn one_role_that_was_killed_is_no_trouble_while_others_run() {
    let mut seen = well();
    let database = seen.database.as_mut().unwrap();
    database.roles.extend([
        role("worker", "a", 90, None, None),
        role("worker", "b", 5, None, None),
    ]);
    assert_eq!(names(&seen), [""; 0]);
}

#[test]
fn of_many_troubles_some_are_shown_and_all_are_counted() {
    let mut seen = well();
    let database = seen.database.as_mut().unwrap();
    database.roles = (0..100)
        .map(|number| role("worker", &number.to_string(), 0, Some("the broker"), None))
        .collect();
    let troubles = trouble::found(&seen);
    assert_eq!(troubles.len(), 101);
    let lines = lines(&seen, &troubles);
    assert!(lines.len() < 90, "{lines:?}");
    assert!(lines.last().unwrap().contains("and 77 more"), "{lines:?}");
}

#[test]
fn no_line_is_wider_than_the_screen() {
    for seen in [well(), ill()] {
        for line in lines(&seen, &trouble::found(&seen)) {
            assert!(line.chars().count() <= WIDTH, "{line}");
            assert!(!line.contains(char::is_control), "{line:?}");
        }
    }
}

#[test]
fn long_words_are_broken() {
    let text = format!("a {} b", "x".repeat(200));
    let wrapped = wrapped("TROUBLE    ", &text);
    assert_eq!(wrapped.len(), 4);
    assert!(wrapped.iter().all(|line| line.chars().count() <= WIDTH));
}

#[test]
fn batches_that_did_not_come_are_told_unless_they_may_wait_in_the_queue() {
    let told = |waiting: u32, waits_for: Option<&str>| {
        let mut seen = well();
        if let (Ok(database), Ok(broker)) = (&mut seen.database, &mut seen.broker) {
            database.overview.missing_batches = 3;
            database.roles[0].report.waits_for = waits_for.map(str::to_owned);
            for queue in broker.queues.iter_mut().filter(|queue| queue.name == "journal") {
                queue.ready = waiting;
            }
        }
        let screen = lines(&seen, &trouble::found(&seen)).join("\n");
        screen.contains("batches of records that did not arrive: 3")
    };
    assert!(told(0, None));
    assert!(!told(2, None));
    assert!(!told(0, Some("the database is away")));
}
