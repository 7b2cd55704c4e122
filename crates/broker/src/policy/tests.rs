use std::time::Duration;

use serde_json::json;

use super::*;
use crate::Topology;

fn topology() -> Topology {
    Topology::new("m", &[Duration::from_secs(1)])
}

fn policy(name: &str, pattern: &str, priority: i64, definition: &Value) -> Policy {
    let policy = json!({
        "name": name, "pattern": pattern, "priority": priority, "apply-to": "queues", "definition": definition,
    });
    serde_json::from_value(policy).unwrap()
}

/// Returns the effects of a policy of all queues on this queue.
fn harms(queue: &str, definition: &Value) -> Vec<String> {
    let policies = Policies {
        regular: vec![policy("p", ".*", 0, definition)],
        operator: Vec::new(),
        major: Some(3),
    };
    let queue = topology().queue(queue).unwrap();
    let found = policies.harms(&queue, Some("p"));
    found.into_iter().map(|harm| harm.setting).collect()
}

/// A queue of each kind.
const QUEUES: [&str; 7] = [
    "m.events",
    "m.due",
    "m.dead",
    "m.rejected",
    "m.journal",
    "m.delay.1000",
    "m.held.x",
];

/// The definition of a policy, and the queues that it harms.
type Case = (Value, &'static [&'static str]);

fn limits_of_time() -> [Case; 5] {
    [
        (json!({"message-ttl": 999}), &QUEUES),
        (
            json!({"message-ttl": 1000}),
            &[
                "m.events",
                "m.due",
                "m.dead",
                "m.rejected",
                "m.journal",
                "m.held.x",
            ],
        ),
        (
            json!({"message-ttl": 5000}),
            &["m.events", "m.due", "m.dead", "m.rejected", "m.journal"],
        ),
        (json!({"expires": 1_800_000}), &QUEUES),
        (
            json!({"expires": 7_200_000}),
            &[
                "m.events",
                "m.due",
                "m.dead",
                "m.rejected",
                "m.journal",
                "m.delay.1000",
            ],
        ),
    ]
}

fn limits_of_length() -> [Case; 6] {
    [
        (json!({"max-length": 1}), &["m.dead", "m.rejected"]),
        (json!({"max-length-bytes": 1}), &["m.dead", "m.rejected"]),
        (json!({"max-length-bytes": 1, "overflow": "reject-publish"}), &[]),
        (json!({"max-length": 1, "overflow": "drop-head"}), &QUEUES),
        (
            json!({"overflow": "drop-head"}),
            &["m.events", "m.due", "m.journal", "m.delay.1000", "m.held.x"],
        ),
        (json!({"overflow": "reject-publish"}), &[]),
    ]
}

fn dead_lettering() -> [Case; 2] {
    [
        (
            json!({"dead-letter-exchange": "x", "dead-letter-routing-key": "y"}),
            &["m.dead", "m.rejected", "m.journal"],
        ),
        (
            json!({"dead-letter-strategy": "at-most-once", "dead-letter-routing-key": "y"}),
            &[],
        ),
    ]
}

fn limits_of_returns() -> [Case; 3] {
    [
        (
            json!({"delivery-limit": 20}),
            &["m.events", "m.due", "m.dead", "m.rejected", "m.journal"],
        ),
        (
            json!({"delivery-limit": 1000}),
            &["m.dead", "m.rejected", "m.journal"],
        ),
        (json!({"delivery-limit": 1_000_000}), &[]),
    ]
}

fn settings_that_lose_no_message() -> [Case; 1] {
    [(
        json!({"queue-leader-locator": "balanced", "max-in-memory-length": 0, "consumer-timeout": 3_600_000}),
        &[],
    )]
}

#[test]
fn what_loses_or_misplaces_messages_is_harm_and_all_else_is_not() {
    let cases = limits_of_time()
        .into_iter()
        .chain(limits_of_length())
        .chain(dead_lettering())
        .chain(limits_of_returns())
        .chain(settings_that_lose_no_message());
    for (definition, harmed) in cases {
        for queue in QUEUES {
            let found = harms(queue, &definition);
            assert_eq!(
                !found.is_empty(),
                harmed.contains(&queue),
                "{definition} on {queue}: {found:?}"
            );
        }
    }
}

#[test]
fn an_unlimited_number_of_returns_drops_at_the_first_one_before_4() {
    let queue = topology().queue("m.events").unwrap();
    let mut policies = Policies {
        regular: vec![policy("p", ".*", 0, &json!({"delivery-limit": -1}))],
        operator: Vec::new(),
        major: Some(3),
    };
    assert_eq!(policies.harms(&queue, Some("p")).len(), 1);
    policies.major = Some(4);
    assert_eq!(policies.harms(&queue, Some("p")), []);
}

#[test]
fn the_policy_in_force_is_named() {
    let policies = Policies {
        regular: vec![policy(
            "mine",
            "^m",
            0,
            &json!({"message-ttl": 3000, "max-length": 5}),
        )],
        operator: vec![
            policy("weak", "^m", 1, &json!({"message-ttl": 1})),
            policy("theirs", r"^(?!m\.due)m\.", 2, &json!({"message-ttl": 2000})),
            policy("exchanges", "^m", 9, &json!({"message-ttl": 1})),
            policy("other", "^x", 9, &json!({"message-ttl": 1})),
        ],
        major: Some(4),
    };
    let mut policies = policies;
    policies.operator[2].apply_to = "exchanges".to_owned();
    let named = |queue: &str, applied| {
        let found = policies.harms(&topology().queue(queue).unwrap(), applied);
        let texts = found.iter().map(ToString::to_string);
        texts.collect::<Vec<_>>().join("; ")
    };
    let text = named("m.dead", Some("mine"));
    assert!(
        text.contains(r#"the operator policy "theirs" sets message-ttl = 2000"#),
        "{text}"
    );
    assert!(
        text.contains(r#"the policy "mine" sets max-length = 5"#),
        "{text}"
    );
    assert!(named("m.due", None).contains("weak"), "theirs does not match it");
    assert!(!named("m.events", None).contains("mine"));
}

#[test]
fn a_queue_is_known_by_its_name() {
    let topology = topology();
    for known in ["m.events", "m.delay.1000", "m.delay.77", "m.held.0123"] {
        assert_eq!(topology.queue(known).unwrap().name, known);
    }
    for foreign in [
        "m",
        "m.",
        "events",
        "mm.events",
        "m.x.events",
        "m.delay.x",
        "m.changes.w.0",
        "m.doctor.1",
    ] {
        assert_eq!(topology.queue(foreign), None, "{foreign}");
    }
}
