//! Tests that an audit says what it cannot know yet, which is neither an alarm nor an all-clear.

use std::future::Future;

use e2e::{Answer, Audit, Installation, Node, Receiver, Role, SOON, now_ms, wait_for, wait_until};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::LONG;

const NOT_KNOWN_YET: Option<i32> = Some(3);
const LATE: [&str; 2] = ["late", "in_no_queue"];

async fn database(installation: &Installation) -> SqliteConnection {
    let path = installation.directory().join("magnetite.db");
    let opened = SqliteConnection::connect(&format!("sqlite://{}", path.display()));
    opened.await.unwrap()
}

async fn execute(database: &mut SqliteConnection, sql: &str) -> u64 {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::query(sql).execute(database).await.unwrap().rows_affected()
}

async fn publish(installation: &Installation, leads: std::ops::Range<usize>) {
    let events: Vec<_> = leads
        .map(|lead| e2e::event("org_1", &format!("lead_{lead}")))
        .collect();
    installation.amqp().publish(&events).await;
}

async fn until<F: Future<Output = Audit>>(
    what: &str,
    mut ask: impl FnMut() -> F,
    is: impl Fn(&Audit) -> bool,
) -> Audit {
    wait_for(what, LONG, || {
        let asking = ask();
        async {
            let audit = asking.await;
            if is(&audit) {
                Ok(audit)
            } else {
                Err(format!("{audit:#?}"))
            }
        }
    })
    .await
}

async fn until_it_balances(installation: &Installation) {
    let balanced = until(
        "the books balance",
        || installation.audit(),
        |audit| audit.balances,
    );
    balanced.await;
}

/// No message is ready in any queue: the recorder holds all of them, but cannot store them.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_recorder_holds_while_its_database_is_locked_is_not_known_yet() {
    let node = Node::start().await;
    let installation = Installation::with("locked", node.url(), &[500], &[]).await;
    let receiver = Receiver::ok().await;
    installation.endpoint("org_1", &receiver.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    publish(&installation, 0..5).await;
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    until_it_balances(&installation).await;

    let mut lock = database(&installation).await;
    execute(&mut lock, "BEGIN IMMEDIATE").await;
    publish(&installation, 5..25).await;
    wait_until("they are delivered", SOON, || receiver.accepted() == 25).await;
    worker.wait_for_unacked("", 0, SOON).await;
    installation.amqp().wait_for_ready("journal", 0, SOON).await;
    let audit = installation.audit().await;
    assert_eq!(audit.code, NOT_KNOWN_YET, "{audit:#?}");
    assert_eq!(audit.findings()[0], "incomplete", "{audit:#?}");
    assert!(audit.of_kind("balance")[0]["ask_again_ms"].is_u64(), "{audit:#?}");
    execute(&mut lock, "ROLLBACK").await;
    until_it_balances(&installation).await;
    assert_eq!(installation.audit().await.number("/events"), 25);
    assert!(recorder.terminate().await && worker.terminate().await);
}

