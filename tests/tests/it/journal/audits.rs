//! Tests what an audit finds.

use e2e::{Answer, Audit, Installation, Node, Receiver, SOON, wait_for};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::LONG;

async fn execute(installation: &Installation, sql: String) {
    assert_eq!(execute_all(installation, sql).await, 1);
}

/// Executes a statement, and returns the number of changed rows.
async fn execute_all(installation: &Installation, sql: String) -> u64 {
    let path = installation.directory().join("magnetite.db");
    let mut database = SqliteConnection::connect(&format!("sqlite://{}", path.display()))
        .await
        .unwrap();
    let changed = sqlx::query(AssertSqlSafe(sql))
        .execute(&mut database)
        .await
        .unwrap();
    changed.rows_affected()
}

/// Returns an id in one of the listed deliveries: its own `id`, or its `event_id`.
fn id(deliveries: &[Value], row: usize, name: &str) -> String {
    deliveries[row][name].as_str().unwrap().to_owned()
}

/// Returns the first finding of this name, if there is one.
fn finding<'a>(audit: &'a Audit, name: &str) -> Option<&'a Value> {
    let mut findings = audit.of_kind("finding").into_iter();
    findings.find(|found| found["finding"] == name)
}

/// Returns the number of rows of which only the totals show that they are missing.
fn vanished(audit: &Audit) -> u64 {
    let findings = audit.of_kind("finding").into_iter();
    let vanished = findings.filter(|found| found["finding"] == "vanished");
    vanished
        .map(|found| found["count"].as_u64().unwrap())
        .sum::<u64>()
}

/// Deletes an attempt, a delivery and an event of the first three deliveries. The audit has to report each of
/// them. The record of the event could still arrive, so at first only its totals show that it is missing.
async fn delete_single_rows(installation: &Installation, delivered: &[Value]) {
    for (table, condition, name) in [
        (
            "attempts",
            format!("delivery_id = '{}'", id(delivered, 0, "id")),
            "unrecorded",
        ),
        (
            "deliveries",
            format!("id = '{}'", id(delivered, 1, "id")),
            "unbalanced",
        ),
        (
            "events",
            format!("id = '{}'", id(delivered, 2, "event_id")),
            "vanished",
        ),
    ] {
        execute(installation, format!("DELETE FROM {table} WHERE {condition}")).await;
        let audit = installation.audit().await;
        assert!(
            !audit.balances && audit.findings().contains(&name),
            "{table}: {audit:#?}"
        );
    }
    let audit = installation.audit().await;
    let ids = finding(&audit, "unbalanced").unwrap()["ids"].as_array().unwrap();
    assert!(ids.contains(&id(delivered, 1, "event_id").into()), "{audit:#?}");
    assert!(!audit.findings().contains(&"in_no_queue"), "{audit:#?}");
    assert_eq!(vanished(&audit), 3, "{audit:#?}");
}

/// Deletes an event with everything that belongs to it: one event, two deliveries and two attempts. Only the
/// totals show that it is missing. The three rows that were deleted before are missing as well.
async fn delete_whole_event(installation: &Installation, event_id: &str) {
    for (table, condition) in [
        (
            "attempts",
            format!("delivery_id IN (SELECT id FROM deliveries WHERE event_id = '{event_id}')"),
        ),
        ("deliveries", format!("event_id = '{event_id}'")),
        ("events", format!("id = '{event_id}'")),
    ] {
        execute_all(installation, format!("DELETE FROM {table} WHERE {condition}")).await;
    }
    let audit = installation.audit().await;
    assert_eq!(vanished(&audit), 3 + 1 + 2 + 2, "{audit:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_deleted_and_a_queue_that_was_purged_are_found() {
    let node = Node::start().await;
    let installation = Installation::with("audits", node.url(), &[60_000], &[]).await;
    let ok = Receiver::ok().await;
    let failing = Receiver::new(|_, _| Answer::status(500)).await;
    installation.endpoint("org_1", &ok.url()).await;
    installation.endpoint("org_1", &failing.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    let events: Vec<_> = (0..10)
        .map(|lead| e2e::event("org_1", &format!("lead_{lead}")))
        .collect();
    installation.amqp().publish(&events).await;
    installation.amqp().wait_for_ready("delay.60000", 10, SOON).await;
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    let audit = installation.audit().await;
    assert!(audit.balances, "{audit:#?}");
    assert_eq!(
        (audit.number("/matched"), audit.number("/deliveries/pending")),
        (20, 10)
    );

    let delivered = installation
        .json(&["delivery", "list", "--state", "delivered"])
        .await;
    delete_single_rows(&installation, &delivered).await;
    delete_whole_event(&installation, &id(&delivered, 3, "event_id")).await;

    node.ctl(&["purge_queue", &format!("{}.delay.60000", installation.prefix())])
        .await;
    wait_for("the audit misses what was delayed", LONG, || async {
        let audit = installation.audit().await;
        match finding(&audit, "in_no_queue") {
            Some(lost) if lost["count"] == 9 && !audit.balances => Ok(()),
            _ => Err(format!("{audit:#?}")),
        }
    })
    .await;
    assert!(recorder.terminate().await && worker.terminate().await);
}
