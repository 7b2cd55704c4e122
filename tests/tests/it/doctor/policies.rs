//! Tests policies that are set on a real node.

use e2e::{Installation, Node};

use super::{check, doctor};

const DELAYS_MS: [u64; 2] = [1000, 30_000];

/// A policy, and the queues (without the prefix) that it harms.
struct Case {
    definition: &'static str,
    /// The part of the pattern after the prefix.
    pattern: &'static str,
    harmed: &'static [&'static str],
}

const fn case(definition: &'static str, pattern: &'static str, harmed: &'static [&'static str]) -> Case {
    Case {
        definition,
        pattern,
        harmed,
    }
}

const ALL: &[&str] = &[
    "events",
    "due",
    "dead",
    "rejected",
    "journal",
    "delay.1000",
    "delay.30000",
];
const CASES: &[Case] = &[
    case(r#"{"message-ttl":500}"#, "", ALL),
    case(r#"{"message-ttl":60000}"#, "due$", &["due"]),
    case(r#"{"message-ttl":2000}"#, "delay", &["delay.30000"]),
    case(r#"{"expires":1800000}"#, "delay", &["delay.1000", "delay.30000"]),
    case(r#"{"max-length":1}"#, "dead$", &["dead"]),
    case(
        r#"{"max-length":1,"overflow":"drop-head"}"#,
        "journal$",
        &["journal"],
    ),
    case(r#"{"overflow":"drop-head"}"#, "delay.1000$", &["delay.1000"]),
    case(
        r#"{"dead-letter-exchange":"elsewhere"}"#,
        "",
        &["dead", "rejected", "journal"],
    ),
    case(r#"{"delivery-limit":3}"#, "(events|dead)$", &["events", "dead"]),
    // These policies lose no confirmed message.
    case(
        r#"{"max-length-bytes":1000,"overflow":"reject-publish"}"#,
        "journal$",
        &[],
    ),
    case(
        r#"{"delivery-limit":1000000,"queue-leader-locator":"balanced"}"#,
        "",
        &[],
    ),
    case(r#"{"message-ttl":60000}"#, "delay", &[]),
    case(r#"{"message-ttl":1}"#, "other", &[]),
];

async fn set(node: &Node, kind: &str, prefix: &str, case: &Case) {
    let pattern = format!("^{prefix}[.]{}", case.pattern);
    node.ctl(&[
        "-q",
        &format!("set_{kind}"),
        "the-policy",
        &pattern,
        case.definition,
        "--apply-to",
        "queues",
    ])
    .await;
}

async fn clear(node: &Node, kind: &str) {
    node.ctl(&["-q", &format!("clear_{kind}"), "the-policy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_loses_messages_is_named_with_every_queue_that_it_harms() {
    let node = Node::start().await;
    let installation = Installation::with("policies", node.url(), &DELAYS_MS, &[]).await;
    let well = doctor(&installation).await;
    well.lines(&["ok", "policies", "no policy harms the 7 queues"]);
    well.lines(&["ok", "bindings"]);
    assert!(well.is_ok, "{}", well.text);
    for case in CASES {
        set(&node, "policy", installation.prefix(), case).await;
        let said = check(&installation).await;
        assert_eq!(
            said.is_ok,
            case.harmed.is_empty(),
            "{}: {}",
            case.definition,
            said.text
        );
        for queue in ALL {
            let name = format!(
                "different  {}.{queue}  the policy \"the-policy\"",
                installation.prefix()
            );
            let is_named = said.text.contains(&name);
            assert_eq!(
                is_named,
                case.harmed.contains(queue),
                "{queue}, {}: {}",
                case.definition,
                said.text
            );
        }
    }
    clear(&node, "policy").await;
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_policies_and_operators_policies_and_what_to_do() {
    let node = Node::start().await;
    let installation = Installation::with("operators", node.url(), &DELAYS_MS, &[]).await;
    let bad = case(r#"{"message-ttl":60000}"#, "events$", &["events"]);
    for (kind, name) in [
        ("policy", "the policy"),
        ("operator_policy", "the operator policy"),
    ] {
        set(&node, kind, installation.prefix(), &bad).await;
        let said = doctor(&installation).await;
        said.lines(&[
            "fail",
            "policies",
            ".events",
            name,
            "\"the-policy\"",
            "message-ttl = 60000",
        ]);
        said.lines(&["fix: rabbitmqctl clear_", kind, "\"the-policy\""]);
        assert!(!said.is_ok, "{}", said.text);
        assert!(!check(&installation).await.is_ok);
        clear(&node, kind).await;
        assert!(doctor(&installation).await.is_ok, "at once");
    }
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_read_policies_doctor_says_how_to_give_it() {
    let node = Node::start().await;
    let vhost = "a/b c%d";
    for command in [
        &["add_vhost", vhost][..],
        &["add_user", "plain", "pa+ss%40"],
        &["set_permissions", "-p", vhost, "plain", ".*", ".*", ".*"],
    ] {
        node.ctl(&[&["-q"], command].concat()).await;
    }
    let url = |port: u16| format!("amqp://plain:pa+ss%2540@127.0.0.1:{port}/a%2fb%20c%25d");
    let port: u16 = node.url().rsplit(['/', ':']).nth(1).unwrap().parse().unwrap();
    let mut installation = Installation::with("rights", &url(port), &DELAYS_MS, &[]).await;
    for (management, why, advice) in [
        (None, "refuses the user \"plain\"", "rabbitmqctl set_user_tags"),
        (
            Some("http://127.0.0.1:1"),
            "no answer from 127.0.0.1:1",
            "rabbitmq-plugins enable",
        ),
        (
            Some(""),
            "broker.management_url is empty",
            "set broker.management_url",
        ),
    ] {
        if let Some(management) = management {
            installation.set("MAGNETITE_BROKER__MANAGEMENT_URL", management);
        }
        let said = doctor(&installation).await;
        said.lines(&["warn", "policies, bindings", why]);
        said.lines(&["fix:", advice]);
        assert!(said.is_ok, "{}", said.text);
        let said = check(&installation).await;
        said.lines(&["unchecked", why]);
        assert!(said.is_ok, "{}", said.text);
    }
    node.ctl(&["-q", "set_user_tags", "plain", "management"]).await;
    // The first of the two addresses belongs to a node that is down.
    let both = format!("http://127.0.0.1:1,http://127.0.0.1:{}", port + 10_000);
    installation.set("MAGNETITE_BROKER__MANAGEMENT_URL", &both);
    let well = doctor(&installation).await;
    well.lines(&["ok", "policies", "7 queues"]);
    let pattern = "journal$";
    node.ctl(&[
        "-q",
        "set_policy",
        "-p",
        vhost,
        "ttl",
        pattern,
        r#"{"message-ttl":1}"#,
    ])
    .await;
    doctor(&installation)
        .await
        .lines(&["fail", "policies", ".journal", "\"ttl\""]);
    installation.delete().await;
}
