//! Bad input: to the rejected queue with the reason, and the queue goes on.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends at the first surprise and prints its figures"
)]

use std::{collections::HashMap, time::Duration};

use e2e::{Installation, Receiver, event, wait_until};
use lapin::BasicProperties;

const SOON: Duration = Duration::from_secs(20);

/// Every kind of bad body, with the reason it must get.
fn bad_bodies() -> Vec<(Vec<u8>, &'static str)> {
    let good = event("org_1", "lead_1");
    let swap = |from: &str, to: &str| good.replace(from, to).into_bytes();
    let mut invalid_utf8 = good.clone().into_bytes();
    let at = good.find("lead_1").unwrap();
    invalid_utf8[at] = 0xff;
    vec![
        (b"".to_vec(), "not_json"),
        (b"hello".to_vec(), "not_json"),
        (good.as_bytes()[..good.len() - 1].to_vec(), "not_json"),
        (format!("{good}{good}").into_bytes(), "not_json"),
        (b"[]".to_vec(), "not_an_object"),
        (b"\"lead.created\"".to_vec(), "not_an_object"),
        (invalid_utf8, "invalid_utf8"),
        (swap("lead.completed", "lead.complete"), "unknown_event_type"),
        (swap("\"lead.completed\"", "null"), "bad_field"),
        (swap("\"timestamp\":", "\"timestamp\":\"1\",\"t\":"), "bad_field"),
        (swap("\"timestamp\":", "\"timestamp\":-1,\"t\":"), "bad_field"),
        (swap("\"timestamp\":", "\"time\":"), "missing_field"),
        (swap("\"org_1\"", "\"\""), "bad_field"),
        (swap("\"project_id\"", "\"project\""), "missing_field"),
        (swap("\"data\":{", "\"data\":[],\"d\":{"), "bad_field"),
        (
            swap("\"data\":", "\"event\":\"lead.failed\",\"data\":"),
            "duplicate_key",
        ),
        (
            swap(
                "\"data\":{",
                &format!("\"data\":{{\"x\":{}1{},", "[".repeat(200), "]".repeat(200)),
            ),
            "too_deep",
        ),
        (
            swap(
                "\"data\":{",
                &format!("\"data\":{{\"x\":\"{}\",", "x".repeat(256 * 1024)),
            ),
            "too_large",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_bad_message_is_quarantined_with_its_reason_and_good_ones_pass() {
    let installation = Installation::new("rejects").await;
    let receiver = Receiver::ok().await;
    installation.endpoint("org_1", &receiver.url()).await;
    let worker = installation.worker().await;
    let bad = bad_bodies();
    for (n, (body, _)) in bad.iter().enumerate() {
        installation.amqp().publish(&[body]).await;
        installation
            .amqp()
            .publish(&[event("org_1", &n.to_string())])
            .await;
    }
    let bad_id = BasicProperties::default().with_message_id("not an id".into());
    installation
        .amqp()
        .publish_raw(event("org_1", "bad-id").as_bytes(), bad_id)
        .await;
    let expected = bad.len() + 1;
    installation
        .amqp()
        .wait_for_ready("rejected", expected as u32, SOON)
        .await;
    wait_until("the good ones arrive", SOON, || receiver.distinct() == bad.len()).await;

    let rejected = installation.amqp().drain("rejected").await;
    let mut reasons: HashMap<Vec<u8>, String> = HashMap::new();
    for found in &rejected {
        assert_eq!(found.header("magnetite-source"), "events");
        assert!(!found.header("magnetite-detail").is_empty());
        reasons.insert(found.body.to_vec(), found.header("magnetite-reason"));
    }
    for (body, reason) in &bad {
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        assert_eq!(reasons.get(body).map(String::as_str), Some(*reason), "{shown}");
    }
    assert!(reasons.values().any(|reason| reason == "bad_message_id"));
    assert_eq!(
        worker.metric("magnetite_rejected_total", "").await as usize,
        expected
    );
    installation.wait_until_drained(SOON).await;
    assert_eq!(receiver.count(), bad.len());
    installation.delete().await;
}