/// Creates ten deliveries that have failed once and wait in a delay queue, and waits until that is recorded.
async fn delayed(name: &str, delay_ms: u64) -> (Node, Installation, Receiver, Role, Role) {
    let node = Node::start().await;
    let installation = Installation::with(name, node.url(), &[delay_ms], &[]).await;
    let receiver = Receiver::new(|_, before| Answer::status(if before == 0 { 500 } else { 200 })).await;
    installation.endpoint("org_1", &receiver.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    publish(&installation, 0..10).await;
    let queue = format!("delay.{delay_ms}");
    installation.amqp().wait_for_ready(&queue, 10, SOON).await;
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    (node, installation, receiver, worker, recorder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_stood_still_for_long_gives_no_false_alarm() {
    let (_node, installation, receiver, worker, recorder) = delayed("still", 10_000).await;
    recorder.signal("STOP").await;
    wait_until("all are delivered", SOON, || receiver.accepted() == 10).await;
    worker.wait_for_unacked("", 0, SOON).await;
    // As if the recorder had been stopped for 100 s.
    let mut database = database(&installation).await;
    let earlier = "UPDATE deliveries SET next_ms = next_ms - 100000 WHERE state = 0";
    assert_eq!(execute(&mut database, earlier).await, 10);
    let audit = installation.audit().await;
    assert_eq!(audit.code, NOT_KNOWN_YET, "{audit:#?}");
    recorder.signal("CONT").await;
    until_it_balances(&installation).await;
    assert!(recorder.terminate().await && worker.terminate().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_that_vanished_are_not_known_yet_and_then_missed() {
    let (node, installation, _receiver, worker, recorder) = delayed("lost", 60_000).await;
    until_it_balances(&installation).await;
    let queue = format!("{}.delay.60000", installation.prefix());
    node.ctl(&["purge_queue", &queue]).await;
    let mut database = database(&installation).await;
    let due_now = "UPDATE deliveries SET next_ms = next_ms - 60000 WHERE state = 0";
    assert_eq!(execute(&mut database, due_now).await, 10);
    let audit = installation.audit().await;
    assert_eq!(
        (audit.code, audit.findings()),
        (NOT_KNOWN_YET, vec!["in_hand"]),
        "{audit:#?}"
    );
    let overdue = "UPDATE deliveries SET next_ms = next_ms - 100000 WHERE state = 0";
    assert_eq!(execute(&mut database, overdue).await, 10);
    let audit = installation.audit().await;
    assert_eq!(audit.code, Some(1), "{audit:#?}");
    assert!(
        audit.findings().iter().any(|found| LATE.contains(found)),
        "{audit:#?}"
    );
    assert!(recorder.terminate().await && worker.terminate().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_that_an_earlier_schedule_delays_are_no_false_alarm() {
    let (_node, mut installation, _receiver, worker, recorder) = delayed("schedule", 60_000).await;
    assert!(worker.terminate().await);
    installation.set("MAGNETITE_RETRY__DELAYS", "500ms,1s");
    let worker = installation.worker().await;
    let audit = installation.audit().await;
    assert!(audit.balances, "{audit:#?}");
    assert_eq!(
        audit.of_kind("queues")[0]["delayed_by_earlier_schedules"],
        10,
        "{audit:#?}"
    );
    assert!(recorder.terminate().await && worker.terminate().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_without_its_event_is_not_known_yet_and_then_wrong() {
    let node = Node::start().await;
    let installation = Installation::with("awaited", node.url(), &[500], &[]).await;
    let receiver = Receiver::ok().await;
    installation.endpoint("org_1", &receiver.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    publish(&installation, 0..1).await;
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    until_it_balances(&installation).await;

    // As if another event had been delivered 30 s ago, and its own record had not arrived.
    let mut database = database(&installation).await;
    let created_ms = now_ms() - 30_000;
    let delivered = format!(
        "INSERT INTO deliveries (id, event_id, created_ms, attempts, recorded, organization_id, endpoint_id, run, trigger, \
         state, updated_ms, next_ms, reason, last_status, last_error, mark) \
         SELECT 'dlv_alone', 'evt_alone', {created_ms}, 0, 0, organization_id, endpoint_id, run, trigger, \
         state, updated_ms, next_ms, reason, last_status, last_error, mark FROM deliveries"
    );
    assert_eq!(execute(&mut database, &delivered).await, 1);
    let audit = installation.audit().await;
    assert_eq!(
        (audit.code, audit.findings()),
        (NOT_KNOWN_YET, vec!["awaited"]),
        "{audit:#?}"
    );
    let created_ms = now_ms() - 120_000;
    let earlier = format!("UPDATE deliveries SET created_ms = {created_ms} WHERE id = 'dlv_alone'");
    assert_eq!(execute(&mut database, &earlier).await, 1);
    let audit = installation.audit().await;
    assert_eq!(
        (audit.code, audit.findings()),
        (Some(1), vec!["unbalanced"]),
        "{audit:#?}"
    );
    assert!(recorder.terminate().await && worker.terminate().await);
}
